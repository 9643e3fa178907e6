"""The chart's copies of crds/: the same bytes, wrapped in the chart's two switches.

Decides the wrapping only; `tools/generate.py` writes the files. `python -m tools.chartsync` writes them alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "charts" / "lowbeam" / "templates" / "crds"

_KEEP = """\
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""


def chart_crds(crds: Mapping[str, str]) -> dict[Path, str]:
    """Path in the chart -> template, for every file of crds/ (name -> YAML). Raises ValueError where that cannot be."""
    return {TARGET / name: _wrapped(name, text) for name, text in crds.items()}


def _wrapped(name: str, text: str) -> str:
    if "{{" in text:
        raise ValueError(
            f"crds/{name}: Helm would take the braces in it for a template; rephrase the description or rule"
        )
    head, line, tail = text.partition(
        f"\n  name: {name.removeprefix('lowbeam.dev_').removesuffix('.yaml')}.lowbeam.dev\n"
    )
    if not line:
        raise ValueError(f"crds/{name}: no metadata.name where it was expected")
    return f"{{{{- if .Values.crds.install }}}}\n{head}{line}{_KEEP}{tail}{{{{- end }}}}\n"


def main() -> int:
    """Write the copies of what lies in crds/."""
    for path, text in chart_crds({f.name: f.read_text() for f in sorted((ROOT / "crds").glob("*.yaml"))}).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
