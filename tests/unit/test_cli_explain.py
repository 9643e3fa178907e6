"""What `lowbeam explain` says about one workload, from files and from a cluster, and which one it takes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lowbeam.api.v1alpha1.loading import read_documents
from lowbeam.cli import explain, main, manifests
from lowbeam.runtime.world import World
from tests.raw_objects import GOOD

SAMPLES = str(Path(__file__).resolve().parents[2] / "workloads" / "samples")
INVENTORY = "h100=32,a100=32,l4=16,cpu=8"


def test_explain_names_what_was_chosen_and_what_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "iw/assistant", "-f", SAMPLES, "--inventory", INVENTORY]) == 0
    text = capsys.readouterr().out
    assert "chosen" in text
    assert "lost" in text


def live(monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], *, per_minute: int = 60, **spec: Any) -> None:
    """A cluster with one workload that has a status."""
    read = manifests.Manifests()
    text = GOOD.replace("  task:", "".join(f"  {name}: {value}\n" for name, value in spec.items()) + "  task:")
    (result,) = read_documents(text.replace("requestsPerMinute: 60,", f"requestsPerMinute: {per_minute},"))
    assert result.object is not None
    read.objects.append(result.object)
    world, _ = manifests.world_of(read, manifests.made_up_nodes({"l4": 8}), [], datetime(2026, 11, 21, tzinfo=UTC))
    raw = dict(world.raw_workloads["support", "good"])
    world = replace(world, raw_workloads={("support", "good"): {**raw, "status": status}})

    async def read_once(*_: object) -> World:
        return world

    monkeypatch.setattr(explain, "_live_world", read_once)


STATUS = {
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "AllReplicasReady", "message": "1 of 1 replicas ready"},
        {"type": "Dimmed", "status": "True", "reason": "Dimmed", "message": '"evening" allows 8.55 kW'},
    ],
    "selected": {
        "model": "roberta-large-sst2",
        "precision": "fp32",
        "acceleratorClass": "l4",
        "batchLimit": 4,
        "replicas": 1,
        "engine": "Native",
    },
    "energy": {"measuredWatts": 41, "committedWatts": 66},
}


def test_explaining_live_says_what_runs_and_what_the_next_plan_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live(monkeypatch, STATUS)
    assert main(["explain", "iw/good", "-n", "support"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "now Ready True: 1 of 1 replicas ready 41 W measured, 66 W committed" in text
    assert 'Dimmed: "evening" allows 8.55 kW' in text
    assert "runs roberta-large-sst2 fp32, l4, batch <= 4, 1 replica; the next plan changes that" in text
    assert main(["explain", "iw/good", "-n", "support", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == STATUS


def test_explaining_live_plans_with_power_limits_when_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_50 = {**STATUS, "selected": {**STATUS["selected"], "boardLimitWatts": 50}}

    def chosen(*flags: str) -> int:
        live(monkeypatch, at_50, per_minute=60_000)
        main(["explain", "iw/good", "-n", "support", "-o", "json", *flags])
        limit: int = json.loads(capsys.readouterr().out)["option"]["boardLimitWatts"]
        return limit

    assert chosen("--board-limits") > chosen() == 0
    live(monkeypatch, at_50)
    assert main(["explain", "iw/good", "-n", "support"]) == 0
    assert "runs roberta-large-sst2 fp32, l4 at 50 W, batch <= 4" in " ".join(capsys.readouterr().out.split())


def test_explaining_live_a_workload_that_only_wants_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    live(monkeypatch, {}, mode="Advise")
    assert main(["explain", "good", "-n", "support"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "chosen" in text
    assert "note spec.mode is Advise: planned as if it were alone and without caps; nothing of it runs" in text


def test_what_only_wants_advice_takes_nothing_from_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others, advised = tmp_path / "others.yaml", tmp_path / "advised.yaml"
    others.write_text(GOOD)
    flags = ["--inventory", "l4=1", "--cap", "200W", "-o", "json"]  # one board, and both want one
    main(["plan", "-f", str(others), *flags])
    without = json.loads(capsys.readouterr().out)
    advised.write_text(GOOD.replace("name: good", "name: asks") + "  mode: Advise\n")
    main(["plan", "-f", str(tmp_path), *flags])
    plan = json.loads(capsys.readouterr().out)
    asks, good = plan["workloads"]
    assert good == without["workloads"][0]
    assert (asks["name"], asks["bindingCap"], asks["option"]["replicas"]) == ("asks", "", 1)
    assert (plan["caps"], plan["expectedMilliwatts"]) == (without["caps"], without["expectedMilliwatts"])
    assert plan["notes"] == [
        "support/asks: spec.mode is Advise: planned as if it were alone and without caps; nothing of it runs"
    ]
    main(["explain", "good", "-f", str(tmp_path), *flags])
    assert json.loads(capsys.readouterr().out) == good


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: ours
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
contexts:
  - {name: ours, context: {cluster: c, user: u, namespace: support}}
  - {name: bare, context: {cluster: c, user: u}}
"""


def test_explaining_live_without_a_namespace_means_that_of_the_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live(monkeypatch, STATUS)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG)
    asked = ["explain", "iw/good", "--kubeconfig", str(kubeconfig)]
    assert main(asked) == 0
    assert "support/good" in capsys.readouterr().out
    assert main([*asked, "--context", "bare"]) == 2
    assert "no InferenceWorkload default/good; good is in support: choose -n support" in capsys.readouterr().err


def test_a_namespace_that_is_asked_for_is_never_exchanged_for_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["explain", "iw/assistant", "-f", SAMPLES, "--inventory", INVENTORY]
    assert main([*asked, "-n", "shop"]) == 2
    assert "no InferenceWorkload shop/assistant; assistant is in support: choose -n support" in capsys.readouterr().err
    (tmp_path / "twin.yaml").write_text(GOOD.replace("good", "assistant").replace("support", "shop"))
    assert main([*asked, "-f", str(tmp_path)]) == 2
    assert "assistant is in shop, support: choose -n NAMESPACE" in capsys.readouterr().err
    assert main([*asked, "-f", str(tmp_path), "-n", "shop"]) == 0
