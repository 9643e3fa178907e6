"""Events and the Lease of `lowbeam.kube` on the real API server."""

from __future__ import annotations

import asyncio
import time

from lowbeam.kube import EVENTS, LEASES, AioTransport, EventRecorder, LeaderElector
from tests.faultproxy import FaultProxy
from tests.kube_harness import (
    CONFIG_MAPS,
    config_map,
    monotonic_ms,
    now,
    proxy,
    running,
    through_proxy,
    transport,
    until,
)
from tools.localcluster.client import ClusterClient

__all__ = ["proxy", "through_proxy", "transport"]


async def test_an_event_is_posted_once_and_kubectl_shows_it(
    cluster: ClusterClient, transport: AioTransport, namespace: str
) -> None:
    obj = await transport.apply(CONFIG_MAPS, config_map(namespace))
    recorder = EventRecorder(transport, instance="test", monotonic_ms=monotonic_ms, now=now)
    async with running(recorder.run()):
        for _ in range(5):
            recorder.record(CONFIG_MAPS, obj, "Warning", reason="CapUnsatisfiable", action="Plan", note="raise the cap")
        await recorder.flush()
    assert recorder.dropped == 0
    assert transport.calls[("create", "events")] == 1
    shown = cluster.kubectl("events", "-n", namespace, "--for", "configmap/c")
    assert shown.count("raise the cap") == 1
    events = [e async for page in transport.list_pages(EVENTS, namespace=namespace) for e in page.items]
    assert [e["reportingController"] for e in events if e["reason"] == "CapUnsatisfiable"] == ["lowbeam.dev/operator"]


async def test_the_lease_goes_from_one_process_to_the_other_without_overlap(
    proxy: FaultProxy, through_proxy: AioTransport, transport: AioTransport, namespace: str
) -> None:
    def elector(identity: str, through: AioTransport) -> LeaderElector:
        return LeaderElector(
            through, namespace=namespace, name="l", identity=identity, monotonic_ms=monotonic_ms, now=now
        )

    one, two = elector("one", through_proxy), elector("two", transport)
    overlap: list[float] = []

    async def watch_for_overlap() -> None:
        while True:
            if one.is_leader and two.is_leader:
                overlap.append(time.monotonic())
            await asyncio.sleep(0.01)

    async with running(watch_for_overlap()):
        async with running(one.run()) as [first]:
            await until(lambda: one.is_leader)
            async with running(two.run()):
                await asyncio.sleep(0.5)
                assert not two.is_leader
                # 1. Handed over: no waiting for the lease to run out.
                started = time.monotonic()
                first.cancel()
                await until(lambda: two.is_leader)
                assert time.monotonic() - started < 6
                lease = await transport.get(LEASES, "l", namespace)
                assert lease["spec"]["holderIdentity"] == "two"
        # 2. Two stopped as well; one comes back, then is cut off from the server.
        one = elector("one", through_proxy)
        async with running(one.run()):
            await until(lambda: one.is_leader)
            two = elector("two", transport)
            async with running(two.run()):
                await proxy.go_down()
                await until(lambda: not one.is_leader, 15)
                assert not two.is_leader
                await until(lambda: two.is_leader, 30)
    assert overlap == []
