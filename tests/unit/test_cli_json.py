"""The JSON of `plan`, `explain` and `top` is a contract: every field is in the reference page, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.cli import main
from lowbeam.cli.top import top_data
from lowbeam.cli.top.rows import cap_rows, workload_rows
from lowbeam.cli.top.view import Picture
from tests.raw_objects import iw, pcap

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reference/json.md").read_text(encoding="utf-8")
SAMPLES = str(ROOT / "workloads" / "samples")
HOPELESS = """
apiVersion: lowbeam.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: hopeless}
spec:
  task: text-classification
  load: {requestsPerMinute: 60, inputTokens: 100, outputTokens: 1}
  quality: {benchmark: sst2, floor: "99.9"}
  latency: {interTokenMilliseconds: 50}
---
apiVersion: lowbeam.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: misspelt}
spec:
  task: text-classificaton
  load: {requestsPerMinute: 60, inputTokens: 100, outputTokens: 1}
---
apiVersion: lowbeam.dev/v1alpha1
kind: PowerCap
metadata: {name: nightly}
spec:
  scope: {cluster: {}}
  watts: 50000
  schedule: [{name: night, cron: "0 22 * * *", durationMinutes: 60, percent: 90}]
"""
OBJECTS = {"option", "desired", "workloads[]", "caps[]", "cost", "status"}
TYPES = {"string": str, "integer": int, "boolean": bool, "number": (int, float), "object": dict, "null": type(None)}


def documented(section: str) -> dict[str, tuple[type, ...]]:
    """Field -> types of one table of the page."""
    found: dict[str, tuple[type, ...]] = {}
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    for names, kinds in re.findall(r"^\| (`.+?`) \| ([a-z ]+) \|", text, re.MULTILINE):
        types: list[type] = []
        for kind in kinds.split(" or "):
            known = TYPES[kind]
            types += known if isinstance(known, tuple) else [known]
        found |= dict.fromkeys(re.findall(r"`(.+?)`", names), tuple(types))
    return found


def printed(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Field -> value; an option is one value: it has its own table."""
    for name, inner in value.items():
        path = f"{at}.{name}" if at else name
        if isinstance(inner, dict) and name not in OBJECTS:
            yield from printed(inner, path)
        elif isinstance(inner, list):
            for item in inner:
                if isinstance(item, dict) and f"{path}[]" not in OBJECTS - {"caps[]"}:
                    yield from printed(item, f"{path}[]")
                else:
                    yield f"{path}[]", item
        else:
            yield path, inner


def options_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "expectedMilliwatts" in value and "model" in value:
            yield value
        for inner in value.values():
            yield from options_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from options_in(inner)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A plan in which everything happens that the page speaks of."""
    extra = tmp_path_factory.mktemp("plan") / "hopeless.yaml"
    extra.write_text(HOPELESS)
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *it, **_: lines.append(" ".join(map(str, it))))
        main(["plan", "-f", SAMPLES, "-f", str(extra), *INVENTORY, "--cap", "6kW", *PRICES, *AT, "-o", "json"])
    found: dict[str, Any] = json.loads(lines[0])
    return found


INVENTORY = ["--inventory", "h100=16,l4=24,cpu=8"]
AT = ["--at", "2026-11-20T21:58Z"]
PRICES = ["--price", "h100=2.50", "--kwh", "0.25"]


def agree(section: str, values: list[tuple[str, Any]], *, absent: frozenset[str] = frozenset()) -> None:
    fields = documented(section)
    assert {path for path, _ in values} == fields.keys() - absent
    for path, value in values:
        allowed = fields[path]
        fits = isinstance(value, allowed) and (not isinstance(value, bool) or bool in allowed)
        assert fits, f"{path}: {value!r} is not one of {allowed}"


def test_a_plan_has_the_documented_fields(plan: dict[str, Any]) -> None:
    agree("Plan", list(printed(plan)))


def test_a_workload_has_the_documented_fields(plan: dict[str, Any]) -> None:
    values = [pair for workload in plan["workloads"] for pair in printed(workload)]
    agree("Workload", values, absent=frozenset({"status"}))


def test_an_option_has_the_documented_fields(plan: dict[str, Any]) -> None:
    values: list[tuple[str, Any]] = []
    for option in options_in(plan["workloads"]):
        values += [("cost", option["cost"]), *printed({k: v for k, v in option.items() if k != "cost"})]
        values += [(f"cost.{name}", it) for name, it in (option["cost"] or {}).items()]
    agree("Option", values)


def test_an_explanation_is_the_workload_of_the_plan_and_yaml_says_the_same(
    plan: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["explain", "iw/triage", "-f", SAMPLES, *INVENTORY, "--cap", "6kW", *PRICES]
    assert main([*question, "-o", "json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert as_json == next(it for it in plan["workloads"] if it["name"] == "triage")
    assert main([*question, "-o", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == as_json


def test_a_look_at_the_cluster_has_the_documented_fields() -> None:
    told: dict[str, Any] = {"selected": {"model": "m", "replicas": 1}, "history": [{"action": "Selected"}]}
    workloads = [iw("a"), {**iw("b"), "status": {**told, "energy": {"joulesPerRequest": "0.4", "stars": "**"}}}]
    caps = [pcap("c"), {**pcap("d"), "status": {"state": "WithinCap", "usableWatts": 950}}]
    data = top_data(Picture(cap_rows(caps), workload_rows(workloads), None), datetime(2026, 11, 22, tzinfo=UTC), 1)
    assert data["notShown"] == 1
    lists = [("caps[]", it) for it in data["caps"]] + [("workloads[]", it) for it in data["workloads"]]
    values = [(f"{at}.{name}", value) for at, it in lists for name, value in it.items()]
    agree("Top", [*values, *((name, it) for name, it in data.items() if not isinstance(it, list))])
