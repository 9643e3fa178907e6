"""The page of the alerts, from the rule file that the chart ships.

Decides the layout only; `tools/generate.py` writes the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).resolve().parents[1] / "charts" / "lowbeam" / "files" / "alerts.yaml"
_HEAD = """\
<!-- Generated from charts/lowbeam/files/alerts.yaml. Do not edit. -->

# Alerts

With Helm's `metrics.podMonitor.enabled` and `metrics.prometheusRule.enabled` the Prometheus operator scrapes operator,
agents and the pods of all workloads, and evaluates these. A Prometheus without it takes
`charts/lowbeam/files/alerts.yaml` as a rule file; [metrics.md](metrics.md) says how it should scrape. Severities:
`critical`, nobody keeps a cap; `warning`, somebody should look today; `info`, worth knowing. With
`metrics.prometheusRule.runbookUrl`, the address where you publish this page, each alert leads to its section.
"""


def render_alerts() -> str:
    """The page: one section per group, one entry per alert."""
    return _HEAD + "".join(_section(group) for group in yaml.safe_load(RULES.read_text())["groups"])


def _section(group: dict[str, Any]) -> str:
    return f"\n## {group['name']}\n" + "".join(_entry(rule) for rule in group["rules"])


def _entry(rule: dict[str, Any]) -> str:
    notes = rule["annotations"]
    lasting = f" for {rule['for']}" if "for" in rule else ""
    return (
        f"\n### {rule['alert']}\n\n`{rule['labels']['severity']}`{lasting}: {notes['summary']}.\n\n"
        f"{notes['description']}\n\n```promql\n{rule['expr'].strip()}\n```\n"
    )
