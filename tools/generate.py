"""Writes every generated file from its source, or with --check says which ones are stale.

    crds/*.yaml                              from operator/lowbeam/api
    charts/lowbeam/templates/crds/*.yaml     the same bytes, wrapped in the chart's switches
    charts/lowbeam/files/dashboard.json      from tools/dashboard.py
    docs/reference/*.md                      from the field descriptions; metrics.md from the operator's metrics,
                                             alerts.md from the chart's rules

Never edits anything else. Exit code 1 when --check finds a difference.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lowbeam.api.crdgen import render_crds
from lowbeam.api.reference import render_reference
from tools.alertspage import render_alerts
from tools.chartsync import chart_crds
from tools.dashboard import DASHBOARD, render_dashboard
from tools.metricspage import render_metrics

ROOT = Path(__file__).resolve().parent.parent


def generated_files() -> dict[Path, str]:
    """Every generated file with its content."""
    crds = render_crds()
    return {
        **{ROOT / "crds" / name: text for name, text in crds.items()},
        **chart_crds(crds),
        DASHBOARD: render_dashboard(),
        **{ROOT / "docs" / "reference" / name: text for name, text in render_reference().items()},
        ROOT / "docs" / "reference" / "metrics.md": render_metrics(),
        ROOT / "docs" / "reference" / "alerts.md": render_alerts(),
    }


def main() -> int:
    """Write or check; print one line per file that changed."""
    parser = argparse.ArgumentParser(prog="python -m tools.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file is stale")
    check = parser.parse_args().check
    stale = [p for p, text in generated_files().items() if not p.exists() or p.read_text() != text]
    for path in stale:
        print(f"{'stale' if check else 'wrote'} {path.relative_to(ROOT)}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(generated_files()[path])
    if check and stale:
        print("run `make generate` and commit the result")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
