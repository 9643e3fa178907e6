"""Samples of a fleet become the load that each workload is sized for, and votes about its profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.wire import MeterMethod, MeterScope, RunningProfile, WorkerState
from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import Reasoning
from lowbeam.planning.committed import Target
from lowbeam.power.trust import Quality, Reason, Verdict
from lowbeam.render import Placement
from lowbeam.runtime.demand import LoadFacts, LoadWatch, written_observations
from lowbeam.runtime.fleet import Dimming, Fleet
from lowbeam.runtime.replicas import Child, Replica
from lowbeam.runtime.status_load import load_rows, load_status
from lowbeam.runtime.world import Objects, Observation, Parser, World, build_world
from lowbeam.sizing import Demand, Inventory, Sizer
from lowbeam.sizing.correction import Correction
from lowbeam.sizing.measured_power import power_curve
from lowbeam.sizing.requirements import MOST_MILLIRPS
from lowbeam.telemetry import Sample, SampleSource
from tests.raw_objects import TODAY

CATALOGUE = load_builtin()
KEY = ("team", "chat")
WINDOW_SECONDS = 600
LOOK_MS = 10_000
PROFILE = next(
    p
    for p in CATALOGUE.profiles_of("qwen3-4b-instruct-2507", "text-generation")
    if (p.accelerator_class, p.accelerators, p.precision) == ("h100", 1, "bf16")
)
PLACEMENT = Placement(PROFILE.model, "bf16", Reasoning.OFF, "h100", 1, "", "Native")
CURVE = power_curve(
    PROFILE, CATALOGUE.models[PROFILE.model], CATALOGUE.accelerator_classes["h100"], input_tokens=500, output_tokens=400
)


def raw(per_minute: int = 600, generation: int = 1, **status: Any) -> dict[str, Any]:
    load = {"requestsPerMinute": per_minute, "inputTokens": 500, "outputTokens": 400}
    metadata = {"name": "chat", "namespace": "team", "uid": "u", "resourceVersion": "1", "generation": generation}
    spec = {"task": "text-generation", "load": load}
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    }


def replica(number: int, **told: Any) -> Replica:
    plain = Replica(f"pod-{number}", f"w-{number}", KEY, "d", "10.0.0.1", "n1", 1, True, True, False, "")
    return replace(plain, **told)


def world(*replicas: Replica, workload: Mapping[str, Any] | None = None) -> World:
    built = build_world(Objects(workloads=(workload or raw(),)), TODAY, Parser())
    child = Child("chat-d", "uid-d", PLACEMENT, "d", len(replicas), len(replicas), {})
    return replace(built, replicas={KEY: list(replicas)}, children={KEY: [child]})


def sample(uid: str, at_ms: int, received: int, **told: Any) -> Sample:
    plain = Sample(
        pod_uid=uid,
        source=SampleSource.WORKER,
        sampled_at_ms=at_ms,
        received_at_ms=at_ms,
        milliwatts=400_000,
        method=MeterMethod.NVML,
        scope=MeterScope.DEVICE,
        requests_running=1,
        requests_waiting=0,
        requests_received_total=received,
        requests_completed_total=received,
        input_tokens_total=500 * received,
        output_tokens_total=400 * received,
        profile=RunningProfile(model=PROFILE.model, precision="bf16", batch_limit=64),
        state=WorkerState.READY,
    )
    return replace(plain, **told)


def fresh(milliwatts: int) -> Verdict:
    return Verdict(milliwatts, Quality.FRESH, Reason.TRUSTED, believed_milliwatts=milliwatts)


OPTION = next(
    option
    for option in Sizer(CATALOGUE, (Inventory("", "h100", 16, 8),))
    .options_for(replace(world().requirements[KEY], pinned_model=PROFILE.model))
    .options
    if option.accelerators_per_replica == 1 and option.precision == "bf16"
)


class Play:
    """A watch that is fed one look after the other."""

    def __init__(self, *replicas: Replica, per_minute: int = 600, earlier: Observation | None = None) -> None:
        self.world = world(*replicas, workload=raw(per_minute))
        self.fleet = Fleet()
        self.watch = LoadWatch(WINDOW_SECONDS, {KEY: earlier} if earlier else {})
        self.now_ms, self.received = 0, dict.fromkeys((r.uid for r in replicas), 1000)
        self.changes = 0

    def looks(
        self,
        count: int,
        per_look: int,
        *,
        silent: tuple[str, ...] = (),
        verdict: Callable[[str], Verdict] = lambda _: fresh(400_000),
        **told: Any,
    ) -> None:
        for _ in range(count):
            self.now_ms += LOOK_MS
            samples = {}
            for uid in self.received:
                self.received[uid] += per_look
                if uid not in silent:
                    samples[uid] = sample(uid, self.now_ms, self.received[uid], **told)
            verdicts = {uid: verdict(uid) for uid in samples}
            self.changes += len(self.watch.look(self.world, self.fleet, samples, verdicts, self.now_ms))

    @property
    def demand(self) -> Demand | None:
        return self.watch.observations()[KEY].demand

    def facts(self) -> LoadFacts | None:
        return self.watch.facts(KEY, OPTION, self.now_ms)

    @property
    def rows(self) -> dict[str, tuple[bool | None, str]]:
        return {type_: (holds, why) for type_, holds, why, _ in load_rows(self.facts())}


def test_what_is_observed_replaces_what_was_declared_and_says_so() -> None:
    play = Play(replica(1), replica(2))  # 10 requests/s declared
    play.looks(1, 20)
    assert play.demand is None
    assert play.rows[reasons.LOAD_OBSERVED] == (False, reasons.DECLARED)
    play.looks(8 * 61, 20)  # 4 requests/s
    assert play.demand is not None
    assert 4000 <= play.demand.requests_per_second_milli <= 8000
    assert play.rows[reasons.LOAD_OBSERVED] == (True, reasons.OBSERVED)
    before = play.changes
    play.looks(3 * 61, 20)
    assert play.changes == before  # a steady load plans nothing anew


def test_a_rise_reaches_sizing_within_a_minute_or_so() -> None:
    play = Play(replica(1))
    play.looks(60, 100)
    play.looks(14, 600)
    assert play.demand is not None
    assert play.demand.requests_per_second_milli > 20_000


def test_one_absurd_counter_raises_nobodys_figure_and_stops_no_sizing() -> None:
    play = Play(replica(1))
    play.looks(8 * 61, 100)
    known = play.demand
    play.received["pod-1"] += 2**62
    play.looks(8 * 61, 100)
    assert play.demand == known


def test_what_a_worker_refused_is_no_load_when_it_is_heard_again_after_prometheus() -> None:
    """A worker counts all that arrived, its series in Prometheus what it took in."""
    refused = 50_000
    play = Play(replica(1))
    play.received["pod-1"] += refused
    play.looks(8 * 61, 100)
    known, changes = play.demand, play.changes
    assert known is not None
    play.received["pod-1"] -= refused
    play.looks(6, 100, source=SampleSource.PROMETHEUS, counted_by=SampleSource.ENGINE)
    play.received["pod-1"] += refused
    play.looks(2 * 61, 100, source=SampleSource.AGENT, counted_by=SampleSource.WORKER)
    play.looks(2 * 61, 100)
    assert (play.demand, play.changes) == (known, changes)


def test_a_silent_worker_whose_watts_an_agent_tells_goes_on_where_it_stopped() -> None:
    play = Play(replica(1))
    for _ in range(4 * 61):
        play.looks(1, 100)
        play.looks(1, 100, source=SampleSource.AGENT, requests_received_total=None, requests_completed_total=None)
    assert play.rows[reasons.LOAD_OBSERVED] == (True, reasons.OBSERVED)


def test_what_an_earlier_operator_wrote_is_bounded_before_anything_is_sized_for_it() -> None:
    load = {"basis": "Observed", "requestsPerSecond": str(10**17), "inputTokens": 500, "outputTokens": 400}
    written = raw(observedGeneration=1, load=load | {"burstinessPercent": 100})
    built = build_world(Objects(workloads=(raw(),)), TODAY, Parser(), written_observations([written]))
    sizer = Sizer(CATALOGUE, (Inventory("", "h100", 16, 8),))
    needs = built.requirements[KEY]
    assert needs.demand.requests_per_second_milli == MOST_MILLIRPS
    assert not any(option.unserved_millirps == 0 for option in sizer.options_for(needs).options)


def test_silence_changes_nothing_and_is_named() -> None:
    play = Play(replica(1), replica(2))
    play.looks(8 * 61, 20)
    known = play.demand
    play.looks(4 * 61, 0, silent=("pod-1", "pod-2"))
    assert play.demand == known
    assert play.rows[reasons.LOAD_OBSERVED] == (None, reasons.DATA_GAP)
    play.looks(2 * 61, 20)
    assert play.rows[reasons.LOAD_OBSERVED] == (True, reasons.OBSERVED)


def test_pods_that_are_not_ready_say_nothing_about_the_load() -> None:
    play = Play(replica(1))
    play.looks(8 * 61, 100)
    known = play.demand
    play.world = world(replica(1, ready=False), replica(2, terminating=True))
    play.looks(8 * 61, 0)
    assert play.demand == known


@pytest.mark.parametrize(
    "told", [{"profile": None}, {"requests_waiting": 64}], ids=["cannot tell", "queue of a whole batch"]
)
def test_a_dimmed_workload_that_may_turn_users_away_keeps_its_figure(told: dict[str, Any]) -> None:
    play = Play(replica(1))
    play.looks(8 * 61, 100)
    known = play.demand
    assert known is not None
    cut = Dimming("Batch", datetime(2026, 11, 21, tzinfo=UTC), "Dimmed", "cap", "x-1", 1, 0)
    play.fleet.of(KEY).dimming = cut
    play.looks(10 * 61, 10, **told)
    assert play.demand == known
    play.fleet.of(KEY).dimming = None
    play.looks(9 * 61, 10)
    assert play.demand is not None
    assert play.demand.requests_per_second_milli < known.requests_per_second_milli


def test_one_watch_per_object_and_none_for_those_that_are_gone() -> None:
    play = Play(replica(1))
    play.looks(8 * 61, 100)
    known = play.demand
    play.world = replace(play.world, requirements={})
    play.looks(1, 100)
    assert play.demand == known  # refused for the moment: the catalogue changes
    play.world = replace(play.world, raw_workloads={})
    play.looks(1, 100)
    assert play.watch.observations() == {}
    assert play.facts() is None


def expected(per_look: int) -> int:
    return round(CURVE.at(per_look * 1_000_000 / LOOK_MS))


def compared(percent: int, *, limit_watts: int = 0, **told: Any) -> Play:
    """Six windows in which one replica draws so much of what its profile says at 5 requests/s."""
    play = Play(replica(1), per_minute=300)
    play.fleet.of(KEY).target = Target(replace(OPTION, replicas=1, board_limit_watts=limit_watts))
    milliwatts = expected(50) * percent // 100
    play.looks(6 * 61, 50, **{"verdict": lambda _: fresh(milliwatts), **told})
    return play


def test_watts_that_contradict_the_profile_correct_it_for_this_workload() -> None:
    play = compared(150)
    (correction,) = play.watch.observations()[KEY].corrections
    assert 145 <= correction.percent <= 155
    assert play.rows[reasons.PROFILE_CONTRADICTED_CONDITION] == (True, reasons.PROFILE_CONTRADICTED)
    facts = play.facts()
    assert load_status(facts)["measuredProfiles"][0]["percentOfProfile"] == correction.percent
    assert compared(105).rows[reasons.PROFILE_CONTRADICTED_CONDITION] == (False, reasons.PROFILE_HOLDS)


@pytest.mark.parametrize(
    "told",
    [
        {"scope": MeterScope.SHARED},
        {"state": WorkerState.RECONFIGURING},
        {"output_tokens_total": None},
        {"verdict": lambda _: replace(fresh(900_000), metered=False)},
        {"verdict": lambda _: replace(fresh(900_000), quality=Quality.LATE)},
        {"verdict": lambda _: replace(fresh(900_000), quality=Quality.STALE, believed_milliwatts=None)},
    ],
    ids=["shared board", "reconfiguring", "unknown lengths", "no meter", "late", "stale"],
)
def test_who_is_not_measured_for_certain_contradicts_nothing(told: dict[str, Any]) -> None:
    play = compared(150, **told)
    assert play.watch.observations()[KEY].corrections == ()
    assert reasons.PROFILE_CONTRADICTED_CONDITION not in play.rows


def test_watts_under_a_power_limit_say_nothing_about_the_profile_of_boards_without_one() -> None:
    play = compared(60, limit_watts=490)
    assert play.watch.observations()[KEY].corrections == ()
    assert reasons.PROFILE_CONTRADICTED_CONDITION not in play.rows
    assert play.watch.observations()[KEY].demand is not None, "its load is observed all the same"
    play.fleet.of(KEY).target = Target(replace(OPTION, replicas=1))
    play.looks(6 * 61, 50, verdict=lambda _: fresh(expected(50) * 60 // 100))
    assert play.watch.observations()[KEY].corrections


def test_a_successor_goes_on_with_what_the_status_says() -> None:
    play = compared(150)
    status = {"observedGeneration": 1, **load_status(play.facts())}
    before = play.watch.observations()[KEY]
    found = written_observations([raw(300, **status)])
    assert found == {KEY: before}
    assert written_observations([raw(300, generation=2, **status)]) == {}

    successor = LoadWatch(WINDOW_SECONDS, found)
    assert successor.observations() == found
    for now_ms in (0, 20_000, 5 * WINDOW_SECONDS * 1000):
        successor.look(play.world, Fleet(), {}, {}, now_ms)
        assert successor.observations() == found
    rows = {type_: (holds, why) for type_, holds, why, _ in load_rows(successor.facts(KEY, OPTION, now_ms))}
    assert rows[reasons.PROFILE_CONTRADICTED_CONDITION] == (True, reasons.PROFILE_CONTRADICTED)
    assert rows[reasons.LOAD_OBSERVED] == (None, reasons.DATA_GAP)  # not heard of since


def test_a_new_object_of_the_same_name_starts_anew() -> None:
    play = Play(replica(1))
    play.looks(8 * 61, 100)
    assert play.demand is not None
    other = raw()
    other["metadata"]["uid"] = "another"
    play.world = world(replica(1), workload=other)
    play.looks(2, 100)
    assert play.demand is None


def test_an_edited_load_is_heard_beside_what_was_observed() -> None:
    play = Play(replica(1))
    play.looks(8 * 61, 100)
    play.world = world(replica(1), workload=raw(per_minute=6000, generation=2))
    play.looks(2, 100)
    assert play.demand is None  # spec.load itself
    assert play.facts().demand.requests_per_second_milli == 100_000  # type: ignore[union-attr]


def test_a_world_sizes_for_what_was_observed() -> None:
    demand = Demand(7_000, 100, 50, "Observed", 150)
    correction = Correction((PROFILE.model, "bf16", Reasoning.OFF, "h100", 1), "0" * 8, 150)
    observed = {KEY: Observation(demand, (correction,))}
    built = build_world(Objects(workloads=(raw(),)), TODAY, Parser(), observed)
    assert built.requirements[KEY].demand == demand
    assert built.requirements[KEY].corrections == (correction,)
    assert world().requirements[KEY].demand.basis == "Declared"


def test_a_steady_load_writes_the_same_status_again() -> None:
    play = compared(150)
    before = (load_status(play.facts()), load_rows(play.facts()))
    play.looks(3 * 61, 50, verdict=lambda _: fresh(expected(50) * 152 // 100))
    assert before == (load_status(play.facts()), load_rows(play.facts()))
    assert load_status(None) == {}
    assert load_rows(None) == []
