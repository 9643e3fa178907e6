"""Another model where both do not fit side by side: replicas are replaced share by share on the real control plane."""

from __future__ import annotations

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
