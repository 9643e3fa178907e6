"""What `lowbeam top` reads of a cluster: the two kinds by list or watch, and whether the operator is alive.

Decides how little is asked for: one list per kind, and, unless the picture is wanted once, a watch, which costs nothing
while nothing changes, and a read of the operator's Lease every few seconds where that is allowed. Never writes.

Invariant: the operator is called silent only after its Lease was seen not to change for longer than it may; where the
Lease cannot be read nothing is said. Clocks of other machines are not trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lowbeam.cli.top.rows import cap_rows, workload_rows
from lowbeam.cli.top.view import Picture, ago
from lowbeam.errors import Impossible, Unreachable
from lowbeam.kube import (
    INFERENCE_WORKLOADS,
    LEASES,
    POWER_CAPS,
    Forbidden,
    Informer,
    InformerState,
    KubeError,
    KubeTransport,
    Resource,
    keep_only,
)
from lowbeam.kube.lease import RETRY_SECONDS
from lowbeam.kube.rivals import LEASE_SECONDS
from lowbeam.runtime.clock import Clock
from lowbeam.runtime.settings import LEASE_NAME

FIRST_PICTURE_SECONDS = 30.0
"""One list was answered already: a watch that gives nothing for so long is held up on the way."""
LEASE_READ_SECONDS = 5.0
SILENT_AFTER_SECONDS = LEASE_SECONDS + LEASE_READ_SECONDS
"""A Lease that did not change for so long has expired, and nobody took it."""
ASKED_AGAIN_SECONDS = 2.5 * RETRY_SECONDS
"""Once: an old stamp may be another clock's. A living operator renews within this time."""

SHOWN_OF_A_WORKLOAD = (
    "spec.mode",
    "status.observedGeneration",
    "status.conditions",
    "status.selected",
    "status.energy",
    "status.dimming",
    "status.history",
    "status.readyReplicas",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked for on the command line."""

    namespace: str | None
    """None: all."""
    operator_namespace: str
    sort: str


@dataclass(slots=True)
class LeaseSight:
    """What was seen of the operator's Lease, by our own clock."""

    record: Mapping[str, Any] | None = None
    """Its spec; None where it was not read yet, or may not be."""
    changed_at_ms: int = 0
    read_at_ms: int = 0

    def take(self, record: Mapping[str, Any], monotonic_ms: int) -> None:
        """The Lease's spec as it was just read."""
        if record != self.record:
            self.record, self.changed_at_ms = record, monotonic_ms
        self.read_at_ms = monotonic_ms

    def warning(self, now: datetime, patience_seconds: float = SILENT_AFTER_SECONDS) -> str:
        """Why the figures may be old; empty when the operator renews its Lease, or when nobody can tell."""
        if self.record is None:
            return ""
        if not self.record.get("holderIdentity"):
            return "no operator is running: the last one gave its Lease back; the figures are its last ones"
        # From read to read: while we were stopped or cut off ourselves, nobody looked.
        unchanged = (self.read_at_ms - self.changed_at_ms) / 1000
        if unchanged < patience_seconds:
            return ""
        renewed = _moment(self.record.get("renewTime"))
        # Its own stamp says more than what we saw ourselves, and is believed only where both fit together.
        said = unchanged if renewed is None else max(unchanged, (now - renewed).total_seconds())
        return f"the operator has not renewed its Lease for {ago(said)}: the figures are from before"


class Live:
    """Both kinds, mirrored, and the Lease; `async with` keeps them up to date."""

    def __init__(self, transport: KubeTransport, question: Question, clock: Clock) -> None:
        self._transport, self._question, self._clock = transport, question, clock
        self._workloads = self._mirror(INFERENCE_WORKLOADS, question.namespace, *SHOWN_OF_A_WORKLOAD)
        self._caps = self._mirror(POWER_CAPS, None, "spec", "status")
        self._lease = LeaseSight()
        self._lost_at: datetime | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _mirror(self, resource: Resource, namespace: str | None, *shown: str) -> Informer:
        return Informer(
            self._transport,
            resource,
            namespace=namespace,
            monotonic_ms=self._clock.monotonic_ms,
            sleep=self._clock.sleep,
            transform=keep_only(*shown),
            streaming_lists=False,
        )

    async def __aenter__(self) -> Live:
        """Wait for the first picture. Raises Impossible or KubeError where there will be none."""
        await _may_read(self._transport, self._question.namespace)
        running = (self._workloads.run(), self._caps.run(), self._watch_lease())
        self._tasks = [asyncio.create_task(it) for it in running]
        try:
            async with asyncio.timeout(FIRST_PICTURE_SECONDS):
                await self._first_picture()
        except BaseException as error:
            await self.__aexit__()
            if isinstance(error, TimeoutError):
                seen = "nothing came" if self._workloads.error is None else _reason(self._workloads.error)
                raise Unreachable(f"watch inferenceworkloads: {seen}; --once asks without a watch") from error
            raise
        return self

    async def _first_picture(self) -> None:
        while not (self._workloads.synced and (self._caps.synced or self._caps.error is not None)):
            refused = self._workloads.state in (InformerState.FORBIDDEN, InformerState.MISSING_KIND)
            if refused and self._workloads.error is not None:
                raise _explained(self._workloads.error)
            await self._clock.sleep(0.05)

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def picture(self) -> Picture:
        """What is known now, and since when it is not known better. Raises Impossible once it may not be read."""
        if isinstance(self._workloads.error, Forbidden):  # it would only list everything again and again
            raise _explained(self._workloads.error)
        now, never = self._clock.now(), None if self._caps.synced else self._caps.error
        lost = next((it.error for it in (self._workloads, self._caps) if it.synced and it.error is not None), None)
        self._lost_at = None if lost is None else self._lost_at or now
        if lost is not None and self._lost_at is not None:
            warning = f"no news since {self._lost_at:%H:%M:%S} UTC, trying again: {_reason(lost)}"
        else:  # without a connection the Lease could not be seen either
            warning = self._lease.warning(now)
        return Picture(
            cap_rows(self._caps.objects()),
            workload_rows(self._workloads.objects(), self._question.sort),
            self._question.namespace,
            "" if never is None else _caps_problem(never),
            warning,
        )

    async def _watch_lease(self) -> None:
        while True:
            try:
                self._lease.take(
                    await _read_lease(self._transport, self._question.operator_namespace), self._clock.monotonic_ms()
                )
            except Forbidden:
                return
            except KubeError:
                self._lease = LeaseSight()  # a gap in what we saw is no silence of the operator's
            await self._clock.sleep(LEASE_READ_SECONDS)


async def read_once(transport: KubeTransport, question: Question, clock: Clock) -> Picture:
    """The picture now. Raises Impossible or KubeError where there is none."""
    try:
        workloads = await _listed(transport, INFERENCE_WORKLOADS, question.namespace)
    except KubeError as error:
        raise _explained(error) from error
    caps, problem, sight = list[Any](), "", LeaseSight()
    try:
        caps = await _listed(transport, POWER_CAPS, None)
    except Forbidden as error:
        problem = _caps_problem(error)
    with contextlib.suppress(KubeError):
        sight.take(await _read_lease(transport, question.operator_namespace), clock.monotonic_ms())
        renewed = _moment((sight.record or {}).get("renewTime"))
        if renewed is None or abs(clock.now() - renewed) > timedelta(seconds=LEASE_SECONDS):
            await clock.sleep(ASKED_AGAIN_SECONDS)
            sight.take(await _read_lease(transport, question.operator_namespace), clock.monotonic_ms())
    return Picture(
        cap_rows(caps),
        workload_rows(workloads, question.sort),
        question.namespace,
        problem,
        sight.warning(clock.now(), ASKED_AGAIN_SECONDS),
    )


async def _may_read(transport: KubeTransport, namespace: str | None) -> None:
    """One object at most: what is wrong is said before the screen changes."""
    try:
        await anext(transport.list_pages(INFERENCE_WORKLOADS, namespace=namespace, limit=1))
    except KubeError as error:
        raise _explained(error) from error


async def _listed(transport: KubeTransport, resource: Resource, namespace: str | None) -> list[Any]:
    pages = transport.list_pages(resource, namespace=namespace)
    return [item async for page in pages for item in page.items]


async def _read_lease(transport: KubeTransport, namespace: str) -> Mapping[str, Any]:
    lease = await transport.get(LEASES, LEASE_NAME, namespace)
    record: Mapping[str, Any] = lease.get("spec") or {}
    return record


def _explained(error: KubeError) -> KubeError | Impossible:
    """The same for somebody who may be no administrator: which right is missing, and what works without it."""
    if not isinstance(error, Forbidden):
        return error
    everywhere = "" if error.request.target else "choose a namespace with -n NAMESPACE, or "
    return Impossible(f"{error.detail}; {everywhere}{_wish(error)}")


def _wish(error: KubeError) -> str:
    return f'ask for a role with the verbs "list" and "watch" on "{error.request.resource}.lowbeam.dev"'


def _caps_problem(error: KubeError) -> str:
    if isinstance(error, Forbidden):
        return 'not readable for you: that needs a ClusterRole with "list" and "watch" on "powercaps.lowbeam.dev"'
    return _reason(error)


def _reason(error: KubeError) -> str:
    if isinstance(error, Forbidden):
        return f"{error.detail}; {_wish(error)}"
    return error.detail if error.retriable else f"{error.detail}; {error.next_step}"


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
