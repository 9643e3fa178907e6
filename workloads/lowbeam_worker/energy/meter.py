"""The sampler: reads the boards ten times a second, closes the ledger's windows, and knows the watts of now.

Decides when a window closes; who used its joules is the ledger's business. Where NVML is absent, or a board has no
energy counter, the method is `unavailable` and every figure is None: never watts out of a table, never 0.

The driver refreshes the counter about every 100 ms, so a window is closed only when the counter has moved, and not
before `WINDOW_SECONDS`. Watts are the counter's slope over `SLOPE_SECONDS`, not the power sensor's.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import replace

from lowbeam.api.wire import MeterMethod, MeterScope
from lowbeam_worker.energy.boards import Boards, NoMeterError, Reading
from lowbeam_worker.energy.ledger import Ledger

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 0.1
WINDOW_SECONDS = 0.2
"""Two refreshes of the counter: a shorter window reads nothing, or twice too much."""
SLOPE_SECONDS = 1.0
STUCK_SECONDS = 2.0
"""A counter that has not moved for so long is taken at its word: the boards used nothing."""


class Meter:
    """Counts the joules of the boards it is given; without boards it knows nothing, and says so."""

    def __init__(self, boards: Boards | None, ledger: Ledger) -> None:
        self._boards = boards
        self._ledger = ledger
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._history: deque[Reading] = deque()
        self._window: tuple[float, int] | None = None
        self._last: Reading | None = None
        self._thread = threading.Thread(target=self._run, name="energy-meter", daemon=True)

    @property
    def counts_energy(self) -> bool:
        """True where joules are known."""
        return self._boards is not None

    @property
    def method(self) -> MeterMethod:
        """How the joules are obtained."""
        return MeterMethod.NVML if self._boards else MeterMethod.UNAVAILABLE

    @property
    def scope(self) -> MeterScope:
        """What the counter covers."""
        return self._boards.scope if self._boards else MeterScope.NONE

    @property
    def last(self) -> Reading | None:
        """The newest complete reading; its own time tells how old it is."""
        with self._lock:
            return self._last

    def start(self) -> None:
        """Take the first reading now, then one every `SAMPLE_SECONDS`."""
        if self._boards is not None:
            self._ledger.settle = self.settle
            self.settle()
            self._thread.start()

    def stop(self) -> None:
        """Close the last window and give NVML back."""
        if self._boards is None:
            return
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        self.settle()
        self._ledger.settle = lambda: None
        self._boards.close()

    def settle(self) -> None:
        """Read the counter and close the window now, at the border between two phases."""
        self._sample(at_border=True)

    def _run(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            self._sample(at_border=False)

    def _sample(self, *, at_border: bool) -> None:
        with self._lock:
            reading = self._boards.read() if self._boards else None
            if reading is None or reading.counter_mj is None:
                # The old reading stays and grows old; the operator counts a stale worker at its worst case.
                log.warning("a board does not tell its energy counter; the last reading stays in force")
                return
            now_s, counter_mj = reading.at_monotonic_s, reading.counter_mj
            if self._window is None:
                due = True
            else:
                open_s, moved = now_s - self._window[0], counter_mj != self._window[1]
                due = at_border or (moved and open_s >= WINDOW_SECONDS) or open_s >= STUCK_SECONDS
            if due:
                self._ledger.observe(now_s, counter_mj)
                self._window = (now_s, counter_mj)
            self._last = self._with_slope(reading, counter_mj)

    def _with_slope(self, reading: Reading, counter_mj: int) -> Reading:
        history = self._history
        if history and counter_mj < (history[-1].counter_mj or 0):
            history.clear()  # the counter was reset: a slope across that point means nothing
        history.append(reading)
        while len(history) > 2 and reading.at_monotonic_s - history[1].at_monotonic_s >= SLOPE_SECONDS:
            history.popleft()
        first = history[0]
        seconds = reading.at_monotonic_s - first.at_monotonic_s
        if seconds < WINDOW_SECONDS or first.counter_mj is None:
            return reading  # the first moments: the driver's own average
        devices = tuple(
            device.model_copy(update={"watts": (device.joules_total - before.joules_total) / seconds})
            if device.joules_total is not None and before.joules_total is not None
            else device
            for device, before in zip(reading.devices, first.devices, strict=True)
        )
        return replace(reading, devices=devices, watts=(counter_mj - first.counter_mj) / 1000 / seconds)


def open_meter(visible: tuple[str, ...], ledger: Ledger) -> Meter:
    """A meter over the boards that this pod sees (`visible` narrows them), or one that says `unavailable`."""
    try:
        boards = Boards(visible)
    except NoMeterError as error:
        log.info("energy is not metered: %s", error)
        return Meter(None, ledger)
    if boards.read().counter_mj is None:
        log.warning("energy is not metered: a board has no energy counter (Volta and later have one)")
        boards.close()
        return Meter(None, ledger)
    return Meter(boards, ledger)
