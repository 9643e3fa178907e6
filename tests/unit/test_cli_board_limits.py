"""`--board-limits`: what a plan would be if agents on the nodes set power limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lowbeam.cli import main

SAMPLES = str(Path(__file__).parents[2] / "workloads" / "samples")
NODES = ("-f", SAMPLES, "--inventory", "h100=32,l4=16,cpu=8", "--cap", "5kW")


def planned(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, dict[str, Any]]:
    """The options by the name of the workload."""
    assert main(["plan", *NODES, "-o", "json", *flags]) == 0
    rows = json.loads(capsys.readouterr().out)["workloads"]
    return {it["name"]: it["option"] for it in rows if it["option"] is not None}


def test_a_plan_limits_boards_only_when_it_is_told_that_agents_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert {it["boardLimitWatts"] for it in planned(capsys).values()} == {0}
    assert {it["boardLimitWatts"] for it in planned(capsys, "--board-limits").values()} > {0}


def test_the_table_and_the_explanation_say_which_limit(capsys: pytest.CaptureFixture[str]) -> None:
    name, option = next(it for it in planned(capsys, "--board-limits").items() if it[1]["boardLimitWatts"])
    boards = f" x{option['acceleratorsPerReplica']}" if option["acceleratorsPerReplica"] > 1 else ""
    where, watts = f"{option['acceleratorClass']}{boards}", option["boardLimitWatts"]
    assert main(["plan", *NODES, "--board-limits"]) == 0
    assert f"{where} {watts} W" in capsys.readouterr().out
    assert main(["explain", name, *NODES, "--board-limits"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"{where} at {watts} W, batch <= {option['batchLimit']}" in text
    assert f"basis worked out for {watts} W a board" in text
