"""The boards of one fake node as its agent tells them: who holds which, what they draw, power limits under leases.

Decides as lowbeam-agent does: which limit is refused, when a lease ends, what a board gets back. No sockets, no
cluster, and time comes in as an argument. Part of the emulator (tests and demos only).

Invariants: a pod keeps its boards as long as it is bound to the node; a board's joules never go back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from lowbeam.api.wire import (
    BoardReading,
    DeviceHolder,
    LimitChange,
    LimitOrigin,
    LimitReport,
    LimitState,
)
from lowbeam.catalog.facts import AcceleratorClass
from lowbeam.emulator.members import Guest

COUNTED_JOULES = 1e6
"""What a board has counted before: since its driver was loaded, and not since a pod came to it."""

Drawn = Callable[[str], tuple[float, float] | None]
"""Watts of each board of a pod, by its uid, and joules of each since it started; None: not known, its boards idle."""


class OldChange(Exception):
    """A newer change, or another one of the same generation, is in force."""


class ImpossibleLimit(Exception):
    """A board cannot have this limit."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A limit of the agent's on a board."""

    found_watts: float
    set_watts: float
    safe_watts: float | None
    ends: float | None
    """Of the lease; None: it ended, and the board has its safe limit."""


@dataclass(slots=True)
class Board:
    """One board of a fake node."""

    uuid: str
    limit_watts: float
    """That it obeys."""
    watts: float = 0.0
    joules: float = COUNTED_JOULES
    hold: Hold | None = None
    pod_uid: str = ""
    """Of its holder; empty: it is free."""
    holder: DeviceHolder | None = None
    counted_joules: float = 0.0
    """Of the pod that holds it: they are in `joules` already."""


class NodeBoards:
    """All boards of a node. Call with times that never go back."""

    def __init__(self, node: str, accelerator: AcceleratorClass, count: int, now: float) -> None:
        self.accelerator = accelerator
        self._default_watts = accelerator.max_milliwatts / 1000
        # The name says what it is: an agent's answer has no `method`. The index comes first: it must not be cut off.
        uuids = [f"GPU-emulated-{index}-{node}"[:128] for index in range(count)]
        self.boards = [Board(uuid, self._default_watts) for uuid in uuids]
        self._last: LimitChange | None = None
        self._counted = now
        self.deaf = False
        """Fault IgnoreControl: limits are acknowledged, and no board gets them."""

    @property
    def generation(self) -> int:
        """Of the change in force; 0: there was none yet."""
        return self._last.generation if self._last else 0

    # --- who holds what ----------------------------------------------------------------------------------------------

    def seat(self, guests: Iterable[Guest]) -> None:
        """Give each pod as many boards as its containers ask for; who has some already keeps them."""
        ordered = sorted(guests, key=lambda it: (it.created, it.namespace, it.name))
        here = {guest.uid for guest in ordered}
        for board in self.boards:
            if board.pod_uid not in here:
                board.pod_uid, board.holder = "", None
        seated = {board.pod_uid for board in self.boards}
        free = (board for board in self.boards if not board.pod_uid)
        for guest in ordered:
            if guest.uid not in seated:
                for container, board in zip(guest.containers, free, strict=False):
                    board.pod_uid, board.counted_joules = guest.uid, 0.0
                    board.holder = DeviceHolder(namespace=guest.namespace, pod=guest.name, container=container)

    def of_pod(self, uid: str) -> list[Board]:
        """The boards that a pod holds."""
        return [board for board in self.boards if board.pod_uid == uid]

    def count(self, now: float, drawn: Drawn) -> None:
        """Take over what the boards drew until `now`."""
        idle = self.accelerator.idle_milliwatts / 1000
        bare = (self.accelerator.bare_idle_milliwatts or self.accelerator.idle_milliwatts) / 1000
        for board in self.boards:
            played = drawn(board.pod_uid) if board.pod_uid else None
            if played is None:
                board.watts = idle if board.pod_uid else bare
                board.joules += board.watts * (now - self._counted)
            else:
                board.watts, joules = played
                board.joules += max(0.0, joules - board.counted_joules)
                board.counted_joules = joules
        self._counted = now

    def readings(self) -> tuple[BoardReading, ...]:
        """As GET /telemetry tells them."""
        least = self.accelerator.min_milliwatts
        return tuple(
            BoardReading(
                uuid=board.uuid,
                watts=board.watts,
                joules_total=board.joules,
                power_limit_watts=board.limit_watts,
                holders=(board.holder,) if board.holder else (),
                min_limit_watts=None if least is None else least / 1000,
                max_limit_watts=self._default_watts,
                default_limit_watts=self._default_watts,
                limit_origin=_origin(board),
            )
            for board in self.boards
        )

    # --- power limits ------------------------------------------------------------------------------------------------

    def change(self, wish: LimitChange, now: float) -> LimitReport:
        """Set limits, or renew their leases. Raises OldChange, ImpossibleLimit."""
        if wish.generation < self.generation or (wish.generation == self.generation and wish != self._last):
            raise OldChange(f"generation {wish.generation} is not newer than {self.generation}, which is in force")
        by_uuid = {board.uuid: board for board in self.boards}
        if wish != self._last:
            self._check(wish, by_uuid)
        self._last = wish
        for item in wish.limits:
            board = by_uuid[item.uuid]
            if item.watts is None:
                self._give_back(board)
            else:
                found = board.hold.found_watts if board.hold else board.limit_watts
                self._set(board, Hold(found, item.watts, item.safe_watts, now + wish.lease_seconds))
        return self._report(now, [by_uuid[item.uuid] for item in wish.limits], believed=self.deaf)

    def report(self, now: float) -> LimitReport:
        """Every board's limit now."""
        return self._report(now, self.boards)

    def end_leases(self, now: float) -> None:
        """Let the leases end whose time has come."""
        for board in self.boards:
            hold = board.hold
            if hold is None or hold.ends is None or hold.ends > now:
                continue
            if hold.safe_watts is None:
                self._give_back(board)
            else:
                self._set(board, replace(hold, set_watts=hold.safe_watts, ends=None))

    def give_all_back(self) -> None:
        """As an agent does that is ended."""
        for board in self.boards:
            self._give_back(board)

    def _set(self, board: Board, hold: Hold) -> None:
        board.hold = hold
        if not self.deaf:
            board.limit_watts = hold.set_watts

    def _give_back(self, board: Board) -> None:
        if board.hold is not None:
            board.limit_watts, board.hold = board.hold.found_watts, None

    def _check(self, wish: LimitChange, by_uuid: dict[str, Board]) -> None:
        named = [item.uuid for item in wish.limits]
        least = self.accelerator.min_milliwatts
        for index, item in enumerate(wish.limits):
            where = f"limits.{index}"
            if item.uuid not in by_uuid:
                raise ImpossibleLimit(f"{where}.uuid: this node has no board {item.uuid}; it has {', '.join(by_uuid)}")
            if named.count(item.uuid) > 1:
                raise ImpossibleLimit(f"{where}.uuid: {item.uuid} is named twice")
            if item.watts is None and item.safe_watts is not None:
                raise ImpossibleLimit(f"{where}.safeWatts: {item.uuid} is given back and has no lease to end")
            if least is None:
                raise ImpossibleLimit(f"{where}: {item.uuid} does not tell its range of limits")
            for field, watts in (("watts", item.watts), ("safeWatts", item.safe_watts)):
                if watts is not None and not least / 1000 <= watts <= self._default_watts:
                    span = f"{least / 1000:g} W to {self._default_watts:g} W"
                    raise ImpossibleLimit(f"{where}.{field}: {item.uuid} takes {span}, not {watts:g} W")

    def _report(self, now: float, boards: Sequence[Board], *, believed: bool = False) -> LimitReport:
        """`believed`: what was asked for is told as read back."""
        return LimitReport(
            generation=self.generation, limits=tuple(_state(board, now, believed=believed) for board in boards)
        )


def _origin(board: Board) -> LimitOrigin:
    ours = board.hold is not None and board.hold.set_watts == board.limit_watts
    return LimitOrigin.AGENT if ours else LimitOrigin.DEFAULT


def _state(board: Board, now: float, *, believed: bool) -> LimitState:
    hold = board.hold
    return LimitState(
        uuid=board.uuid,
        watts=hold.set_watts if hold else None,
        enforced_watts=hold.set_watts if hold and believed else board.limit_watts,
        found_watts=hold.found_watts if hold else None,
        lease_ends_in_seconds=None if hold is None or hold.ends is None else max(0.0, hold.ends - now),
    )
