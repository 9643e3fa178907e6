from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lowbeam.catalog.facts import (
    AcceleratorClass,
    Basis,
    Catalogue,
    EnergyProfile,
    Model,
    ProfilePoint,
    Reasoning,
    Source,
)
from lowbeam.emulator.faults import Fault
from lowbeam.emulator.fleet import Fleet, FleetSettings
from lowbeam.emulator.load import LoadTrace
from lowbeam.emulator.replica import Pace
from lowbeam.errors import BadInput
from lowbeam.render import Placement, labels

SOURCE = Source("test", "2026-01-01")
PLACEMENT = Placement("m", "bf16", Reasoning.OFF, "h100", 1, "", "Native")
CATALOGUE = Catalogue(
    models={"m": Model("m", ("text-generation",), "mit", 8000, 8000, 32768, True, (), SOURCE)},
    accelerator_classes={"h100": AcceleratorClass("h100", ("H100",), 80000, 90, ("bf16",), 100_000, 700_000, SOURCE)},
    profiles=(
        EnergyProfile(
            "m-h100",
            "m",
            "bf16",
            Reasoning.OFF,
            "text-generation",
            "h100",
            1,
            "vLLM",
            300,
            500,
            (ProfilePoint(1, 300_000, 500, 2_000, 2_200), ProfilePoint(64, 600_000, 8_000, 8_000, 8_800)),
            Basis.PUBLISHED,
            SOURCE,
        ),
    ),
)
NODES = [
    {"metadata": {"name": "fake", "annotations": {"kwok.x-k8s.io/node": "fake"}}},
    {"metadata": {"name": "real", "annotations": {}}},
]


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic_ms(self) -> int:
        return round(self.seconds * 1000)

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def pod(name: str, address: str, **changes: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": changes.get("uid", name),
            "labels": {labels.WORKLOAD: changes.get("workload", "w")},
            "annotations": {labels.OPTION: changes.get("option", PLACEMENT.to_annotation())},
            "creationTimestamp": changes.get("created", "2026-01-01T00:00:00Z"),
            **({"deletionTimestamp": "2026-01-01T00:00:01Z"} if changes.get("terminating") else {}),
        },
        "spec": {"nodeName": changes.get("node", "fake"), "containers": []},
        "status": {
            "phase": changes.get("phase", "Running"),
            "podIP": address,
            "conditions": [{"type": "Ready", "status": str(changes.get("ready", True))}],
        },
    }


def workload(per_minute: int = 240, name: str = "w") -> dict[str, Any]:
    load = {"requestsPerMinute": per_minute, "inputTokens": 300, "outputTokens": 500}
    return {"metadata": {"namespace": "ns", "name": name}, "spec": {"task": "text-generation", "load": load}}


class Stage:
    """A fleet whose pods have started and settled."""

    def __init__(self, pods: Iterable[dict[str, Any]], trace: LoadTrace | None = None, per_minute: int = 240) -> None:
        self.clock = FakeClock()
        settings = FleetSettings(trace=trace or LoadTrace(), pace=Pace(1.0, 1.0))
        self.fleet = Fleet(CATALOGUE, self.clock, settings)
        self.follow(pods, per_minute)
        self.wait(2)

    def follow(self, pods: Iterable[dict[str, Any]], per_minute: int = 240) -> None:
        self.fleet.follow(pods, [workload(per_minute)], NODES)

    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds
        self.fleet.share_load()

    def offered(self, address: str) -> float:
        played = self.fleet.at(address)
        assert played is not None
        return played.replica.offered_rps


def test_only_running_pods_with_an_address_on_kwok_nodes_are_played() -> None:
    stage = Stage(
        [
            pod("ours", "10.0.0.1"),
            pod("on-a-real-node", "10.0.0.2", node="real"),
            pod("pending", "10.0.0.3", phase="Pending"),
            pod("no-address-yet", ""),
        ]
    )
    assert stage.fleet.addresses() == {"10.0.0.1"}


def test_load_is_split_evenly_over_the_replicas_that_accept_requests() -> None:
    stage = Stage([pod("a", "1"), pod("b", "2"), pod("c", "3", ready=False), pod("d", "4", terminating=True)])
    assert [stage.offered(address) for address in "1234"] == [2.0, 2.0, 0.0, 0.0]


def test_a_new_replica_takes_its_share_only_after_it_has_loaded() -> None:
    stage = Stage([pod("a", "1")])
    assert stage.offered("1") == 4.0
    stage.follow([pod("a", "1"), pod("b", "2")])
    assert (stage.offered("1"), stage.offered("2")) == (4.0, 0.0)
    stage.wait(1.5)
    assert (stage.offered("1"), stage.offered("2")) == (2.0, 2.0)


def test_the_trace_moves_the_load_over_time() -> None:
    stage = Stage([pod("a", "1")], LoadTrace((0.0, 10.0, 20.0), (0.5, 2.0, 0.0)))
    seen = []
    for seconds in (0, 9, 10):
        stage.wait(seconds)
        seen.append(stage.offered("1"))
    assert seen == [2.0, 8.0, 0.0]


def test_a_changed_load_in_the_spec_is_offered_from_then_on() -> None:
    stage = Stage([pod("a", "1")])
    stage.follow([pod("a", "1")], per_minute=60)
    assert stage.offered("1") == 1.0


def test_a_known_pod_keeps_its_counters_and_a_new_one_on_its_address_starts_afresh() -> None:
    stage = Stage([pod("a", "1")])
    stage.wait(10)
    stage.follow([pod("a", "1")])
    played = stage.fleet.at("1")
    assert played is not None
    before = stage.fleet.telemetry(played)
    assert before.requests_received_total > 0
    stage.follow([pod("a", "1", uid="another", created="2026-01-01T00:01:00Z")])
    fresh = stage.fleet.at("1")
    assert fresh is not None
    assert stage.fleet.telemetry(fresh).requests_received_total == 0


def test_an_address_that_two_pods_claim_belongs_to_the_living_one() -> None:
    both = [pod("old", "1", terminating=True, created="2026-01-01T00:05:00Z"), pod("new", "1")]
    for order in (both, both[::-1]):
        played = Stage(order).fleet.at("1")
        assert played is not None
        assert played.member.name == "new"


@pytest.mark.parametrize("option", ["", "nonsense", PLACEMENT.to_annotation().replace('"bf16"', '"fp8"')])
def test_a_pod_without_a_profile_has_no_meter_and_does_not_stop_the_others(option: str) -> None:
    stage = Stage([pod("strange", "1", option=option), pod("sound", "2")])
    strange, sound = stage.fleet.at("1"), stage.fleet.at("2")
    assert strange is not None
    assert sound is not None
    assert stage.fleet.telemetry(strange).watts is None
    assert stage.fleet.telemetry(sound).watts is not None


def test_a_workload_that_cannot_be_read_has_no_load_and_does_not_stop_the_others() -> None:
    stage = Stage([pod("a", "1"), pod("b", "2", workload="bad")])
    bad = {"metadata": {"namespace": "ns", "name": "bad"}, "spec": {"task": "text-generation", "load": {}}}
    stage.fleet.follow([pod("a", "1"), pod("b", "2", workload="bad")], [workload(), bad], NODES)
    assert (stage.offered("1"), stage.offered("2")) == (4.0, 0.0)


def test_faults_hit_whom_they_name_and_end_when_asked() -> None:
    stage = Stage([pod("a", "1"), pod("b", "2"), pod("c", "3", workload="other")])
    assert stage.fleet.set_faults({Fault.WRONG_UNIT}, "ns", workload="w") == 2
    assert stage.fleet.set_faults({Fault.WRONG_UNIT}, "another-namespace") == 0
    broken, sound = stage.fleet.at("1"), stage.fleet.at("3")
    assert broken is not None
    assert sound is not None
    watts = stage.fleet.telemetry(broken).watts
    assert watts is not None
    assert watts > 50_000
    stage.fleet.set_faults(set(), "ns", pod="a")
    healed = stage.fleet.telemetry(broken).watts
    assert healed is not None
    assert healed < 700


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no steps"),
        ("seconds,factor\n", "no steps"),
        ("0,1\n0,2\n", "line 2: seconds must grow"),
        ("0,1\nabc,2\n", r'line 2: "abc,2" is not "seconds,factor"'),
        ("0,1,2\n", "line 1"),
        ("0,-1\n", "factor at least 0"),
        ("0,nan\n", "must be finite"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(BadInput, match=problem):
        LoadTrace.read(file)


def test_a_missing_trace_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.csv: No such file"):
        LoadTrace.read(tmp_path / "gone.csv")


def test_a_trace_holds_its_last_factor_and_is_one_before_its_first(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("seconds,factor\n10,2\n20,0.5\n")
    trace = LoadTrace.read(file)
    assert [trace.factor_at(second) for second in (0, 9.9, 10, 19.9, 20, 9999)] == [1, 1, 2, 2, 0.5, 0.5]


def test_an_emulated_worker_counts_the_tokens_that_its_workload_declares() -> None:
    stage = Stage([pod("a", "1")])
    stage.wait(30)
    played = stage.fleet.at("1")
    assert played is not None
    told, load = stage.fleet.telemetry(played), workload()["spec"]["load"]
    assert told.requests_total > 0
    assert told.input_tokens_total == told.requests_total * load["inputTokens"]
    assert told.output_tokens_total == told.requests_total * load["outputTokens"]


def test_another_engine_is_played_at_the_batch_limit_that_it_was_started_with() -> None:
    vllm = replace(PLACEMENT, engine="VLLM", batch_limit=64)
    stage = Stage([pod("a", "1", option=vllm.to_annotation())], per_minute=4800)
    stage.wait(30)
    played = stage.fleet.at("1")
    assert played is not None
    told = stage.fleet.telemetry(played)
    assert told.profile.batch_limit == 64
    assert told.watts == pytest.approx(600, rel=0.031)
