"""Power limits under leases: who asked for what until when, and what a board falls back to.

Decides when a limit is set, renewed, let go and given back. A board keeps its limit while the same change is repeated;
when the lease ends it falls to the safe limit that was agreed with it, else to the limit it had before.

Invariants
- A change is on the disk before the board is touched: whatever kills the agent, the next one knows what is its own.
- The agent gives back only its own: a limit that somebody else changed meanwhile stays as it is, and is said.
- A change is taken or refused as a whole; only the driver itself can leave it half done, and the report says where.
- A renewal is not refused for one of its boards: those that answer are renewed, the report says which one does not.
- What is reported is read back from the board after the change, never what was asked for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from lowbeam.api.wire import LimitChange, LimitOrigin, LimitReport, LimitState, LimitWish
from lowbeam_agent.boardlimits import BoardError, LimitFacts
from lowbeam_agent.record import Hold, Record

log = logging.getLogger(__name__)


class LimitBoards(Protocol):
    """The boards' side: `NvmlLimits`. Every method may raise BoardError."""

    def limit(self, uuid: str) -> int:
        """The limit that was last set, milliwatts."""

    def enforced(self, uuid: str) -> int:
        """The limit that the board obeys, milliwatts."""

    def span(self, uuid: str) -> tuple[int, int]:
        """Smallest and largest limit, milliwatts."""

    def set(self, uuid: str, milliwatts: int) -> None:
        """Set the limit."""


class RecordStore(Protocol):
    """The disk's side: `RecordFile`."""

    def load(self) -> Record:
        """What the last agent left."""

    def save(self, record: Record) -> None:
        """Replace it. Raises OSError."""


class OldChangeError(Exception):
    """A newer change, or another one of the same generation, is in force."""


class ImpossibleLimitError(Exception):
    """A board cannot have this limit; the message names the board, the field and what it takes."""


class NotRecordedError(Exception):
    """The change cannot be written down, so it is not made."""


class Leases:
    """All leases of the node. Thread-safe: requests and the clock's thread both call it."""

    def __init__(
        self,
        boards: LimitBoards,
        uuids: Sequence[str],
        store: RecordStore,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._boards = boards
        self._uuids = tuple(uuids)
        self._store = store
        self._monotonic_s = monotonic_s
        self._lock = threading.RLock()
        self._ends: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        left = store.load()
        self._last = left.last
        self._holds: dict[str, Hold] = {}
        for uuid, hold in left.holds.items():
            self._take_over(uuid, hold)

    @property
    def generation(self) -> int:
        """Of the change in force; 0: there was none yet."""
        return self._last.generation if self._last else 0

    def change(self, wish: LimitChange) -> LimitReport:
        """Make a change, or renew the leases of one. Raises OldChangeError, ImpossibleLimitError, NotRecordedError."""
        with self._lock:
            if wish.generation < self.generation or (wish.generation == self.generation and wish != self._last):
                raise OldChangeError(
                    f"generation {wish.generation} is not newer than {self.generation}, which is in force with other "
                    "limits: ask GET /limits, and decide with a larger generation"
                )
            if wish != self._last:
                self._check(wish)
            before = dict(self._holds)
            holds = before | self._wanted(wish)
            if wish != self._last or holds != before:
                try:
                    self._store.save(Record(last=wish, holds=holds))
                except OSError as error:
                    raise NotRecordedError(
                        f"the change cannot be written down ({error}): no limit was changed; check the state folder"
                    ) from error
            self._last, self._holds = wish, holds
            for item in wish.limits:
                if item.watts is None:
                    self._give_back(item.uuid)
                elif item.uuid in holds:
                    self._apply(item.uuid, before.get(item.uuid))
            return LimitReport(generation=self.generation, limits=tuple(self._state(item.uuid) for item in wish.limits))

    def report(self) -> LimitReport:
        """Every board's limit now."""
        with self._lock:
            return LimitReport(generation=self.generation, limits=tuple(self._state(uuid) for uuid in self._uuids))

    def tick(self) -> None:
        """Let the leases end whose time has come; a board that refuses is asked again at the next tick."""
        with self._lock:
            now_s = self._monotonic_s()
            for uuid in [uuid for uuid, end_s in self._ends.items() if end_s <= now_s]:
                hold = self._holds[uuid]
                if uuid not in self._problems:
                    log.warning("%s: the lease of its limit of %d mW was not renewed", uuid, hold.set_milliwatts)
                if hold.safe_milliwatts is None:
                    self._give_back(uuid)
                else:
                    self._fall_to_safe(uuid, hold, hold.safe_milliwatts)

    def give_all_back(self) -> None:
        """Give every board back the limit it had; what cannot be given back now stays on record for the next agent."""
        with self._lock:
            for uuid in list(self._holds):
                self._give_back(uuid)

    def origin(self, uuid: str, facts: LimitFacts) -> LimitOrigin | None:
        """Who set the limit of a board; None where the board does not tell."""
        hold = self._holds.get(uuid)
        if facts.set_milliwatts is None:
            return None
        if hold is not None and hold.may_have_set(facts.set_milliwatts):
            return LimitOrigin.AGENT
        return origin_without_agent(facts)

    def _take_over(self, uuid: str, hold: Hold) -> None:
        """Judge what the last agent left on a board."""
        try:
            current = self._boards.limit(uuid)
        except BoardError as error:
            log.warning("%s: its limit was changed by an earlier agent and cannot be read now: %s", uuid, error)
            current = hold.set_milliwatts
        if not hold.may_have_set(current):
            if current != hold.found_milliwatts:
                log.warning(
                    "%s: an earlier agent left %d mW, the board has %d mW: somebody else set it, it is left alone",
                    *(uuid, hold.set_milliwatts, current),
                )
            return
        self._holds[uuid] = hold
        if hold.lapsed and current == hold.set_milliwatts:
            log.warning("%s: has the safe limit of a lease that ended, %d mW", uuid, current)
            return
        # No clock outlives the agent, so an orphan gets one whole lease for its owner to come back.
        self._ends[uuid] = self._monotonic_s() + hold.lease_seconds
        log.warning("%s: orphaned limit of %d mW, falls in %g s if not renewed", uuid, current, hold.lease_seconds)

    def _check(self, wish: LimitChange) -> None:
        named = [item.uuid for item in wish.limits]
        for index, item in enumerate(wish.limits):
            where = f"limits.{index}"
            if item.uuid not in self._uuids:
                known = ", ".join(self._uuids)
                raise ImpossibleLimitError(f"{where}.uuid: this node has no board {item.uuid}; it has {known}")
            if named.count(item.uuid) > 1:
                raise ImpossibleLimitError(f"{where}.uuid: {item.uuid} is named twice")
            if item.watts is None and item.safe_watts is not None:
                raise ImpossibleLimitError(f"{where}.safeWatts: {item.uuid} is given back and has no lease to end")
            try:
                least, most = self._boards.span(item.uuid)
            except BoardError as error:
                raise ImpossibleLimitError(
                    f"{where}: {item.uuid} does not tell its range of limits: {error}"
                ) from error
            for field, watts in (("watts", item.watts), ("safeWatts", item.safe_watts)):
                if watts is not None and not least <= _milliwatts(watts) <= most:
                    raise ImpossibleLimitError(
                        f"{where}.{field}: {item.uuid} takes {least / 1000:g} W to {most / 1000:g} W, not {watts:g} W"
                    )

    def _wanted(self, wish: LimitChange) -> dict[str, Hold]:
        """What the record will say of the boards in a change. Raises ImpossibleLimitError, but not for a renewal."""
        wanted = {}
        for item in wish.limits:
            if item.watts is None:
                continue
            try:
                wanted[item.uuid] = self._hold(item, item.watts, wish.lease_seconds)
            except ImpossibleLimitError as error:
                if wish != self._last:
                    raise
                self._trouble(item.uuid, str(error))
        return wanted

    def _hold(self, item: LimitWish, watts: float, lease_seconds: float) -> Hold:
        """What the record says of a board that is about to be changed. Raises ImpossibleLimitError."""
        wanted, hold = _milliwatts(watts), self._holds.get(item.uuid)
        try:
            found = hold.found_milliwatts if hold else self._boards.limit(item.uuid)
        except BoardError as error:
            what = f"{item.uuid} does not tell its limit, so it could not be given back"
            raise ImpossibleLimitError(f"{what}: {error}") from error
        return Hold(
            found_milliwatts=found,
            set_milliwatts=wanted,
            earlier_milliwatts=self._earlier(item.uuid, hold, wanted) if hold else None,
            safe_milliwatts=None if item.safe_watts is None else _milliwatts(item.safe_watts),
            lease_seconds=lease_seconds,
        )

    def _earlier(self, uuid: str, hold: Hold, wanted: int) -> int | None:
        """The agent's own limit that the board still has, where it is another one: not always the last that was set."""
        try:
            current = self._boards.limit(uuid)
        except BoardError:
            current = hold.set_milliwatts
        return current if current != wanted and hold.may_have_set(current) else None

    def _apply(self, uuid: str, before: Hold | None) -> None:
        """Set what the hold says, where the board does not have it already."""
        hold = self._holds[uuid]
        self._problems.pop(uuid, None)
        try:
            current = self._boards.limit(uuid)
            if current != hold.set_milliwatts:
                if before is not None and not before.may_have_set(current):
                    log.warning(
                        "%s: somebody else, or a reset of the board, set %d mW meanwhile: it gets %d mW again",
                        *(uuid, current, hold.set_milliwatts),
                    )
                self._boards.set(uuid, hold.set_milliwatts)
        except BoardError as error:
            self._problems[uuid] = f"the board does not take the limit: {error}"
            log.warning("%s: the limit of %d mW is refused: %s", uuid, hold.set_milliwatts, error)
            if before is None:
                self._forget(uuid)
            else:  # The lease that runs goes on: nothing was renewed.
                self._holds[uuid] = before
                self._save()
            return
        self._ends[uuid] = self._monotonic_s() + hold.lease_seconds

    def _fall_to_safe(self, uuid: str, hold: Hold, safe_milliwatts: int) -> None:
        try:
            current = self._boards.limit(uuid)
        except BoardError as error:
            self._trouble(uuid, f"the safe limit of {safe_milliwatts} mW cannot be set, and is tried again: {error}")
            return
        if current < safe_milliwatts and not hold.may_have_set(current):
            log.warning("%s: somebody else set %d mW, less than the safe limit: it is left alone", uuid, current)
            self._problems.pop(uuid, None)
            self._forget(uuid)
            return
        self._holds[uuid] = hold.model_copy(
            update={
                "set_milliwatts": safe_milliwatts,
                "earlier_milliwatts": current if hold.may_have_set(current) else None,
                "lapsed": True,
            }
        )
        self._save()
        try:
            self._boards.set(uuid, safe_milliwatts)
        except BoardError as error:
            self._holds[uuid] = hold
            self._trouble(uuid, f"the safe limit of {safe_milliwatts} mW cannot be set, and is tried again: {error}")
            return
        log.info("%s: has its safe limit of %d mW", uuid, safe_milliwatts)
        self._problems.pop(uuid, None)
        del self._ends[uuid]

    def _give_back(self, uuid: str) -> None:
        hold = self._holds.get(uuid)
        if hold is None:
            return
        try:
            current = self._boards.limit(uuid)
            if hold.may_have_set(current):
                self._boards.set(uuid, hold.found_milliwatts)
            elif current != hold.found_milliwatts:
                log.warning("%s: somebody else set %d mW meanwhile: it is left alone", uuid, current)
        except BoardError as error:
            self._trouble(uuid, f"the limit of {hold.found_milliwatts} mW cannot be given back: {error}")
            # Tried again at every tick, also where it was given up before its lease ended.
            self._ends[uuid] = min(self._ends.get(uuid, self._monotonic_s()), self._monotonic_s())
            self._holds[uuid] = hold.model_copy(update={"safe_milliwatts": None})
            return
        log.info("%s: has its limit of %d mW again", uuid, hold.found_milliwatts)
        self._problems.pop(uuid, None)
        self._forget(uuid)

    def _forget(self, uuid: str) -> None:
        self._holds.pop(uuid, None)
        self._ends.pop(uuid, None)
        self._save()

    def _trouble(self, uuid: str, problem: str) -> None:
        if self._problems.get(uuid) != problem:  # once, not at every tick
            log.error("%s: %s", uuid, problem)
        self._problems[uuid] = problem

    def _save(self) -> None:
        """Write down what is over; a disk that is full now leaves a record that says too much, which is harmless."""
        try:
            self._store.save(Record(last=self._last, holds=self._holds))
        except OSError:
            log.exception("the record of power limits cannot be written")

    def _state(self, uuid: str) -> LimitState:
        hold, problem, end_s = self._holds.get(uuid), self._problems.get(uuid), self._ends.get(uuid)
        enforced: int | None = None
        try:
            enforced = self._boards.enforced(uuid)
        except BoardError as error:
            problem = problem or f"what the board enforces cannot be read back: {error}"
        if hold and enforced is not None and enforced > hold.set_milliwatts:
            problem = problem or (
                f"the driver took {hold.set_milliwatts / 1000:g} W and the board enforces {enforced / 1000:g} W"
            )
        return LimitState(
            uuid=uuid,
            watts=hold.set_milliwatts / 1000 if hold else None,
            enforced_watts=None if enforced is None else enforced / 1000,
            found_watts=hold.found_milliwatts / 1000 if hold else None,
            lease_ends_in_seconds=None if end_s is None else max(0.0, end_s - self._monotonic_s()),
            problem=problem,
        )


def origin_without_agent(facts: LimitFacts) -> LimitOrigin | None:
    """Who set the limit of a board that the agent did not change; None where the board does not tell."""
    if facts.set_milliwatts is None or facts.default_milliwatts is None:
        return None
    return LimitOrigin.DEFAULT if facts.set_milliwatts == facts.default_milliwatts else LimitOrigin.OTHER


def _milliwatts(watts: float) -> int:
    return round(watts * 1000)
