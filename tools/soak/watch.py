"""What the worker's process and its own figures look like while it is under load."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from lowbeam.api.wire import WorkerTelemetry

from .subject import Subject

_MEMORY_SECONDS = 2.0
_BOOKS_SECONDS = 5.0
_BOARD_SECONDS = 7.0


class Memory(NamedTuple):
    """One sample."""

    at_s: float
    mib: float
    precision: str
    """Of the weights, as the worker told last: they take another room at each."""


class Watch:
    """Samples one worker until the end; every scrape checks the energy books."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.memory: list[Memory] = []
        self.scrapes = 0
        self.worst_alarm_joules = 0.0
        """Of the worker's own alarm, `lowbeam_worker_energy_ledger_error_joules`."""
        self.worst_gap_millijoules = 0
        """Parts against counter, in telemetry."""
        self.counted_joules = self.board_joules = 0.0
        """Since the first look: by the worker's counter, and by the watts that its board was given."""
        self.series: dict[str, float] = {}
        """Of the last scrape; a series with several labels is summed."""
        self._first: tuple[float, float] | None = None
        self._precision = subject.telemetry().profile.precision

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        books_at = board_at = 0.0
        async with httpx.AsyncClient(timeout=30) as http:
            while not stop.is_set() and self._subject.is_alive():
                now = time.monotonic()
                self.memory.append(Memory(now, self._subject.resident_mib(), self._precision))
                if now >= board_at:
                    self._subject.board.turn()
                    board_at = now + _BOARD_SECONDS
                if now >= books_at:
                    await self.look(http)
                    books_at = now + _BOOKS_SECONDS
                await asyncio.sleep(_MEMORY_SECONDS)

    async def look(self, http: httpx.AsyncClient) -> None:
        """One scrape and one sample of telemetry."""
        text = (await http.get(f"{self._subject.url}/metrics")).raise_for_status().text
        self.series = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.series[sample.name] = self.series.get(sample.name, 0.0) + sample.value
        self.worst_alarm_joules = max(
            self.worst_alarm_joules, abs(self.series["lowbeam_worker_energy_ledger_error_joules"])
        )
        answer = await http.get(f"{self._subject.control_url}/telemetry")
        told = WorkerTelemetry.model_validate_json(answer.content)
        self._precision, parts = told.profile.precision, told.energy_joules
        if parts is None:
            return
        counter_mj = round(parts.counter * 1000)
        booked_mj = sum(round(part * 1000) for part in (parts.active, parts.idle, parts.load, parts.reconfigure))
        self.worst_gap_millijoules = max(self.worst_gap_millijoules, abs(booked_mj - counter_mj))
        board = self._subject.board.joules()
        if self._first is None:
            self._first = (parts.counter, board)
        self.counted_joules, self.board_joules = parts.counter - self._first[0], board - self._first[1]
        self.scrapes += 1

    def growth_mib(self) -> float:
        """Median memory of the last third of the run over that of the third before: the first third fills caches.

        Compared at the same precision, and each counts by its samples: weights come and go with every change.
        """
        third = len(self.memory) // 3
        before, after = _by_precision(self.memory[third : 2 * third]), _by_precision(self.memory[2 * third :])
        both = before.keys() & after.keys()
        weights = {one: len(before[one]) + len(after[one]) for one in both}
        grown = {one: statistics.median(after[one]) - statistics.median(before[one]) for one in both}
        return sum(weights[one] * grown[one] for one in both) / sum(weights.values()) if both else math.nan

    def slope_mib_per_hour(self) -> tuple[float, float]:
        """Least squares through the medians of the minutes of the last two thirds, and its standard error.

        Each sample counts as what it lies above the median of its precision. The error is infinite for a run too short
        to tell.
        """
        points = self.memory[len(self.memory) // 3 :]
        usual = {one: statistics.median(mib) for one, mib in _by_precision(points).items()}
        minutes: dict[int, list[float]] = defaultdict(list)
        for at_s, mib, precision in points:
            minutes[int((at_s - points[0].at_s) // 60)].append(mib - usual[precision])
        if len(minutes) < 3:
            return 0.0, math.inf
        hours = np.array(list(minutes)) / 60
        medians = np.array([statistics.median(values) for values in minutes.values()])
        slope, start = np.polyfit(hours, medians, 1)
        residual = float(((medians - start - slope * hours) ** 2).sum()) / (len(minutes) - 2)
        return float(slope), math.sqrt(residual / float(((hours - hours.mean()) ** 2).sum()))

    def median_mib(self) -> float:
        """Of the last third."""
        return statistics.median(sample.mib for sample in self.memory[2 * len(self.memory) // 3 :])


def _by_precision(samples: Iterable[Memory]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for _, mib, precision in samples:
        found[precision].append(mib)
    return found
