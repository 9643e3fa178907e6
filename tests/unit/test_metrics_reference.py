"""docs/reference/metrics.md has every metric that the operator serves, as a query has to spell it."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from lowbeam.runtime.metrics import REGISTRY, ApiCalls
from lowbeam.runtime.object_metrics import ObjectMetrics
from lowbeam.runtime.world import Objects
from tools.generate import generated_files

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def test_every_metric_that_is_served_is_on_the_page_with_its_type_and_meaning() -> None:
    others = CollectorRegistry()
    others.register(ApiCalls({("list", "pods"): 1}))
    others.register(ObjectMetrics(Objects))
    served = (generate_latest(REGISTRY) + generate_latest(others)).decode()
    rows = {
        name: (kind, text)
        for name, kind, text in re.findall(r"^\| `(\S+)` \| (\w+) \| .*\| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    }
    kinds = dict(re.findall(r"^# TYPE (\S+(?<!_created)) (\w+)$", served, re.MULTILINE))
    assert {name: kind for name, (kind, _) in rows.items()} == kinds
    for name, (_, text) in rows.items():
        assert f"# HELP {name} {text}\n" in served


def test_the_page_shows_the_labels_and_is_up_to_date() -> None:
    text = PAGE.read_text()
    assert "| `lowbeam_workload_dimmed` | gauge | `namespace`, `workload` |" in text
    assert "| `lowbeam_api_calls_total` | counter | `verb`, `resource` |" in text
    assert generated_files()[PAGE] == text
