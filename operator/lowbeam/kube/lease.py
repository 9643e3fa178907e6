"""Who may act: leader election on one coordination.k8s.io Lease.

Decides whether this process is the leader. Never trusts another machine's clock: a lease has expired when its record
did not change for its duration *as seen from here*. (The stock election of kubernetes.aio cannot create a Lease, and
its leader goes on after cancellation.) A Lease lives in one namespace and an operator plans for the whole cluster, so
that a new leader looks for Leases of the same name in the others first; `rivals` decides what follows.

Invariants
- `is_leader` is computed at the moment of asking from the last renewal that certainly reached the server, counted from
  before the request was sent: it turns False by itself `RENEW_DEADLINE_SECONDS` later, even when this task is stuck.
- That deadline lies before the lease's end, so two processes are never leader at the same time, unless their clocks run
  at speeds that differ by more than a third.
- The same holds for processes of other namespaces: leadership begins, also after an interruption, with a look for their
  Leases that was asked for after our own was written. Without the right to look there is no such promise; once it is
  there, the look is made up for.
- Every write is a compare-and-swap on the resourceVersion that was read.
- On cancellation the lease is given back, so that a successor need not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import structlog

from lowbeam.kube.errors import Conflict, Forbidden, KubeError, NotFound
from lowbeam.kube.events import micro_time
from lowbeam.kube.resources import LEASES
from lowbeam.kube.rivals import LEASE_SECONDS, Sighting, Step, alive, decide, sight, waiting_message
from lowbeam.kube.transport import KubeObject, KubeTransport

RENEW_DEADLINE_SECONDS = 10
RETRY_SECONDS = 2
RELEASE_TIMEOUT_SECONDS = 3
LOOK_SECONDS = 30
"""A leader looks for others this often: one that is older than this rule, or may not look, writes beside it."""
LOOK_TIMEOUT_SECONDS = 3
"""Such a look holds up the next renewal for no longer."""

log = structlog.get_logger(__name__)


class LeaderElector:
    """Takes and keeps the Lease `namespace/name` as `identity`. Run `run()` as a task and ask `is_leader`."""

    def __init__(
        self,
        transport: KubeTransport,
        *,
        namespace: str,
        name: str,
        identity: str,
        monotonic_ms: Callable[[], int],
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.identity = identity
        self.holder = ""
        """Who holds the lease, as last seen; empty: nobody."""
        self.message = ""
        """Why the lease cannot be read or written, or is not taken, and what to do; empty otherwise."""
        self.rivals: Mapping[str, Sighting] = {}
        """Namespace -> living Lease of another operator, as last seen by a leader, or by who is about to lead."""
        self._transport = transport
        self._namespace = namespace
        self._name = name
        self._monotonic_ms = monotonic_ms
        self._now = now
        self._sleep = sleep
        self._jitter = jitter
        self._renewed_at_ms: int | None = None
        self._seen: KubeObject | None = None
        self._seen_at_ms = 0
        self._sightings: dict[str, Sighting] = {}
        self._looked_at_ms = 0
        self._refused_since_ms: int | None = None
        self._may_look = True
        self._blind = False
        """Began to lead without having looked for others."""

    @property
    def is_leader(self) -> bool:
        """Whether this process may write now."""
        return self.leader_for_ms() > 0

    def leader_for_ms(self) -> int:
        """Milliseconds for which leadership is certain without another renewal; 0 when not the leader."""
        if self._renewed_at_ms is None:
            return 0
        return max(0, self._renewed_at_ms + RENEW_DEADLINE_SECONDS * 1000 - self._monotonic_ms())

    async def run(self) -> None:
        """Try to become leader, renew, try again after a loss; until cancelled, which gives the lease back."""
        was_leader = False
        try:
            while True:
                await self._try()
                if self.is_leader != was_leader:
                    was_leader = not was_leader
                    log.info("leadership changed", leader=was_leader, identity=self.identity, holder=self.holder)
                # Followers are spread out, so that they do not all grab at an expired lease together.
                await self._sleep(RETRY_SECONDS * (1 if was_leader else 1 + 0.2 * self._jitter()))
        finally:
            await self._release()

    async def _try(self) -> None:
        """One attempt to take or renew. Trouble is remembered in `message`; leadership then runs out by itself."""
        started_ms = self._monotonic_ms()
        try:
            # An attempt that lasts longer than this could only confirm what has run out already.
            async with asyncio.timeout(RENEW_DEADLINE_SECONDS):
                taken = await self._take_or_renew()
        except Conflict:
            taken = None  # Somebody was faster, or the answer to our own write was lost: read it in the next round.
        except TimeoutError:
            taken = None
            self._failed(f"lease {self._namespace}/{self._name}: no answer within the renewal deadline")
        except KubeError as error:
            taken = None
            self._failed(str(error))
        if taken:
            self._renewed_at_ms, self.message = started_ms, ""
            await self._look_as_leader()
        elif taken is False:
            self._renewed_at_ms = None

    def _failed(self, why: str) -> None:
        if not self.message:
            log.warning("the lease cannot be renewed", error=why, leader=self.is_leader)
        self.message = why

    async def _take_or_renew(self) -> bool:
        """True: ours, and this process may lead now. False: another leads."""
        try:
            lease = await self._transport.get(LEASES, self._name, self._namespace)
            self._observe(lease)
        except NotFound:
            lease, self._renewed_at_ms = None, None  # who came while it was missing did not see us
        ours = lease is not None and self.holder == self.identity
        # One that was deleted meanwhile counts, too: its holder may not have noticed yet.
        if self._seen is not None and self.holder not in ("", self.identity) and not self._expired(self._seen):
            self.message, self.rivals = "", {}
            return False
        if not ours and await self._step(holds=False) is Step.STAND_BACK:
            return False
        if lease is None:
            self._observe(await self._transport.create(LEASES, self._record(None)))
        else:
            self._observe(await self._transport.apply(LEASES, self._record(lease)))
        if ours and self.is_leader:  # without a gap: nobody can have taken it for dead
            return True
        step = await self._step(holds=True)
        if step is Step.STAND_BACK:
            self._observe(await self._transport.apply(LEASES, self._record(self._seen, released=True)))
        self._blind = not self._may_look
        return step is Step.LEAD

    async def _step(self, *, holds: bool) -> Step:
        """Look for operators of other namespaces and decide; says so when the answer is to wait."""
        await self._look()
        step = decide(self._namespace, self.rivals, holds=holds)
        if step is not Step.LEAD:
            self.message = waiting_message(self._namespace, self._name, self.rivals)
        return step

    async def _look(self) -> None:
        asked_ms = self._monotonic_ms()
        leases: list[KubeObject] = []
        try:
            async for page in self._transport.list_pages(LEASES, field_selector=f"metadata.name={self._name}"):
                leases += page.items
        except Forbidden as error:
            self.rivals = {}
            if self._refused_since_ms is None:
                self._refused_since_ms = asked_ms
            if asked_ms - self._refused_since_ms < LEASE_SECONDS * 1000:
                raise  # perhaps for a moment only: an API server just started, or a role is bound next
            if self._may_look:
                log.warning("operators of other namespaces are not seen: two would lead", error=str(error))
            self._may_look = False
            return
        before, self._looked_at_ms, self._may_look, self._refused_since_ms = self.rivals, asked_ms, True, None
        self._sightings = sight(self._sightings, leases, namespace=self._namespace, now_ms=self._monotonic_ms())
        self.rivals = alive(self._sightings, asked_ms)
        if self.rivals and self.rivals.keys() != before.keys():
            log.warning(
                "another operator in this cluster: uninstall one of the two",
                namespace=self._namespace,
                others=[f"{place}/{rival.holder}" for place, rival in self.rivals.items()],
                leader=self.is_leader,
            )

    async def _look_as_leader(self) -> None:
        """Now and then, to say so: the other one waits, unless it does not look. Who began blindly may have to."""
        if self._monotonic_ms() - self._looked_at_ms < LOOK_SECONDS * 1000:
            return
        self._looked_at_ms = self._monotonic_ms()
        with contextlib.suppress(KubeError, TimeoutError):
            async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
                await self._look()
                if self._blind and self.rivals:  # both may lead: as a candidate it finds out whose turn it is
                    self._renewed_at_ms = None
                self._blind = not self._may_look

    def _observe(self, lease: KubeObject) -> None:
        if self._seen is None or _version(self._seen) != _version(lease):
            self._seen, self._seen_at_ms = lease, self._monotonic_ms()
        self.holder = (lease.get("spec") or {}).get("holderIdentity") or ""

    def _expired(self, lease: KubeObject) -> bool:
        seconds = (lease.get("spec") or {}).get("leaseDurationSeconds") or LEASE_SECONDS
        return self._monotonic_ms() - self._seen_at_ms >= seconds * 1000

    def _record(self, lease: KubeObject | None, *, released: bool = False) -> KubeObject:
        moment = micro_time(self._now())
        before = (lease or {}).get("spec") or {}
        renewing = before.get("holderIdentity") == self.identity
        transitions = before.get("leaseTransitions") or 0
        metadata = {"name": self._name, "namespace": self._namespace}
        if lease is not None:
            metadata |= {"uid": lease["metadata"]["uid"], "resourceVersion": _version(lease)}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": "" if released else self.identity,
                "leaseDurationSeconds": 1 if released else LEASE_SECONDS,
                "acquireTime": before.get("acquireTime") or moment if renewing else moment,
                "renewTime": moment,
                "leaseTransitions": transitions + (lease is not None and not renewing),
            },
        }

    async def _release(self) -> None:
        held, self._renewed_at_ms = self.holder == self.identity, None
        if not held or self._seen is None:
            return
        with contextlib.suppress(KubeError, TimeoutError):
            async with asyncio.timeout(RELEASE_TIMEOUT_SECONDS):
                await self._transport.apply(LEASES, self._record(self._seen, released=True))
                log.info("lease given back", identity=self.identity)


def _version(obj: KubeObject) -> str:
    version: str = obj["metadata"]["resourceVersion"]
    return version
