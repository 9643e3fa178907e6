"""What happens in a cluster, seen through watches, with the moment at which each change arrived.

Reads through the same client as the operator; writes only what the benchmark itself changes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from lowbeam.api.v1alpha1 import reasons
from lowbeam.kube import (
    DEPLOYMENTS,
    EVENTS,
    INFERENCE_WORKLOADS,
    POWER_CAPS,
    Change,
    Informer,
    KubeObject,
    KubeTransport,
    Resource,
    connect,
)

_FIELD_MANAGER = "lowbeam-bench"
_ACTS = frozenset({reasons.DIMMED, reasons.PAUSED})
_LOOK_SECONDS = 0.05


class Watching:
    """Live copies of workloads, caps, Deployments and Events."""

    def __init__(self, transport: KubeTransport) -> None:
        self._transport = transport
        self.informers = {
            resource: Informer(transport, resource, monotonic_ms=lambda: round(time.monotonic() * 1000))
            for resource in (INFERENCE_WORKLOADS, POWER_CAPS, DEPLOYMENTS, EVENTS)
        }
        self.acts: list[tuple[float, str]] = []
        """(moment, what) of every changed Deployment and every Event about dimming, in order."""
        for resource in (DEPLOYMENTS, EVENTS):
            self.informers[resource].on_change(self._saw)

    async def set_watts(self, cap: str, watts: int) -> tuple[float, int]:
        """Change a cap; the moment just before, and the generation of its spec afterwards."""
        live = self.informers[POWER_CAPS].get("", cap)
        if live is None:
            raise LookupError(f"no PowerCap {cap}")
        body = {"metadata": {"name": cap}, "spec": {"scope": live["spec"]["scope"], "watts": watts}}
        started = time.monotonic()
        changed = await self._transport.apply(POWER_CAPS, body, field_manager=_FIELD_MANAGER)
        return started, changed["metadata"]["generation"]

    def cap(self, name: str) -> KubeObject:
        """One cap as last seen; empty before it is seen."""
        return self.informers[POWER_CAPS].get("", name) or {}

    def workloads(self) -> tuple[KubeObject, ...]:
        """All workloads as last seen."""
        return self.informers[INFERENCE_WORKLOADS].objects()

    def settled(self) -> list[KubeObject]:
        """Workloads that run all they ask for: Ready, nothing on the way, not dimmed."""
        return [raw for raw in self.workloads() if is_settled(raw)]

    def _saw(self, resource: Resource, change: Change, old: KubeObject | None, new: KubeObject | None) -> None:
        if resource == EVENTS:
            if change is Change.ADDED and new is not None and new.get("reason") in _ACTS:
                self.acts.append((time.monotonic(), f"Event {new['reason']}"))
        elif change is not Change.MODIFIED or _generation(old) != _generation(new):
            self.acts.append((time.monotonic(), f"Deployment {change.value.lower()}"))


@asynccontextmanager
async def watching(kubeconfig: str) -> AsyncIterator[Watching]:
    """Connect, and wait until every watch has its first list."""
    async with await connect(kubeconfig) as transport:
        seen = Watching(transport)
        tasks = [asyncio.create_task(informer.run()) for informer in seen.informers.values()]
        try:
            for informer in seen.informers.values():
                await informer.wait_synced()
            seen.acts.clear()
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)


async def seconds_until(
    holds: Callable[[], bool], *, started: float, within: float, check: Callable[[], None] = lambda: None
) -> float | None:
    """Seconds since `started` until something holds; None when it does not within the time."""
    while not holds():
        check()
        if time.monotonic() - started > within:
            return None
        await asyncio.sleep(_LOOK_SECONDS)
    return time.monotonic() - started


def is_settled(raw: KubeObject) -> bool:
    """Whether the status speaks of the present spec and says: ready, not on the way, not dimmed."""
    status = raw.get("status", {})
    conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
    return (
        status.get("observedGeneration") == raw["metadata"].get("generation")
        and conditions.get(reasons.READY) == "True"
        and conditions.get(reasons.RECONCILING) == "False"
        and "dimming" not in status
    )


def _generation(obj: KubeObject | None) -> Any:
    return None if obj is None else obj["metadata"].get("generation")
