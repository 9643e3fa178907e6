"""Raw objects become a World."""

from __future__ import annotations

import weakref
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.api.v1alpha1 import Engine, reasons
from lowbeam.render import labels
from lowbeam.runtime.executor import Executor
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.world import Objects, Observation, Parser, build_world
from lowbeam.sizing import Demand
from tests.fakes.agents import no_agents
from tests.fakes.power_fleet import option as power_fleet_option
from tests.raw_objects import TODAY, iw, node, pcap, replica


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
    tomorrow = build_world(after, datetime(2026, 11, 22, tzinfo=UTC), parser, observed)
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
    endpoints = Executor(unused, unused, OperatorSettings("tests"), no_agents()).endpoints(world)
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
