"""Raw objects become a World, and replicas become readings and charges."""

from __future__ import annotations

import weakref
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.api.v1alpha1 import Engine, reasons
from lowbeam.api.wire import MeterMethod, RunningProfile
from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import ProfilePoint
from lowbeam.power.ledger import ReplicaState, measured
from lowbeam.power.tree import build_cap_tree
from lowbeam.render import Placement, labels
from lowbeam.runtime.executor import Executor
from lowbeam.runtime.meters import Books, Meters, worst_case_milliwatts
from lowbeam.runtime.replicas import Child, Replica
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.world import Objects, Observation, Parser, World, build_world
from lowbeam.sizing import Demand
from lowbeam.telemetry import Sample, SampleSource
from tests.builders import cap
from tests.catalogue_objects import accelerator
from tests.fakes.power_fleet import option as power_fleet_option

TODAY = date(2026, 11, 21)
CATALOGUE = load_builtin()
L4 = next(iter(CATALOGUE.accelerator_classes["l4"].product_labels))


def node(name: str, *, boards: int = 4, ready: bool = True, cordoned: bool = False, **more: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": L4, **more}},
        "spec": {"unschedulable": cordoned},
        "status": {
            "allocatable": {labels.GPU_RESOURCE: str(boards), "cpu": "8"},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


def iw(name: str, *, uid: str = "", namespace: str = "team", **spec: Any) -> dict[str, Any]:
    body = {"task": "text-classification", "load": {"requestsPerMinute": 60, "inputTokens": 100, "outputTokens": 1}}
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "resourceVersion": "1",
            "generation": 1,
        },
        "spec": {**body, **spec},
    }


def pcap(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"uid-cap-{name}", "resourceVersion": "1", "generation": 1}
    body = {"scope": {"cluster": {}}, "watts": 1000, **spec}
    return {"apiVersion": "lowbeam.dev/v1alpha1", "kind": "PowerCap", "metadata": metadata, "spec": body}


def replica(**told: Any) -> Replica:
    plain = Replica("pod-1", "w-1", ("team", "w"), "d", "10.0.0.1", "n1", 1, True, True, False, "")
    return replace(plain, **told)


# ---- world


def test_one_bad_object_is_set_aside_with_its_field_and_the_rest_goes_on() -> None:
    objects = Objects(
        workloads=(iw("good"), iw("bad", scaling={"minReplicas": "many"}), iw("odd", task="no-such-task")),
        power_caps=(pcap("good"), pcap("bad", watts=-1)),
    )
    world = build_world(objects, TODAY, Parser())
    assert world.enforced() == [("team", "good")]
    assert world.refusals["team", "bad"].reason == reasons.INVALID_SPEC
    assert "minReplicas" in world.refusals["team", "bad"].field
    assert world.refusals["team", "odd"].reason == reasons.UNKNOWN_TASK
    assert [cap.name for cap in world.caps.caps] == ["good"]
    assert "watts" in world.cap_problems["bad"].field


def test_a_selector_that_no_label_can_have_is_refused_and_in_no_pods_affinity() -> None:
    row = {"nodePool": {"nodeSelector": {"row": "7"}}}
    objects = Objects(
        workloads=(iw("triage"),),
        power_caps=(
            pcap("key", scope={"nodePool": {"nodeSelector": {"rack/row 7": "x"}}}),
            pcap("row", scope=row),
            pcap("team", scope={"namespaces": {"selector": {"matchLabels": {"-team": "a"}}}}),
            pcap("value", scope={"nodePool": {"nodeSelector": {"row": "x y"}}}),
        ),
        nodes=(node("n1"),),
    )
    world = build_world(objects, TODAY, Parser())
    assert {name: problem.field for name, problem in world.cap_problems.items()} == {
        "key": "spec.scope.nodePool.nodeSelector",
        "team": "spec.scope.namespaces.selector.matchLabels",
        "value": "spec.scope.nodePool.nodeSelector.row",
    }
    assert world.cap_problems["value"].message.startswith('"x y" is no value of a label')
    assert world.kept_out[""] == ({"row": "7"},)


def test_what_is_being_deleted_is_not_planned() -> None:
    going = iw("going")
    going["metadata"]["deletionTimestamp"] = "2026-11-21T09:00:00Z"
    ending = {"metadata": {"name": "ending", "deletionTimestamp": "2026-11-21T09:00:00Z"}}
    objects = Objects(workloads=(going, iw("stays"), iw("with-it", namespace="ending")), namespaces=(ending,))
    assert list(build_world(objects, TODAY, Parser()).raw_workloads) == [("team", "stays")]


@pytest.mark.parametrize(
    ("finalizers", "planned"),
    [
        ([], False),
        (["example.org/backup"], True),
        (["foregroundDeletion"], False),
        (["example.org/backup", "foregroundDeletion"], False),
        (["orphan"], False),
    ],
)
def test_a_deletion_that_somebody_elses_finalizer_holds_up_has_not_happened_yet(
    finalizers: list[str], planned: bool
) -> None:
    going = iw("going")
    going["metadata"] |= {"deletionTimestamp": "2026-11-21T09:00:00Z", "finalizers": finalizers}
    world = build_world(Objects(workloads=(going,)), TODAY, Parser())
    assert world.enforced() == ([("team", "going")] if planned else [])


@given(st.permutations([iw("a"), iw("b", namespace="other"), iw("c")]), st.permutations([pcap("x"), pcap("y")]))
def test_the_order_of_objects_does_not_matter(workloads: list[dict[str, Any]], caps: list[dict[str, Any]]) -> None:
    world = build_world(Objects(workloads=tuple(workloads), power_caps=tuple(caps)), TODAY, Parser())
    assert world.enforced() == [("other", "b"), ("team", "a"), ("team", "c")]
    assert [cap.name for cap in world.caps.caps] == ["x", "y"]


def _pod(version: str, *, ready: bool) -> dict[str, Any]:
    metadata = {"name": "w-1", "namespace": "team", "uid": "u", "resourceVersion": version, "labels": {}}
    metadata["labels"] = {labels.WORKLOAD: "w"}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"conditions": conditions}}


def test_a_look_reads_anew_what_changed_and_nothing_else() -> None:
    parser, before = Parser(), Objects(workloads=(iw("w"), iw("v")), pods=(_pod("1", ready=False),))
    after = replace(before, pods=(_pod("2", ready=True),))
    observed = {("team", "v"): Observation(Demand(5000, 100, 1, 100))}

    first = build_world(before, TODAY, parser)
    second = build_world(after, TODAY, parser, observed)

    assert second == build_world(after, TODAY, Parser(), observed)
    assert second.requirements["team", "w"] is first.requirements["team", "w"]
    assert second.requirements["team", "v"].demand == observed["team", "v"].demand
    assert [pod.ready for pod in (*first.replicas["team", "w"], *second.replicas["team", "w"])] == [False, True]
    tomorrow = build_world(after, date(2026, 11, 22), parser, observed)
    assert tomorrow.requirements["team", "w"] is not first.requirements["team", "w"], "an opt-in may have run out"


class _Kept(dict[str, Any]):
    """An object that a weak reference can watch."""


def test_nothing_is_remembered_of_what_is_gone() -> None:
    parser, pod = Parser(), _Kept(_pod("1", ready=True))
    watched = weakref.ref(pod)
    build_world(Objects(pods=(pod,)), TODAY, parser)
    del pod
    assert watched() is not None
    build_world(Objects(), TODAY, parser)
    assert watched() is None


def test_a_long_name_is_found_again_behind_its_shortened_label() -> None:
    name = "w" * 100
    world = build_world(Objects(workloads=(iw(name),)), TODAY, Parser())
    assert world.key_of(("team", labels.label_value(name))) == ("team", name)
    assert world.key_of(("team", "unknown")) == ("team", "unknown")


@pytest.mark.parametrize(("ip", "host"), [("10.0.0.1", "10.0.0.1"), ("fd00::1:2", "[fd00::1:2]")])
def test_a_replica_is_asked_at_its_address_of_either_family(ip: str, host: str) -> None:
    unused: Any = None
    ours, vllm = replica(ip=ip), replica(ip=ip, uid="pod-2", engine=Engine.VLLM)
    world = replace(build_world(Objects(workloads=(iw("w"),)), TODAY, Parser()), replicas={("team", "w"): [ours, vllm]})
    endpoints = Executor(unused, unused, OperatorSettings("tests")).endpoints(world)
    assert [endpoint.url for endpoint in endpoints] == [f"http://{host}:9465", f"http://{host}:8080"]


def test_what_runs_is_named_after_the_pool_that_its_nodes_are_in_now() -> None:
    rows = pcap("row-a", scope={"nodePool": {"nodeSelector": {"row": "a"}}})
    nodes = (node("n1", row="a"), node("n2", row="b"))
    on_l4 = replace(power_fleet_option(pool="gone"), accelerator_class="l4")

    def named(*on: str) -> str:
        pods = {("team", "w"): [replica(node=name) for name in on]}
        world = build_world(Objects(workloads=(iw("w"),), nodes=nodes, power_caps=(rows,)), TODAY, Parser())
        return replace(world, replicas=pods).standing(("team", "w"), on_l4).pool

    assert named("n1", "n1") == "row-a"
    assert named("n2") == ""
    assert named("n1", "n2") == named() == named("n9") == "gone"


def test_a_cap_finds_namespaces_by_label() -> None:
    namespaces = (
        {"metadata": {"name": "a", "labels": {"centre": "one"}}},
        {"metadata": {"name": "b", "labels": {"centre": "two"}}},
    )
    cap = pcap("c", scope={"namespaces": {"names": ["z"], "selector": {"matchLabels": {"centre": "one"}}}})
    (found,) = build_world(Objects(power_caps=(cap,), namespaces=namespaces), TODAY, Parser()).caps.caps
    assert found.namespaces == {"a", "z"}


def test_nodes_of_two_pool_caps_that_are_not_nested_are_reported_to_the_one_that_loses_them() -> None:
    caps = [
        pcap("zone", scope={"nodePool": {"nodeSelector": {"zone": "a"}}}),
        pcap("gold", scope={"nodePool": {"nodeSelector": {"zone": "a", "tier": "gold"}}}),
    ]
    objects = Objects(power_caps=tuple(caps), nodes=(node("n1", zone="a", tier="gold"), node("n2", zone="a")))
    world = build_world(objects, TODAY, Parser())
    assert world.node_pools == {"n1": "gold", "n2": "zone"}
    assert [(it.cap, it.reason) for it in world.caps.problems] == [("zone", reasons.CAP_OVERLAPS)]
    caps[1]["spec"]["parent"] = "zone"
    world = build_world(objects, TODAY, Parser())
    assert world.caps.problems == ()


# ---- meters

PROFILE = next(
    p for p in CATALOGUE.profiles if p.accelerator_class == "l4" and p.accelerators == 1 and len(p.points) > 2
)
PLACEMENT = Placement(
    PROFILE.model, PROFILE.precision, PROFILE.reasoning, "l4", PROFILE.accelerators, "", PROFILE.engine
)


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
    assert [charge.state for charge in book.charges] == [state]
    assert bool(book.readings) is read


def test_an_unknown_placement_counts_all_that_its_boards_can_draw() -> None:
    (charge,) = books([replica(placement_digest="edited")], {}).charges
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
