"""The sampler: reads the energy counter ten times a second, closes the ledger's windows, and knows the watts of now.

Decides when a window closes, and whether the counter can be believed; who used its joules is the ledger's business.
Where there is no counter the method is `unavailable` and every figure is None: never watts out of a table, never 0.

The driver refreshes NVML's counter about every 100 ms, so a window is closed only when the counter has moved, and not
before `WINDOW_SECONDS`. Watts are the counter's slope over `SLOPE_SECONDS`, not the power sensor's: on A100 and H100
that one sees about a quarter of the time. The sensor is there to doubt the counter:
- a counter that stands still for `STUCK_SECONDS` is frozen unless the sensor sees no power: figures are unknown until
  it moves, and what it shows then is booked as one long window;
- over `CHECK_SECONDS` both must agree within `AGREEMENT`, or a warning and a metric say so.
A counter that cannot be read (board lost, permission withdrawn) makes figures unknown as well; it is opened anew every
`REOPEN_SECONDS`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from lowbeam.api.wire import MeterMethod, MeterScope
from lowbeam_worker.energy.boards import Boards, NoMeterError, Reading
from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.energy.rapl import Packages

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 0.1
WINDOW_SECONDS = 0.2
"""Two refreshes of the counter: a shorter window reads nothing, or twice too much."""
SLOPE_SECONDS = 1.0
STUCK_SECONDS = 2.0
REOPEN_SECONDS = 10.0
CHECK_SECONDS = 60.0
LEAST_CHECK_SECONDS = 10.0
AGREEMENT = (0.7, 1.4)
"""Counter over integrated sensor: wide, since the sensor misses much of what happens."""


class Source(Protocol):
    """Something with an energy counter."""

    method: MeterMethod
    scope: MeterScope
    name: str
    """Of the counter, as its own documentation calls it."""

    def read(self) -> Reading:
        """Everything now; None for what cannot be read."""

    def why_unreadable(self) -> str | None:
        """What the last `read` met, or None."""

    def close(self) -> None:
        """Give it back."""


class Meter:
    """Counts the joules of the source it is given; without one it knows nothing, and says so."""

    def __init__(self, source: Source | None, ledger: Ledger, reopen: Callable[[], Source] | None = None) -> None:
        self._source = source
        self._ledger = ledger
        self._reopen = reopen
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._slope: deque[Reading] = deque()
        self._check = _CrossCheck()
        self._window: tuple[float, int] | None = None
        self._moved: Reading | None = None
        self._counted_mj = 0
        self._blind_since: float | None = None
        self._last: Reading | None = None
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name="energy-meter", daemon=True)

    @property
    def counts_energy(self) -> bool:
        """True where joules are known now."""
        return self._source is not None and self._trouble is None

    @property
    def method(self) -> MeterMethod:
        """How the joules are obtained."""
        return self._source.method if self._source and self._trouble is None else MeterMethod.UNAVAILABLE

    @property
    def scope(self) -> MeterScope:
        """What the counter covers."""
        return self._source.scope if self._source and self._trouble is None else MeterScope.NONE

    @property
    def source(self) -> str | None:
        """The counter's own name; None without one."""
        return self._source.name if self._source else None

    @property
    def trouble(self) -> str | None:
        """Why a counter that is there tells nothing at the moment, or None."""
        return self._trouble

    @property
    def last(self) -> Reading | None:
        """The newest complete reading; its own time tells how old it is."""
        with self._lock:
            return self._last

    @property
    def agreement(self) -> float | None:
        """Joules of the counter per joule of the integrated power sensor; None before `LEAST_CHECK_SECONDS`."""
        with self._lock:
            return self._check.ratio()

    @property
    def counter_resets(self) -> int:
        """How often the counter ran backwards."""
        return self._ledger.counter_resets

    def error_joules(self) -> float:
        """How far the ledger's books are from the counter; 0 unless there is a defect."""
        with self._lock:
            return self._ledger.error_mj(self._counted_mj) / 1000

    def start(self) -> None:
        """Take the first reading now, then one every `SAMPLE_SECONDS`."""
        if self._source is not None:
            self._ledger.settle = self.settle
            self.settle()
            self._thread.start()

    def stop(self) -> None:
        """Close the last window and give the source back."""
        if self._source is None:
            return
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        self.settle()
        self._ledger.settle = lambda: None
        self._source.close()

    def settle(self) -> None:
        """Read the counter and close the window now, at the border between two phases."""
        self._sample(at_border=True)

    def sample(self) -> None:
        """Read the counter, and close the window if it is time."""
        self._sample(at_border=False)

    def _run(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            try:
                self.sample()
            except Exception:
                log.exception("a reading of the energy counter failed; the next one is tried")

    def _sample(self, *, at_border: bool) -> None:
        with self._lock:
            if self._source is None:
                return
            reading = self._source.read()
            if reading.counter_mj is None:
                self._lost(
                    reading.at_monotonic_s, self._source.why_unreadable() or "the energy counter is not readable"
                )
                return
            now_s, counter_mj = reading.at_monotonic_s, reading.counter_mj
            self._blind_since = None
            if self._moved is None or counter_mj != self._moved.counter_mj:
                self._moved = reading
            still_s = now_s - self._moved.at_monotonic_s
            if still_s >= STUCK_SECONDS and reading.sensor_watts != 0:
                # The old reading stays and grows old; the operator counts a stale worker at its worst case.
                sees = "no sensor can be read" if reading.sensor_watts is None else "the sensor sees power"
                self._doubt(f"the energy counter stands still for {still_s:.0f} s while {sees}")
                return
            if self._trouble is not None:
                log.warning("energy is metered again")
                self._trouble = None
            if self._window is not None and counter_mj >= self._window[1] and _went_back(self._last, reading):
                self._start_anew()
            if self._window is None:
                due = True
            else:
                open_s, moved = now_s - self._window[0], counter_mj != self._window[1]
                due = at_border or (moved and open_s >= WINDOW_SECONDS) or open_s >= STUCK_SECONDS
            if due:
                self._observe(now_s, counter_mj)
            self._check.add(reading)
            self._last = self._with_slope(reading, counter_mj)

    def _start_anew(self) -> None:
        """One board was reset, and the others outran what it lost: the sum's difference is nobody's joules."""
        self._window = None
        self._ledger.forget_window()
        self._ledger.counter_resets += 1
        self._slope.clear()
        self._check.clear()

    def _observe(self, now_s: float, counter_mj: int) -> None:
        """Close the window in the ledger, and add up the counter apart from it: the two must agree."""
        before = self._window
        if before is not None and now_s <= before[0] and counter_mj >= before[1]:
            return
        if before is not None and counter_mj >= before[1]:
            self._counted_mj += counter_mj - before[1]
        self._ledger.observe(now_s, counter_mj)
        self._window = (now_s, counter_mj)
        if error_mj := self._ledger.error_mj(self._counted_mj):
            log.error("the energy books are %d mJ away from the counter: a defect of the ledger", error_mj)

    def _doubt(self, why: str) -> None:
        if self._trouble is None:
            log.warning("energy is unknown from now on: %s", why)
        self._trouble = why
        self._ledger.lose_sight()
        self._slope.clear()
        self._check.clear()

    def _lost(self, now_s: float, why: str) -> None:
        self._doubt(why)
        if self._blind_since is None:
            self._blind_since = now_s
        if self._reopen is None or now_s - self._blind_since < REOPEN_SECONDS:
            return
        self._blind_since = now_s
        try:
            fresh = self._reopen()
        except NoMeterError:
            return
        if self._source is not None:
            self._source.close()
        self._source, self._window, self._moved = fresh, None, None
        self._ledger.forget_window()

    def _with_slope(self, reading: Reading, counter_mj: int) -> Reading:
        history = self._slope
        if history and counter_mj < (history[-1].counter_mj or 0):
            history.clear()  # the counter was reset: a slope across that point means nothing
        history.append(reading)
        while len(history) > 2 and reading.at_monotonic_s - history[1].at_monotonic_s >= SLOPE_SECONDS:
            history.popleft()
        first = history[0]
        seconds = reading.at_monotonic_s - first.at_monotonic_s
        if seconds < WINDOW_SECONDS or first.counter_mj is None or (counter_mj == first.counter_mj and reading.watts):
            return reading  # the first moments, or a counter that has not moved yet: the driver's own average
        devices = tuple(
            device.model_copy(update={"watts": (device.joules_total - before.joules_total) / seconds})
            if device.joules_total is not None and before.joules_total is not None
            else device
            for device, before in zip(reading.devices, first.devices, strict=True)
        )
        return replace(reading, devices=devices, watts=(counter_mj - first.counter_mj) / 1000 / seconds)


def _went_back(before: Reading | None, now: Reading) -> bool:
    """Whether the counter of any one board did."""
    known = {device.uuid: device.joules_total for device in before.devices} if before else {}
    return any((device.joules_total or 0.0) < (known.get(device.uuid) or 0.0) for device in now.devices)


class _CrossCheck:
    """The counter beside the integral of the power sensor, over the last `CHECK_SECONDS`."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int, float]] = deque()
        self._sensor_joules = 0.0
        self._disagreed = False

    def clear(self) -> None:
        """Begin anew: what lies between was not seen."""
        self._points.clear()

    def add(self, reading: Reading) -> None:
        """One more reading of both."""
        if reading.counter_mj is None or reading.sensor_watts is None:
            self.clear()
            return
        if self._points and reading.counter_mj < self._points[-1][1]:
            self.clear()
        if self._points:
            self._sensor_joules += reading.sensor_watts * (reading.at_monotonic_s - self._points[-1][0])
        self._points.append((reading.at_monotonic_s, reading.counter_mj, self._sensor_joules))
        while reading.at_monotonic_s - self._points[0][0] > CHECK_SECONDS:
            self._points.popleft()
        ratio = self.ratio()
        disagrees = ratio is not None and not AGREEMENT[0] <= ratio <= AGREEMENT[1]
        if disagrees and not self._disagreed:
            log.warning("the energy counter and the power sensor disagree: %.2f J counted per J sensed", ratio)
        self._disagreed = disagrees

    def ratio(self) -> float | None:
        """Joules counted per joule sensed."""
        if not self._points:
            return None
        first, last = self._points[0], self._points[-1]
        sensed = last[2] - first[2]
        if last[0] - first[0] < LEAST_CHECK_SECONDS or sensed <= 0:
            return None
        return (last[1] - first[1]) / 1000 / sensed


def open_meter(visible: tuple[str, ...], ledger: Ledger) -> Meter:
    """A meter over the boards that this pod sees (`visible` narrows them), else over the CPU packages where their
    counters can be read, else one that says `unavailable`."""
    reasons = []
    for opener in (lambda: Boards(visible), Packages):
        try:
            source: Source = opener()
        except NoMeterError as error:
            reasons.append(str(error))
            continue
        if source.read().counter_mj is not None:
            return Meter(source, ledger, opener)
        log.warning("an energy counter is there and cannot be read: %s", source.why_unreadable())
        source.close()
    log.info("energy is not metered%s", ": " + "; ".join(reasons) if reasons else "")
    return Meter(None, ledger)
