"""What a point is measured under: something that keeps an engine full, and what it sees of the requests.

Decides nothing; `closed_loops.py` has the loads of the engines.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from lowbeam_worker.energy.ledger import Ledger, Shares

_RESOLUTION_S = 1e-5
"""Times are kept by tens of microseconds: hours of tokens fit into memory."""


class LoadFailedError(Exception):
    """The engine did not bear the load; the message says what it said."""


class Times:
    """How often something took how long."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float, times: int = 1) -> None:
        """Something took so long, so many times."""
        self._counts[round(seconds / _RESOLUTION_S)] += times

    @property
    def total(self) -> int:
        """How many there are."""
        return self._counts.total()

    def counted(self) -> list[tuple[float, int]]:
        """Seconds and how often."""
        return [(step * _RESOLUTION_S, count) for step, count in self._counts.items()]


class Seen:
    """What requests took, as soon as somebody wants to know."""

    def __init__(self) -> None:
        self.latency = Times()
        """From a request's slot to its last token; a row's batch."""
        self.first_token = Times()
        """From a request's slot to its first token."""
        self.between_tokens = Times()


class StepWatch(Ledger):
    """The engine's ledger, which also counts who was in its steps. Written by the engine's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        """Steps so far, also those that failed."""
        self.rows = 0
        """Members of all steps so far."""
        self.busy_s = 0.0
        self.member_s = 0.0
        """Seconds of steps, each times its members: over `busy_s` it is how many ran together."""
        self.latency: Times | None = None
        """Takes the duration of each step, once for each member."""
        self._open: tuple[float, int] | None = None

    def begin_step(self, now_s: float, shares: Shares, *more: Any, **named: Any) -> None:
        """As the ledger's."""
        self._open = (now_s, len(shares))
        super().begin_step(now_s, shares, *more, **named)

    def end_step(self, now_s: float, *more: Any, **named: Any) -> None:
        """As the ledger's."""
        super().end_step(now_s, *more, **named)
        if self._open is None:
            return
        (began_s, members), self._open = self._open, None
        self.steps += 1
        self.rows += members
        self.busy_s += now_s - began_s
        self.member_s += (now_s - began_s) * members
        if self.latency is not None:
            self.latency.add(now_s - began_s, members)


class Load(Protocol):
    """Keeps an engine full."""

    @property
    def most(self) -> tuple[int, str]:
        """The largest batch that this engine runs, and what it is limited by."""

    @property
    def settled(self) -> bool:
        """True when what runs is what will run from now on."""

    def start(self, batch: int) -> None:
        """Keep so many in the engine."""

    async def stop(self) -> None:
        """Take them out."""

    def watch(self, seen: Seen | None) -> None:
        """Write down from now on what requests take; None: no more."""

    def requests(self) -> float:
        """Requests that the engine has worked through so far; of a request in it the part that is done."""

    def finished(self) -> int:
        """Requests that have ended so far."""

    def together(self) -> tuple[float, float]:
        """Seconds of steps so far, and the same times the requests in them."""

    def check(self) -> None:
        """Raises LoadFailedError when a request has failed."""
