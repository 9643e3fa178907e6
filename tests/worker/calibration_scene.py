"""A device and a load in one of which everything is known: each window has its watts and its requests per second."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from lowbeam_worker.calibration.device import Border, CannotCalibrateError
from lowbeam_worker.calibration.load import LoadFailedError, Seen

WINDOW_S = 10.0


class Scripted:
    """Device and load in one: each window has watts, and requests per second."""

    def __init__(self, *windows: tuple[float, float], together: float = 1.0, per_window: int = 50) -> None:
        self._windows: Iterator[tuple[float, float]] = itertools.chain(windows, itertools.repeat(windows[-1]))
        self._share, self._per_window = together, per_window
        self._at_s, self._millijoules, self._done, self._finished = 100.0, 5_000_000.0, 0.0, 0
        self._inside = False
        self._batch = 0
        self._seen: Seen | None = None
        self.stopped = False
        self.stranger_from_look = 10**9
        self.dies_from_check = 10**9
        self.looks = self.checks = self.windows_read = 0

    async def border(self) -> Border:
        if self._inside:
            watts, rate = next(self._windows)
            self.windows_read += 1
            self._at_s += WINDOW_S
            self._millijoules += watts * WINDOW_S * 1000
            self._done += rate * WINDOW_S
            if self._seen is not None:
                self._seen.latency.add(0.5 / rate, self._per_window)
        else:
            self._finished += self._per_window
        self._inside = not self._inside
        return Border(self._at_s, round(self._millijoules))

    def check_alone(self) -> None:
        self.looks += 1
        if self.looks >= self.stranger_from_look:
            raise CannotCalibrateError("somebody else")

    most = (10**6, "")
    settled = True

    def start(self, batch: int) -> None:
        self._batch = batch

    async def stop(self) -> None:
        self.stopped = True
        self._inside = False

    def watch(self, seen: Seen | None) -> None:
        self._seen = seen

    def requests(self) -> float:
        return self._done

    def finished(self) -> int:
        # Requests end between the two borders of a window.
        self._finished += self._per_window if self._inside and self.checks % 40 == 0 else 0
        return self._finished

    def together(self) -> tuple[float, float]:
        return self._at_s, self._at_s * self._batch * self._share

    def check(self) -> None:
        self.checks += 1
        if self.checks >= self.dies_from_check:
            raise LoadFailedError("OutOfMemoryError: CUDA out of memory")
