"""The operator is killed at every single one of its writes, the answer lost, and still comes to the same end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.test_operator_rolling import FIXED, FROM, TO
from tests.faultproxy import Asked, Fault, FaultProxy, LoseAnswer, Reset
from tests.operator_harness import BULK, Stage, is_ready, pod_ready, power_cap, staged, workload
from tools.localcluster.client import ClusterClient

WRITES = {"create", "patch", "update", "delete"}
NO_DECISION = {"leases", "events"}
"""Said again or let go, whatever happens to them."""
QUIET_SECONDS = 4
"""A leading operator that has something to write has written it by then."""
MOST_LIVES = 40


class OneWrite:
    """Lets one write of a life reach the server and loses its answer; all that follow are refused."""

    def __init__(self) -> None:
        self.spent = threading.Event()
        self.write = ""

    def __call__(self, asked: Asked) -> Fault | None:
        if asked.verb not in WRITES or asked.resource in NO_DECISION:
            return None
        if self.spent.is_set():
            return Reset()
        self.write = f"{asked.verb} {asked.resource}"
        self.spent.set()
        return LoseAnswer()


@contextmanager
def proxied(kubeconfig: Path) -> Iterator[FaultProxy]:
    """A fault proxy on a thread of its own."""
    proxy, started = FaultProxy(kubeconfig), Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()

    async def serve() -> None:
        over = asyncio.Event()
        async with proxy:
            started.set_result((asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    loop, over = started.result(20)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@pytest.fixture
def stage(cluster: ClusterClient, tmp_path: Path) -> Iterator[Stage]:
    """A stage whose operators die young."""
    with staged(cluster, tmp_path) as made:
        yield made


def lives(stage: Stage, proxy: FaultProxy, done: Callable[[], bool]) -> list[str]:
    """Start the operator and kill it at its first write, again and again until it has nothing to write: the writes."""
    kubeconfig, written = proxy.write_kubeconfig(stage.folder), []
    while len(written) < MOST_LIVES:
        proxy.fault = one = OneWrite()
        operator = stage.start_operator(kubeconfig, identity="operator")
        stage.eventually("it writes, or all is done", lambda one=one: one.spent.is_set() or done())
        one.spent.wait(QUIET_SECONDS)
        operator.kill()
        if not one.spent.is_set():
            return written
        written.append(one.write)
    pytest.fail(f"still writing after {MOST_LIVES} lives: {written}")


@pytest.mark.timeout(600)
def test_killed_at_each_of_its_writes_it_comes_to_the_same_end(stage: Stage, namespace: str) -> None:
    def ready() -> bool:
        return is_ready(stage.iw(namespace, "w"))

    with proxied(stage.cluster.kubeconfig) as proxy:
        stage.apply(workload(namespace, "w"))
        first = lives(stage, proxy, ready)
        assert {"patch deployments", "patch services", "patch inferenceworkloads/status"} <= set(first)
        (old,) = stage.deployments(namespace)
        assert len(stage.pods(namespace)) == old["spec"]["replicas"]

        stage.patch("iw", "w", {"model": {"pinned": "roberta-base-sst2"}}, namespace)
        second = lives(stage, proxy, ready)
        assert {"patch deployments", "delete deployments", "patch inferenceworkloads/status"} <= set(second)
    (new,) = stage.deployments(namespace)
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert len(stage.pods(namespace)) == new["spec"]["replicas"]
    assert stage.iw(namespace, "w")["status"]["selected"]["model"] == "roberta-base-sst2"
    print(f"\nkilled at {len(first)} + {len(second)} writes: {first} {second}")


@pytest.mark.timeout(600)
def test_killed_at_each_of_its_writes_it_replaces_share_by_share_all_the_same(stage: Stage, namespace: str) -> None:
    """The cap has no room for the new model at the batch limit of the old one, which the status tells for long."""
    replicas = 3
    served: set[int] = set()

    def done() -> bool:
        served.add(sum(pod_ready(pod) for pod in stage.pods(namespace)))
        row = stage.iw(namespace, "w")
        return is_ready(row) and row["status"]["selected"]["model"] == TO["pinned"]

    operator = stage.start_operator(identity="operator")
    scaling = {"minReplicas": replicas, "maxReplicas": replicas}
    stage.apply(workload(namespace, "w", BULK, **{**FIXED, "scaling": scaling}, model=FROM))
    stage.ready(namespace, "w")
    watts = stage.iw(namespace, "w")["status"]["energy"]["committedWatts"]
    with (
        stage.caps(power_cap(namespace, round(watts * 1.2), namespaces=[namespace])),
        proxied(stage.cluster.kubeconfig) as proxy,
    ):
        stage.says(lambda: stage.own("powercaps", namespace), "Ready", "True", "InForce")
        operator.kill()
        stage.patch("iw", "w", {"model": TO}, namespace)
        written = lives(stage, proxy, done)
    assert {"patch deployments", "delete deployments", "patch inferenceworkloads/status"} <= set(written)
    assert min(served) >= replicas - 1, f"{min(served)} of {replicas} served"
    (left,) = stage.deployments(namespace)
    assert left["spec"]["replicas"] == replicas
    print(f"\nkilled at {len(written)} writes: {written}")
