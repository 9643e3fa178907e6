"""Where the device's joules went: active, idle, load and reconfigure, and which request caused the active ones.

Decides the split only; `meter.py` reads the device, the engines say which request took part in which step. No clock and
no I/O here: every call carries its own (monotonic) time.

A window lies between two readings of the counter. It is split by these rules:
- while the worker loads, the whole window is `load`;
- while it reconfigures, the time of steps is active and the rest `reconfigure`: serving goes on beside a second engine;
- a window without any step is idle, and its watts are the idle watts from then on (smoothed: short windows are coarse);
- in any other window the time between the steps costs the idle watts, the rest is active (as long as no idle window has
  been seen, time alone splits it);
- active joules go to requests by (seconds of each step x the request's weight in that step). A decoder's weights are
  measured costs of reading and writing tokens (`cost.py`); an encoder's are tokens, with padding charged to its batch;
- while one model takes over from another, two engines step at once: they share the seconds of the overlap equally, and
  what the new one's warm-up costs is `reconfigure`.

Charging by tokens alone would be wrong several times over: at batch 1 a decoded token costs more than ten prefilled
ones.

Invariants, in integer millijoules, at all times:
- active + idle + load + reconfigure = counter, the sum of the device counter's accepted differences;
- what closed windows charged to requests = active.
An answer does not wait for the counter: what a request used in the window that is still open is valued at the busy
watts of the windows before, and the charge says how much that is. When the window closes the request is charged what it
was, in the totals; an answer that is out cannot be changed. So the sum of the answers is off by the change of the busy
watts from the first of them to the last, times a second or so of steps, or as many more as a reading comes late: it
does not grow with their number.

A counter that runs backwards (driver reload) starts a new window; that window's joules are unknown and in no part. Time
in which the counter cannot be read belongs to the window that closes when it can be read again.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

_MEMORY_SECONDS = 1.0
"""After so many further seconds a window counts a third: a counter that moves every 100 ms makes short ones coarse."""
_WARM_UP_SECONDS = 0.2
"""The warm-up's watts count like those of so many seconds of serving: it is other work, and partly idle."""


class Phase(StrEnum):
    """What the worker as a whole is doing."""

    SERVE = "serve"
    LOAD = "load"
    RECONFIGURE = "reconfigure"


@dataclass(frozen=True, slots=True)
class Parts:
    """Millijoules since the worker started; the first four add up to `counter_mj`."""

    active_mj: int = 0
    idle_mj: int = 0
    load_mj: int = 0
    reconfigure_mj: int = 0
    counter_mj: int = 0


@dataclass(eq=False, slots=True)
class Account:
    """What one request has been charged so far; compared by identity."""

    opened_s: float
    device_busy_s_before: float
    """Seconds of steps, of everyone, before it came."""
    own: bool = False
    """The worker's own, such as a warm-up: no request pays for it."""
    charged_mj: int = 0
    open_s: float = 0.0
    """Its share of the busy seconds in the window that is still open."""
    busy_s: float = 0.0
    """Its share of the busy seconds altogether."""
    cpu_s: float = 0.0
    """Its share of the CPU seconds that steps took."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request cost. None: not known (no meter, no window has closed yet, or the counter cannot be read)."""

    joules: float | None
    idle_joules: float | None
    """Its share of what the device used idle while the request was here; shown beside `joules`, never part of it."""
    unsettled_joules: float | None
    """The part of `joules` that is valued before the counter told: used in the window that is still open."""
    window_s: float | None
    """Length of the newest counter window behind the figure: its resolution in time."""
    age_s: float | None
    """Time since that window closed."""
    cpu_s: float
    """CPU seconds of its steps, by its weight in them; known without any meter."""
    elapsed_s: float
    """From opening the account to the charge."""


Shares = Sequence[tuple[Account, float]]
"""Who is in a step, each with its weight in it; an account may stand there several times."""


@dataclass(slots=True)
class _Draw:
    """Watts as joules over seconds, newer ones counting more; each window counts by its length."""

    joules: float = 0.0
    seconds: float = 0.0

    @property
    def watts(self) -> float | None:
        return self.joules / self.seconds if self.seconds else None

    def learn(self, joules: float, seconds: float, *, at_most_s: float = math.inf) -> None:
        fade = math.exp(-seconds / _MEMORY_SECONDS)
        self.joules = self.joules * fade + joules
        self.seconds = self.seconds * fade + seconds
        if self.seconds > at_most_s:
            self.joules, self.seconds = self.joules / self.seconds * at_most_s, at_most_s


@dataclass(slots=True)
class _Window:
    started_s: float
    counter_mj: int
    busy_s: float = 0.0
    shares: dict[Account, float] = field(default_factory=dict)


class Ledger:
    """Thread-safe: the sampler closes windows, the engine's thread reports steps, the event loop opens accounts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: list[Phase] = []
        self._active_mj = self._idle_mj = self._load_mj = self._reconfigure_mj = self._counter_mj = 0
        self._charged_mj = 0
        self._window: _Window | None = None
        self._steps: dict[object, Shares] = {}
        self._booked_until_s = 0.0
        self._booked_until_cpu_s = 0.0
        self._idle, self._busy = _Draw(), _Draw()
        self._window_s: float | None = None
        self._busy_s = 0.0
        self._blind = False
        self.counter_resets = 0
        self.settle: Callable[[], None] = lambda: None
        """Reads the counter now; the meter puts itself here, so that phases end at a window's end."""

    # --- what the worker does ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Everything the device uses inside, outside of steps, belongs to `phase`. Phases may overlap: load goes before
        reconfigure, and both before serving."""
        self.settle()
        with self._lock:
            self._phases.append(phase)
        try:
            yield
        finally:
            try:
                self.settle()
            finally:  # a phase that is never left would take all that is idle later
                with self._lock:
                    self._phases.remove(phase)

    def begin_step(self, now_s: float, shares: Shares, cpu_s: float = 0.0, engine: object = None) -> None:
        """The device starts on these, at `cpu_s` CPU seconds of this process. One step per engine at a time."""
        with self._lock:
            self._book_steps(now_s)
            self._book_cpu(cpu_s)
            self._steps[engine] = shares

    def end_step(self, now_s: float, cpu_s: float = 0.0, engine: object = None) -> None:
        """The device is done with them."""
        with self._lock:
            if engine not in self._steps:
                return
            self._book_steps(now_s)
            self._book_cpu(cpu_s)
            del self._steps[engine]

    def open_account(self, now_s: float, *, own: bool = False) -> Account:
        """Start charging a request, or something of the worker's own."""
        with self._lock:
            return Account(now_s, self._busy_s, own)

    def charge(self, account: Account, now_s: float) -> Charge:
        """What the request has cost up to now.

        Its share of the window that is still open is valued at the latest busy watts, because the counter moves only
        about every 100 ms and an answer does not wait for it. The totals are settled when the window closes.
        Idle time during its stay costs the latest idle watts; requests that were here together share it by their busy
        seconds.
        """
        with self._lock:
            elapsed_s, busy_watts = now_s - account.opened_s, self._busy.watts
            # No joules at all in busy seconds: the counter has not moved since they began.
            if self._window is None or self._window_s is None or not busy_watts or self._blind:
                return Charge(None, None, None, None, None, account.cpu_s, elapsed_s)
            unsettled = account.open_s * busy_watts
            busy_s = self._busy_s - account.device_busy_s_before
            idle_watts = busy_watts if self._idle.watts is None else self._idle.watts
            idle = max(0.0, elapsed_s - busy_s) * idle_watts * (account.busy_s / busy_s if busy_s else 0.0)
            return Charge(
                round(account.charged_mj / 1000 + unsettled, 6),
                round(idle, 6),
                round(unsettled, 6),
                round(self._window_s, 3),
                round(max(0.0, now_s - self._window.started_s), 3),
                account.cpu_s,
                elapsed_s,
            )

    # --- what the device says ----------------------------------------------------------------------------------------

    def observe(self, now_s: float, counter_mj: int) -> None:
        """A reading of the counter: closes the open window and starts the next one."""
        with self._lock:
            self._blind = False
            self._book_steps(now_s)
            window = self._window
            if window is not None and now_s <= window.started_s and counter_mj >= window.counter_mj:
                return  # two readings at one time: keep the first, or its joules would be lost
            self._window = _Window(now_s, counter_mj)
            if window is None:
                return
            for account in window.shares:
                account.open_s = 0.0
            if counter_mj < window.counter_mj:
                self.counter_resets += 1
            else:
                self._close(window, now_s - window.started_s, counter_mj - window.counter_mj)

    def lose_sight(self) -> None:
        """The counter cannot be read, or stands still though power flows: charges are unknown until it is back."""
        with self._lock:
            self._blind = True

    def forget_window(self) -> None:
        """The counter was opened anew: what it did meanwhile is unknown, and in no part."""
        with self._lock:
            window, self._window = self._window, None
            for account in window.shares if window else ():
                account.open_s = 0.0

    def parts(self) -> Parts:
        """A consistent copy of the totals, by closed windows."""
        with self._lock:
            return Parts(self._active_mj, self._idle_mj, self._load_mj, self._reconfigure_mj, self._counter_mj)

    def error_mj(self, counted_mj: int) -> int:
        """How far the books are from `counted_mj`, the counter's difference as somebody else added it up; 0, always."""
        with self._lock:
            booked_mj = self._active_mj + self._idle_mj + self._load_mj + self._reconfigure_mj
            return abs(booked_mj - counted_mj) + abs(self._charged_mj - self._active_mj)

    def _book_steps(self, now_s: float) -> None:
        """The time since the last booking belongs to the steps that are open."""
        if not self._steps:
            self._booked_until_s = now_s
            return
        seconds = max(0.0, now_s - self._booked_until_s)
        self._booked_until_s = max(self._booked_until_s, now_s)
        self._busy_s += seconds
        if self._window is not None:
            self._window.busy_s += seconds
        for shares in self._steps.values():
            for account, share in _split(seconds / len(self._steps), shares):
                account.busy_s += share
                if self._window is not None:
                    self._window.shares[account] = self._window.shares.get(account, 0.0) + share
                    account.open_s += share

    def _book_cpu(self, cpu_s: float) -> None:
        seconds, self._booked_until_cpu_s = max(0.0, cpu_s - self._booked_until_cpu_s), cpu_s
        for shares in self._steps.values():
            for account, share in _split(seconds / len(self._steps), shares):
                account.cpu_s += share

    def _close(self, window: _Window, seconds: float, millijoules: int) -> None:
        busy_s = min(window.busy_s, seconds)
        self._counter_mj += millijoules
        self._window_s = seconds
        if Phase.LOAD in self._phases:
            if busy_s:  # the warm-up: what a busy second costs until requests have shown it
                self._busy.learn(millijoules / 1000, seconds, at_most_s=_WARM_UP_SECONDS)
            self._load_mj += millijoules
            return
        if Phase.RECONFIGURE in self._phases:
            active_mj = round(millijoules * busy_s / seconds) if window.shares else 0
            self._reconfigure_mj += millijoules - active_mj
            self._charge_active(window, active_mj)
            return
        if not window.shares:
            self._idle.learn(millijoules / 1000, seconds)
            self._idle_mj += millijoules
            return
        idle_s = seconds - busy_s
        watts = millijoules / 1000 / seconds if self._idle.watts is None else self._idle.watts
        idle_mj = min(millijoules, round(watts * idle_s * 1000))
        self._idle_mj += idle_mj
        active_mj = millijoules - idle_mj
        if busy_s:
            self._busy.learn(active_mj / 1000, busy_s)
        self._charge_active(window, active_mj)

    def _charge_active(self, window: _Window, active_mj: int) -> None:
        for account, charged_mj in zip(window.shares, apportion(active_mj, list(window.shares.values())), strict=True):
            account.charged_mj += charged_mj
            if account.own:
                self._reconfigure_mj += charged_mj
            else:
                self._active_mj += charged_mj
                self._charged_mj += charged_mj


def _split(amount: float, shares: Shares) -> Iterator[tuple[Account, float]]:
    total = sum(weight for _, weight in shares)
    for account, weight in shares:
        yield account, amount * weight / total if total else amount / len(shares)


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Split a non-negative integer by shares so that the pieces add up to it exactly; each is off by less than 1."""
    weight = sum(shares)
    pieces, given, passed = [], 0, 0.0
    for index, share in enumerate(shares):
        passed += share if weight > 0 else 1.0
        last = index == len(shares) - 1
        # Rounding the running sum, not the piece: the pieces then add up whatever the rounding of floats.
        until = (
            total if last else min(total, max(given, round(total * passed / (weight if weight > 0 else len(shares)))))
        )
        pieces.append(until - given)
        given = until
    return pieces
