"""Another model where both do not fit side by side: replicas are replaced share by share on the real control plane."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from tests.operator_harness import BULK, Stage, is_ready, pod_ready, power_cap, stage, workload

__all__ = ["stage"]

REPLICAS = 4
FIXED: dict[str, Any] = {
    "scaling": {"minReplicas": REPLICAS, "maxReplicas": REPLICAS},
    "placement": {"acceleratorClasses": ["h100"]},
    "load": {"requestsPerMinute": 1200, "inputTokens": 300, "outputTokens": 500},
    "quality": {"benchmark": "mmlu-pro", "floor": "0"},
}
FROM, TO = {"pinned": "qwen3-8b"}, {"pinned": "qwen3-4b-instruct-2507"}


def by_placement(stage: Stage, namespace: str) -> Counter[str]:
    """Pods that are not on their way out."""
    return Counter(pod["metadata"]["labels"]["lowbeam.dev/placement"] for pod in stage.pods(namespace))


def start(stage: Stage, namespace: str) -> tuple[str, int]:
    """A workload of four replicas; its placement and what it may draw."""
    stage.apply(workload(namespace, "shares", BULK, **FIXED, model=FROM))
    stage.ready(namespace, "shares")
    (placement,) = by_placement(stage, namespace)
    watts: int = stage.iw(namespace, "shares")["status"]["energy"]["committedWatts"]
    return placement, watts


@pytest.mark.parametrize("killed", [False, True], ids=["at-rest", "killed-in-the-middle"])
def test_without_room_for_both_most_replicas_serve_throughout(stage: Stage, namespace: str, killed: bool) -> None:
    old, watts = start(stage, namespace)
    with stage.caps(power_cap(namespace, round(watts * 1.2), namespaces=[namespace])):
        stage.says(lambda: stage.own("powercaps", namespace), "Ready", "True", "InForce")
        seen: set[tuple[int, int]] = set()

        def look() -> Counter[str]:
            there = by_placement(stage, namespace)
            seen.add((there[old], there.total() - there[old]))
            assert there.total() <= REPLICAS, f"more than the cap has room for: {there}"
            serving = sum(pod_ready(pod) for pod in stage.pods(namespace))
            assert serving >= REPLICAS - 1, f"{serving} of {REPLICAS} serve\n{stage.operator.tail()}"
            return there

        def done() -> bool:
            return not look()[old] and is_ready(stage.iw(namespace, "shares"))

        stage.patch("iw", "shares", {"model": TO}, namespace)
        if killed:
            stage.eventually("half way", lambda: look()[old] <= REPLICAS // 2)
            stage.restart()
        stage.eventually("all of the new model", done)
        assert any(old_ones and new_ones for old_ones, new_ones in seen), f"never both at once: {seen}"
        (left,) = stage.deployments(namespace)
        assert left["spec"]["replicas"] == REPLICAS
        assert "lowbeam.dev/decided-replicas" not in left["metadata"]["annotations"]
        assert stage.iw(namespace, "shares")["status"]["selected"]["model"] == TO["pinned"]


def test_a_successor_goes_on_share_by_share_where_the_first_new_replica_is_still_to_come(
    stage: Stage, namespace: str
) -> None:
    old, watts = start(stage, namespace)
    with stage.caps(power_cap(namespace, round(watts * 1.2), namespaces=[namespace])):
        stage.says(lambda: stage.own("powercaps", namespace), "Ready", "True", "InForce")
        stage.allow_pods(namespace, REPLICAS - 1)  # no new pod beside three old ones
        stage.patch("iw", "shares", {"model": TO}, namespace)
        stage.eventually("the first share", lambda: by_placement(stage, namespace)[old] == REPLICAS - 1)
        stage.operator.kill()
        # As if it had been killed before it wrote the first new replica.
        (new,) = (it for it in stage.deployments(namespace) if old not in it["metadata"]["name"])
        stage.cluster.kubectl("scale", "deployment", new["metadata"]["name"], "-n", namespace, "--replicas=0")
        stage.start_operator(identity=stage.operator.identity)
        stage.stays("the others serve", lambda: by_placement(stage, namespace)[old] == REPLICAS - 1, 5)
        stage.allow_pods(namespace, None)
        stage.eventually("the next share", lambda: 0 < by_placement(stage, namespace)[old] < REPLICAS - 1)
        stage.eventually("all of the new model", lambda: not by_placement(stage, namespace)[old])


def test_old_replicas_that_are_made_again_are_charged_in_between(stage: Stage, namespace: str) -> None:
    old, watts = start(stage, namespace)
    with stage.caps(power_cap(namespace, round(watts * 3), namespaces=[namespace])):
        stage.says(lambda: stage.own("powercaps", namespace), "Ready", "True", "InForce")
        stage.allow_pods(namespace, REPLICAS)  # room for all of both in watts and accelerators, and no pod more
        stage.patch("iw", "shares", {"model": TO}, namespace)
        stage.eventually("both stand", lambda: len(stage.deployments(namespace)) == 2)

        def without_a_pod() -> int:
            """Watts that the cap is charged with beyond what the workload's pods could draw."""
            charged: int = stage.own("powercaps", namespace)["status"]["committedWatts"]
            of_pods: int = stage.iw(namespace, "shares")["status"]["energy"]["committedWatts"]
            return charged - of_pods

        stage.eventually("the new ones are charged", lambda: without_a_pod() > 0)
        time.sleep(4)  # until both statuses are of the same moment
        before = without_a_pod()
        stage.allow_pods(namespace, REPLICAS - 2)
        evicted = [pod["metadata"]["name"] for pod in stage.pods(namespace)][:2]
        stage.cluster.kubectl("delete", "pod", *evicted, "-n", namespace, "--now")
        stage.eventually("two are gone", lambda: by_placement(stage, namespace)[old] == REPLICAS - 2)
        stage.eventually("they are charged all the same", lambda: without_a_pod() >= before + 200)
        stage.stays("until they are made again", lambda: without_a_pod() >= before + 200, 5)
        stage.allow_pods(namespace, None)
        stage.eventually("all of the new model", lambda: not by_placement(stage, namespace)[old])


def test_a_cap_that_is_cut_in_the_middle_ends_the_old_replicas_at_once(stage: Stage, namespace: str) -> None:
    old, watts = start(stage, namespace)
    with stage.caps(power_cap(namespace, round(watts * 1.2), namespaces=[namespace], levers=["Batch"])):
        stage.says(lambda: stage.own("powercaps", namespace), "Ready", "True", "InForce")
        stage.allow_pods(namespace, 3)  # no new pod beside three old ones
        stage.patch("iw", "shares", {"model": TO}, namespace)
        stage.eventually("the first share", lambda: by_placement(stage, namespace)[old] == REPLICAS - 1)
        stage.stays("the others serve", lambda: by_placement(stage, namespace)[old] == REPLICAS - 1, 3)
        row = stage.iw(namespace, "shares")
        assert not is_ready(row)
        stage.patch("pcap", namespace, {"watts": round(watts * 0.9)})
        stage.eventually("the old ones end", lambda: not by_placement(stage, namespace)[old])
        stage.allow_pods(namespace, None)
        stage.eventually("the new model", lambda: bool(by_placement(stage, namespace)))


def test_a_new_leader_ends_nothing_because_it_has_heard_of_no_worker_yet(stage: Stage, namespace: str) -> None:
    """Until then each counts with its highest batch limit, and all are above what the cap calls an emergency."""
    stage.apply(workload(namespace, "shares", BULK, **FIXED, model={"names": [FROM["pinned"]]}))
    stage.ready(namespace, "shares")
    (old,) = by_placement(stage, namespace)
    watts = stage.iw(namespace, "shares")["status"]["energy"]["committedWatts"]
    with stage.caps(power_cap(namespace, round(watts * 1.02), namespaces=[namespace])):
        stage.says(lambda: stage.own("powercaps", namespace), "Ready", "True", "InForce")
        stage.operator.kill()
        # The old model is still an option, so that the new leader knows what runs and may choose something less.
        stage.patch("iw", "shares", {"model": {"names": [FROM["pinned"], "qwen3-0.6b"]}}, namespace)
        stage.start_operator(identity=stage.operator.identity)
        served: set[int] = set()

        def done() -> bool:
            served.add(sum(pod_ready(pod) for pod in stage.pods(namespace)))
            return not by_placement(stage, namespace)[old] and is_ready(stage.iw(namespace, "shares"))

        stage.eventually("all of the new model", done)
        assert min(served) >= REPLICAS - 1, f"{min(served)} of {REPLICAS} served\n{stage.operator.tail()}"
