from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lowbeam.planning.committed import Order
from lowbeam.planning.roll import Roll
from lowbeam.runtime.children import OLD_TO_END, Step, next_step
from lowbeam.runtime.replicas import Child, Replica, child_of, replica_of

OLD, NEW = "triage-old", "triage-new"
MAKE, BREAK = Order.MAKE_BEFORE_BREAK, Order.BREAK_BEFORE_MAKE


def child(name: str, *, replicas: int = 2, ready: int = 2) -> Child:
    return Child(name, f"uid-{name}", None, name.rsplit("-", 1)[-1], replicas, ready, {})


def pods(name: str, count: int = 2) -> list[Replica]:
    digest = name.rsplit("-", 1)[-1]
    return [
        Replica(f"{name}-{n}", f"{name}-{n}", ("team", "triage"), digest, "10.0.0.1", "node", 1, True, True, False, "")
        for n in range(count)
    ]


@pytest.mark.parametrize("order", [*Order])
def test_a_first_deployment_is_applied_whole(order: Order) -> None:
    step = next_step(NEW, 2, [], [], order=order, roll=Roll(2) if order is Order.ROLLING else None)
    assert (step.apply_replicas, step.delete, step.waiting_for) == (2, (), "")


def test_made_before_broken_the_old_one_stays_until_every_new_replica_is_ready() -> None:
    old = child(OLD)
    for ready, gone in ((0, ()), (1, ()), (2, (old,))):
        step = next_step(NEW, 2, [old, child(NEW, ready=ready)], [*pods(OLD), *pods(NEW, ready)], order=MAKE)
        assert step.apply_replicas == 2
        assert step.delete == gone
        assert step.waiting_for


def test_a_replacement_is_over_when_the_last_old_pod_is_gone() -> None:
    assert next_step(NEW, 2, [child(NEW)], [*pods(OLD, 1), *pods(NEW)], order=MAKE).waiting_for == OLD_TO_END
    assert not next_step(NEW, 2, [child(NEW)], pods(NEW), order=MAKE).waiting_for


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ({"observedGeneration": 3, "updatedReplicas": 2}, True),
        ({"observedGeneration": 2, "updatedReplicas": 2}, False),
        ({"observedGeneration": 3, "updatedReplicas": 1}, False),
        ({}, False),
    ],
)
def test_an_edited_template_is_waited_for_until_every_pod_has_it(status: dict[str, int], done: bool) -> None:
    live = child_of({"metadata": {"name": NEW, "uid": "u", "generation": 3}, "spec": {"replicas": 2}, "status": status})
    assert bool(next_step(NEW, 2, [live], pods(NEW), order=MAKE).waiting_for) is not done


def test_broken_before_made_the_new_one_waits_until_the_last_old_pod_is_gone() -> None:
    first = next_step(NEW, 2, [child(OLD)], pods(OLD), order=BREAK)
    assert (first.apply_replicas, [c.name for c in first.delete]) == (None, [OLD])
    meanwhile = next_step(NEW, 2, [], pods(OLD, 1), order=BREAK)
    assert meanwhile.apply_replicas is None
    assert meanwhile.waiting_for
    assert next_step(NEW, 2, [], [], order=BREAK).apply_replicas == 2


def test_broken_before_made_what_already_runs_of_the_new_one_does_not_grow() -> None:
    step = next_step(NEW, 4, [child(OLD), child(NEW, replicas=1)], [*pods(OLD), *pods(NEW, 1)], order=BREAK)
    assert step.apply_replicas == 1


def test_nothing_to_run_deletes_everything_and_waits_for_the_pods() -> None:
    step = next_step(None, 0, [child(OLD), child(NEW)], pods(OLD), order=BREAK)
    assert step.apply_replicas is None
    assert [c.name for c in step.delete] == [OLD, NEW]
    assert step.waiting_for
    assert not next_step(None, 0, [], [], order=BREAK).waiting_for


def pod(**status: Any) -> dict[str, Any]:
    labels = {"lowbeam.dev/workload": "triage", "lowbeam.dev/placement": "abc"}
    return {"metadata": {"uid": "u", "name": "p", "namespace": "team", "labels": labels}, "status": status}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}, "0/3 nodes"),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}, "ImagePullBackOff"),
        (
            {"containerStatuses": [{"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
            "137: OOMKilled",
        ),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, ""),
    ],
)
def test_a_pod_says_why_it_is_not_ready(status: dict[str, Any], words: str) -> None:
    replica = replica_of(pod(**status))
    assert replica is not None
    assert words in replica.trouble
    assert bool(words) is bool(replica.trouble)


@pytest.mark.parametrize(("status", "words"), [("True", "exceeded quota"), ("False", "")])
def test_a_deployment_says_why_it_gets_no_pods(status: str, words: str) -> None:
    failure = {"type": "ReplicaFailure", "status": status, "message": "exceeded quota"}
    available = {"type": "Available", "status": "False", "message": "no minimum availability"}
    live = child_of({"metadata": {"name": NEW, "uid": "u"}, "status": {"conditions": [available, failure]}})
    assert live.trouble == words


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_draws_nothing(phase: str) -> None:
    assert replica_of(pod(phase=phase)) is None


def test_a_deployment_with_an_edited_annotation_has_no_placement() -> None:
    raw = {"metadata": {"name": NEW, "uid": "u", "annotations": {"lowbeam.dev/option": "{"}}, "spec": {}}
    assert child_of(raw).placement is None


ROLL = Roll(4)


def rolled(old: int, new: int | None, *, ready: int, ending: int = 0, replicas: int = 4) -> Step:
    """The next step where so many old replicas are wanted and there, and so many new ones; None: no Deployment."""
    children = [child(OLD, replicas=old, ready=old)] if old else []
    children += [child(NEW, replicas=new, ready=ready)] if new is not None else []
    there = [*pods(OLD, old + ending), *pods(NEW, new or 0)]
    return next_step(NEW, replicas, children, there, order=Order.ROLLING, roll=ROLL)


def shrunk(step: Step) -> list[tuple[str, int]]:
    return [(it.name, replicas) for it, replicas in step.shrink]


def test_share_by_share_the_new_deployment_is_there_before_the_first_old_replica_goes() -> None:
    """So that a successor sees what was begun."""
    step = rolled(4, None, ready=0)
    assert (step.apply_replicas, shrunk(step), step.delete) == (0, [], ())
    assert "0 of 4" in step.waiting_for


def test_share_by_share_an_old_replica_goes_first_as_there_is_room_for_no_new_one() -> None:
    step = rolled(4, 0, ready=0)
    assert (step.apply_replicas, shrunk(step), step.delete) == (0, [(OLD, 3)], ())


def test_share_by_share_a_new_replica_comes_when_the_old_one_is_gone_and_not_before() -> None:
    assert rolled(3, 0, ready=0, ending=1).apply_replicas == 0
    step = rolled(3, 0, ready=0)
    assert (step.apply_replicas, shrunk(step)) == (1, [])


def test_share_by_share_the_next_old_one_stays_until_the_new_one_is_ready() -> None:
    waits = rolled(3, 1, ready=0)
    assert (waits.apply_replicas, shrunk(waits)) == (1, [])
    goes = rolled(3, 1, ready=1)
    assert (goes.apply_replicas, shrunk(goes)) == (1, [(OLD, 2)])


def test_share_by_share_the_last_old_ones_go_with_their_deployment() -> None:
    assert [it.name for it in rolled(1, 3, ready=3).delete] == [OLD]
    assert rolled(0, 3, ready=3, ending=1).apply_replicas == 3
    assert rolled(0, 3, ready=3).apply_replicas == 4


def test_share_by_share_many_go_for_few() -> None:
    step = rolled(4, 0, ready=0, replicas=2)
    assert shrunk(step) == [(OLD, 2)]
    assert rolled(2, 0, ready=0, replicas=2).apply_replicas == 1


def test_share_by_share_an_old_pod_that_is_made_again_takes_no_new_one_its_place() -> None:
    children = [child(OLD, replicas=3), child(NEW, replicas=1, ready=1)]
    step = next_step(NEW, 4, children, [*pods(OLD, 2), *pods(NEW, 1)], order=Order.ROLLING, roll=ROLL)
    assert (step.apply_replicas, shrunk(step)) == (1, [(OLD, 2)])


def test_share_by_share_an_old_pod_that_drains_beside_the_one_made_in_its_place_leaves_no_room() -> None:
    children = [child(OLD, replicas=3), child(NEW, replicas=0, ready=0)]
    draining = [replace(pods(OLD, 3)[2], terminating=True)]
    step = next_step(NEW, 4, children, [*pods(OLD, 2), *draining], order=Order.ROLLING, roll=ROLL)
    assert step.apply_replicas == 0, "three are wanted and one drains: as many as at the start"


@pytest.mark.parametrize("ready", [0, 1], ids=["it loads", "it serves"])
def test_share_by_share_no_new_replica_goes_because_an_old_one_was_evicted(ready: int) -> None:
    children = [child(OLD, replicas=3), child(NEW, replicas=1, ready=ready)]
    draining = [replace(pods(OLD, 3)[2], terminating=True)]
    there = [*pods(OLD, 2), *draining, *pods(NEW, 1)]
    assert next_step(NEW, 4, children, there, order=Order.ROLLING, roll=ROLL).apply_replicas == 1


def test_share_by_share_new_replicas_that_somebody_asked_for_beyond_the_room_are_taken_back() -> None:
    children = [child(OLD, replicas=3), child(NEW, replicas=4, ready=1)]
    step = next_step(NEW, 4, children, [*pods(OLD, 3), *pods(NEW, 4)], order=Order.ROLLING, roll=ROLL)
    assert (step.apply_replicas, shrunk(step)) == (1, [(OLD, 2)])


def test_share_by_share_an_old_deployment_that_somebody_scaled_by_a_slip_of_the_hand_goes_on() -> None:
    children = [child(OLD, replicas=2**31 - 1), child(NEW, replicas=1, ready=1)]
    step = next_step(NEW, 4, children, [*pods(OLD, 3), *pods(NEW, 1)], order=Order.ROLLING, roll=ROLL)
    assert (step.apply_replicas, shrunk(step)) == (1, [(OLD, 2)])


@pytest.mark.parametrize("ready", [3, 4])
def test_share_by_share_new_replicas_that_serve_already_stay_and_old_ones_go_for_them(ready: int) -> None:
    children = [child(OLD, replicas=3), child(NEW, replicas=4, ready=ready)]
    step = next_step(NEW, 4, children, [*pods(OLD, 3), *pods(NEW, 4)], order=Order.ROLLING, roll=ROLL)
    assert step.apply_replicas == ready
    assert [it.name for it in step.delete] == [OLD]
