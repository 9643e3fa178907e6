"""Replicas become readings and charges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lowbeam.api.wire import MeterMethod, RunningProfile
from lowbeam.catalog.facts import ProfilePoint
from lowbeam.power.ledger import ReplicaState, measured
from lowbeam.power.tree import build_cap_tree
from lowbeam.render import Placement
from lowbeam.runtime.meters import Books, Meters, worst_case_milliwatts
from lowbeam.runtime.replicas import Child, Replica, child_of
from lowbeam.runtime.world import Objects, Parser, World, build_world
from lowbeam.telemetry import Sample, SampleSource
from tests.builders import cap
from tests.catalogue_objects import accelerator
from tests.raw_objects import CATALOGUE, L4, TODAY, iw, node, replica

PROFILE = next(
    p for p in CATALOGUE.profiles if p.accelerator_class == "l4" and p.accelerators == 1 and len(p.points) > 2
)
PLACEMENT = Placement(
    PROFILE.model, PROFILE.precision, PROFILE.reasoning, "l4", PROFILE.accelerators, "", PROFILE.engine
)

PLACED = "/".join(str(getattr(PLACEMENT, name)) for name in PLACEMENT.__slots__)


def seen(replicas: list[Replica]) -> World:
    world = build_world(Objects(workloads=(iw("w", task=PROFILE.task),), nodes=(node("n1"),)), TODAY, Parser())
    return replace(world, replicas={("team", "w"): replicas}, children={("team", "w"): [_child()]})


def _child() -> Child:

    return Child("w-d", "u", PLACEMENT, "d", 1, 1, {})


def sample(watts: float | None, *, at_ms: int = 1000, batch: int = 1) -> Sample:
    return Sample(
        pod_uid="pod-1",
        source=SampleSource.WORKER,
        sampled_at_ms=at_ms,
        received_at_ms=at_ms,
        milliwatts=None if watts is None else round(watts * 1000),
        method=MeterMethod.UNAVAILABLE if watts is None else MeterMethod.NVML,
        scope=None,
        joules_total=None,
        requests_running=1,
        requests_waiting=0,
        requests_received_total=1,
        requests_completed_total=1,
        input_tokens_total=None,
        output_tokens_total=None,
        profile=RunningProfile(
            model=PROFILE.model,
            revision="",
            precision=PROFILE.precision,
            reasoning=PROFILE.reasoning.value,
            batch_limit=batch,
            generation=1,
        ),
        state=None,
        devices=(),
    )


def books(replicas: list[Replica], samples: dict[str, Sample], now_ms: int = 1500) -> Books:
    return Meters().read(seen(replicas), {("team", "w"): None}, samples, now_ms)


BOARD = CATALOGUE.accelerator_classes["l4"].max_milliwatts


def upper(*points: ProfilePoint) -> int:
    """What sizing plans with, too: the figure of a modelled profile with all that it may be off."""
    most = max(point.milliwatts for point in points)
    return min(-(-most * (100 + PROFILE.uncertainty_percent) // 100), BOARD)


def test_a_fresh_sample_is_read_and_a_confirmed_batch_limits_the_charge() -> None:
    small, large = PROFILE.points[0], PROFILE.points[-1]
    (reading,) = books([replica()], {"pod-1": sample(small.milliwatts / 1000)}).readings
    assert reading.milliwatts == small.milliwatts
    charged = [
        books([replica()], {"pod-1": sample(small.milliwatts / 1000, batch=b)}).charges[0].worst_case_milliwatts
        for b in (small.batch, large.batch)
    ]
    assert charged == [upper(small), upper(*PROFILE.points)]


def test_a_replica_that_was_never_heard_is_charged_its_worst_case_and_not_zero() -> None:
    book = books([replica(ready=True)], {})
    (charge,), (reading,) = book.charges, book.readings
    assert charge.milliwatts == upper(*PROFILE.points)
    assert reading.milliwatts == charge.milliwatts
    assert reading.worst_case_milliwatts == BOARD


def test_watts_are_summed_by_workload_and_drawn_ones_only_where_every_replica_has_some() -> None:
    replicas = [replica(), replica(uid="pod-2", name="w-2"), replica(uid="pod-3", name="w-3", node="", ip="")]
    samples = {"pod-1": sample(50), "pod-2": replace(sample(60), pod_uid="pod-2")}
    key = ("team", "w")
    whole = books(replicas, samples)
    assert whole.drawn_milliwatts == {key: 110_000}, "a pod without an address draws nothing yet"
    assert whole.committed_milliwatts == {key: sum(charge.milliwatts for charge in whole.charges)}
    assert books(replicas, {"pod-1": samples["pod-1"]}).drawn_milliwatts == {key: None}
    assert books([], {}).drawn_milliwatts == books([], {}).committed_milliwatts == {}


def test_a_worker_without_a_meter_counts_at_its_worst_case_and_is_told_apart() -> None:
    (reading,) = books([replica()], {"pod-1": sample(None)}).readings
    assert (reading.milliwatts, reading.metered, reading.worst_case_milliwatts) == (None, False, BOARD)


@pytest.mark.parametrize(
    ("told", "state", "read"),
    [
        ({}, ReplicaState.LIVE, True),
        ({"node": "", "ip": ""}, ReplicaState.PENDING, False),
        ({"terminating": True}, ReplicaState.TERMINATING, True),
    ],
)
def test_every_pod_is_charged_in_every_state(told: dict[str, Any], state: ReplicaState, read: bool) -> None:
    book = books([replica(**told)], {})
    assert book.charges[0].state is state
    assert bool(book.readings) is read


@pytest.mark.parametrize(
    ("there", "wanted", "unmade"),
    [
        ([], 2, 2),
        ([{}], 2, 1),
        ([{"terminating": True}, {"uid": "pod-2"}], 2, 1),
        ([{"node": "", "ip": ""}, {"uid": "pod-2"}], 2, 0),
        ([{}, {"uid": "pod-2"}], 1, 0),
        ([{"placement_digest": "old"}], 1, 1),
    ],
    ids=["none", "one gone", "one drains", "one pending", "more than wanted", "of another placement"],
)
def test_a_replica_that_a_deployment_makes_again_is_charged_once_and_has_no_reading(
    there: list[dict[str, Any]], wanted: int, unmade: int
) -> None:
    pods = [replica(**told) for told in there]
    world = replace(seen(pods), children={("team", "w"): [replace(_child(), replicas=wanted)]})
    book = Meters().read(world, {("team", "w"): None}, {}, 1500)
    assumed = [charge for charge in book.charges if charge.state is ReplicaState.ASSUMED]
    assert len(assumed) == unmade
    assert len(book.charges) == len(pods) + unmade
    assert all((it.pod_uid, it.placement, it.milliwatts) == ("", PLACED, upper(PROFILE.points[0])) for it in assumed)
    assert len(book.readings) == sum(bool(pod.ip) for pod in pods)
    made = sum(charge.milliwatts for charge in book.charges if charge.state is not ReplicaState.ASSUMED)
    assert sum(book.committed_milliwatts.values()) == made, "what its pods could draw"


def test_an_unmade_replica_of_an_unknown_placement_is_charged_what_its_boards_can_draw() -> None:
    limits = {"limits": {"nvidia.com/gpu": "2"}}
    template = {"spec": {"containers": [{"name": "worker", "resources": limits}]}}
    edited = replace(_child(), placement=None, raw={"spec": {"template": template}})
    world = replace(seen([]), children={("team", "w"): [edited]})
    (charge,) = Meters().read(world, {("team", "w"): None}, {}, 1500).charges
    most = max(it.max_milliwatts for it in CATALOGUE.accelerator_classes.values() if it.product_labels)
    assert (charge.milliwatts, charge.accelerators) == (2 * most, 2)


@pytest.mark.parametrize(("observed", "wanted"), [(2, 4), (3, 3)])
def test_a_smaller_count_holds_only_when_the_controller_of_deployments_has_seen_it(observed: int, wanted: int) -> None:
    raw = {"metadata": {"name": "w", "uid": "u", "generation": 3}, "spec": {"replicas": 3}}
    child = child_of({**raw, "status": {"observedGeneration": observed, "replicas": 4}})
    assert child.wanted_replicas == wanted


def test_an_unknown_placement_counts_all_that_its_boards_can_draw() -> None:
    charge = books([replica(placement_digest="edited")], {}).charges[0]
    assert charge.milliwatts == BOARD
    unknown = replace(PLACEMENT, model="no-such-model")
    assert worst_case_milliwatts(CATALOGUE, unknown, PROFILE.task, 1, BOARD) == BOARD


def _on_our_boards(*classes: dict[str, Any]) -> World:
    """A replica of four boards of the user's own class, while `classes` are in the cluster."""
    mine = node("n1")
    mine["metadata"]["labels"] = {"nvidia.com/gpu.product": "OUR-BOARD"}
    placed = replace(PLACEMENT, accelerator_class="ours", accelerators=4)
    objects = Objects(workloads=(iw("w", task=PROFILE.task),), nodes=(mine,), accelerator_classes=classes)
    return replace(
        build_world(objects, TODAY, Parser()),
        replicas={("team", "w"): [replica(accelerators=4)]},
        children={("team", "w"): [Child("w-d", "u", placed, "d", 1, 1, {})]},
    )


@pytest.mark.parametrize("left", ["deleted", "edit refused"])
@pytest.mark.parametrize("restarted", [False, True])
def test_boards_whose_class_is_gone_still_draw_what_their_meter_says(left: str, restarted: bool) -> None:
    meters, tree, key = Meters(), build_cap_tree([cap("c", 10_000)]), ("team", "w")
    ours = accelerator("ours", productLabels=["OUR-BOARD"])
    ours["metadata"] |= {"uid": "u", "resourceVersion": "1", "generation": 1}
    if not restarted:
        meters.read(_on_our_boards(ours), {key: None}, {"pod-1": sample(1300, at_ms=500)}, 600)
    refused = ours | {"spec": ours["spec"] | {"productLabels": ["OUR-BOARD", L4]}}
    after = _on_our_boards(*([] if left == "deleted" else [refused]))
    assert "ours" not in after.catalogue.accelerator_classes

    heard = meters.read(after, {key: None}, {"pod-1": sample(1300)}, 1500)
    silent = meters.read(after, {key: None}, {"pod-1": sample(None)}, 1500)

    worst = 4 * (max(it.max_milliwatts for it in CATALOGUE.accelerator_classes.values()) if restarted else 350_000)
    assert heard.verdicts["pod-1"].trusted
    assert measured(tree, heard.readings, 1500)["c"].milliwatts == 1_300_000
    assert measured(tree, silent.readings, 1500)["c"].milliwatts == worst
    assert [charge.milliwatts for charge in heard.charges] == [worst]


def test_a_pod_without_devices_and_of_no_known_class_counts_as_the_largest_class_without() -> None:
    placed = replace(PLACEMENT, accelerator_class="gone")
    lost = replace(_on_our_boards(), children={("team", "w"): [Child("w-d", "u", placed, "d", 1, 1, {})]})
    lost = replace(lost, replicas={("team", "w"): [replica(accelerators=0)]})
    (charge,) = Meters().read(lost, {("team", "w"): None}, {}, 1500).charges
    assert charge.milliwatts == CATALOGUE.accelerator_classes["cpu"].max_milliwatts


def test_what_was_reserved_for_a_new_replica_counts_until_its_first_answer_is_overdue() -> None:
    meters, tree = Meters(), build_cap_tree([cap("c", 1000)])

    def drawn(now_ms: int) -> int:
        book = meters.read(seen([replica(started=False)]), {("team", "w"): None}, {}, now_ms)
        assert not book.verdicts["pod-1"].trusted, "a guess is no measurement"
        return measured(tree, book.readings, now_ms)["c"].milliwatts

    reserved = upper(PROFILE.points[0])
    assert drawn(1_000) == reserved < BOARD
    assert drawn(1_000 + 16_000) == BOARD


@pytest.mark.parametrize(("percent", "counts"), [(103, False), (115, True)])
def test_a_draw_above_the_profile_is_charged_only_beyond_the_error_of_a_meter(percent: int, counts: bool) -> None:
    small = PROFILE.points[0]
    watts = upper(small) * percent / 100_000
    (charge,) = books([replica()], {"pod-1": sample(watts, batch=small.batch)}).charges
    assert charge.milliwatts == (round(watts * 1000) if counts else upper(small))


def test_a_confirmed_lower_batch_limit_forgets_what_was_drawn_before_and_while_it_settles() -> None:
    meters, small, large = Meters(), PROFILE.points[0], PROFILE.points[-1]
    high = upper(small) * 1.15 / 1000

    def charged(batch: int, now_ms: int) -> int:
        told = {"pod-1": sample(high, at_ms=now_ms, batch=batch)}
        return meters.read(seen([replica()]), {("team", "w"): None}, told, now_ms).charges[0].milliwatts

    charged(large.batch, 1_000)
    assert charged(small.batch, 3_000) == upper(small)
    assert charged(small.batch, 9_000) == upper(small), "it still settles"
    assert charged(small.batch, 14_000) == round(high * 1000), "now it contradicts the profile"
