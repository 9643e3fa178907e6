"""The device that is measured, its energy counter, and who else uses it.

Decides whether figures of this device may be called those of the class: one whole board of the class, or the CPU
packages for a class without boards; a counter that can be read; nobody else at work on it; its power limit as it came.
Everything else is refused before a model is loaded, and looked for again after every window. The counter is the
worker's own (`energy/`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pynvml

from lowbeam.api.wire import MeterScope
from lowbeam_worker.energy.boards import Boards, NoMeterError, visible_devices
from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.energy.meter import STUCK_SECONDS, Meter, Source
from lowbeam_worker.energy.rapl import Packages

POLL_SECONDS = 0.002
_SHARED = "Its counter counts for all of them; stop them, or measure on another device"
MOST_OF_OTHERS = 0.05
"""Share of the machine's CPU that other processes may take while its packages are measured."""
LEAST_LOOK_SECONDS = 1.0
"""The machine's CPU time is told in hundredths of a second: over less, one more or less is a crowd."""


class CannotCalibrateError(Exception):
    """Nothing that is measured here would be true; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Border:
    """The counter in the moment in which it moved."""

    at_s: float
    counter_mj: int


class Gauge(Protocol):
    """What windows are measured with."""

    async def border(self) -> Border:
        """Wait until the counter moves. Raises CannotCalibrateError when it cannot be believed."""

    def check_alone(self) -> None:
        """Raises CannotCalibrateError when somebody else used or slowed the device since the last look."""


class Strangers(Protocol):
    """Who else has a hand on the device."""

    def seen(self) -> str | None:
        """What others do there, and what to do about it; None: nothing that can be seen from here."""


class Device:
    """An open energy counter; a `Gauge`. `close` when done."""

    def __init__(self, meter: Meter, strangers: Strangers, name: str, counter: str) -> None:
        self.name = name
        """For people."""
        self.counter = counter
        """By the name that its documentation uses."""
        self._meter = meter
        self._strangers = strangers
        self._last_mj = 0

    def start(self) -> None:
        """Begin to read the counter."""
        self._meter.start()

    async def border(self) -> Border:
        """Wait until the counter moves: drivers refresh it ten times a second, so that a border between two refreshes
        would belong to neither window."""
        before: int | None = None
        began_s = time.monotonic()
        while True:
            self._meter.sample()
            reading = self._meter.last
            if not self._meter.counts_energy or reading is None or reading.counter_mj is None:
                raise CannotCalibrateError(
                    f"the energy counter cannot be believed: {self._meter.trouble}; "
                    "see dmesg and nvidia-smi for the device, then measure again"
                )
            if self._meter.counter_resets or reading.counter_mj < self._last_mj:
                raise CannotCalibrateError(
                    "the energy counter ran backwards: the driver was loaded anew; measure again"
                )
            self._last_mj = reading.counter_mj
            if before is not None and reading.counter_mj != before:
                return Border(reading.at_monotonic_s, reading.counter_mj)
            before = reading.counter_mj
            if time.monotonic() - began_s > STUCK_SECONDS:
                raise CannotCalibrateError(
                    f"the energy counter of {self.name} stood still for {STUCK_SECONDS:.0f} s; "
                    "see dmesg and nvidia-smi for the device, then measure again"
                )
            await asyncio.sleep(POLL_SECONDS)

    def check_alone(self) -> None:
        """Raises CannotCalibrateError when somebody else used or slowed the device since the last look."""
        if what := self._strangers.seen():
            raise CannotCalibrateError(f"{self.name} is not ours alone: {what}")

    def close(self) -> None:
        """Give the counter back."""
        self._meter.stop()


def open_device(boards: Sequence[str], accelerator_class: str, ledger: Ledger) -> Device:
    """The one board in sight, or the CPU packages for a class without boards; raises CannotCalibrateError."""
    try:
        source: Source = Boards(visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"))) if boards else Packages()
    except NoMeterError as error:
        raise CannotCalibrateError(
            f"there is no energy counter here: {error}. A profile without measured watts would be a guess, so none is "
            "written; measure where the counter can be read"
        ) from error
    try:
        uuids = _readable(source)
        device = _board(source, uuids, boards, accelerator_class, ledger) if boards else _packages(source, ledger)
        device.check_alone()
    except pynvml.NVMLError as error:
        source.close()
        raise CannotCalibrateError(f"the board does not say what it is ({error}); see nvidia-smi") from error
    except CannotCalibrateError:
        source.close()
        raise
    device.start()
    return device


def _readable(source: Source) -> list[str]:
    reading = source.read()
    if reading.counter_mj is None:
        raise CannotCalibrateError(
            f"the energy counter cannot be read ({source.why_unreadable()}), and a profile without measured watts "
            "would be a guess; measure where it can be read"
        )
    return [device.uuid for device in reading.devices]


def _packages(source: Source, ledger: Ledger) -> Device:
    return Device(Meter(source, ledger), _OnPackages(), "the CPU", source.name)


def _board(
    source: Source, uuids: Sequence[str], boards: Sequence[str], accelerator_class: str, ledger: Ledger
) -> Device:
    if len(uuids) != 1:
        raise CannotCalibrateError(
            f"NVML shows {len(uuids)} boards and the model runs on one; name it with CUDA_VISIBLE_DEVICES=0"
        )
    name = _text(pynvml.nvmlDeviceGetName(_handle(uuids[0])))
    _check_board(name, source.scope, boards, accelerator_class)
    return Device(Meter(source, ledger), _OnBoard(uuids[0]), name, source.name)


def driver_version() -> str:
    """Of the board's driver; empty where NVML does not tell."""
    try:
        return _text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


def _check_board(name: str, scope: MeterScope, boards: Sequence[str], accelerator_class: str) -> None:
    label = name.replace(" ", "-")  # as GPU feature discovery makes the label of the node
    if label not in boards:
        raise CannotCalibrateError(
            f"this board is a {name}, and class {accelerator_class} is {' or '.join(boards)}; "
            f"name its own class with --class, or add {label} to the productLabels of {accelerator_class}"
        )
    if scope is MeterScope.SHARED:
        raise CannotCalibrateError(
            f"{name} is cut into MIG instances, whose joules nobody counts one by one; measure on a whole board"
        )


class _OnBoard:
    """Processes that NVML shows on a board, and a power limit below the one it came with. From inside a container NVML
    may show no processes, or foreign ids."""

    def __init__(self, uuid: str) -> None:
        self._handle = _handle(uuid)
        self._ours_may_be_there = False

    def seen(self) -> str | None:
        """Any process before we load a model, more than one after it; or a lowered limit."""
        if lowered := self._lowered():
            return lowered
        pids = self._processes()
        others = pids - {os.getpid()}
        # Inside a container our own process may have the id that it has on the host.
        tolerated = 1 if self._ours_may_be_there and others == pids else 0
        self._ours_may_be_there = True
        if len(others) <= tolerated:
            return None
        names = ", ".join(map(str, sorted(others)))
        return f"NVML shows {'processes' if len(others) > 1 else 'process'} {names} on it. {_SHARED}"

    def _lowered(self) -> str | None:
        try:
            limit_mw = int(pynvml.nvmlDeviceGetPowerManagementLimit(self._handle))
            default_mw = int(pynvml.nvmlDeviceGetPowerManagementDefaultLimit(self._handle))
        except pynvml.NVMLError:
            return None  # a board that has no limit to set
        if limit_mw >= default_mw:
            return None
        return (
            f"its power limit is set to {limit_mw / 1000:g} W, {default_mw / 1000:g} W is its own, and the curve would "
            f"be that of a slower board; set it back (nvidia-smi -pl {default_mw / 1000:g}), or keep the node agent off"
        )

    def _processes(self) -> set[int]:
        found: set[int] = set()
        for ask in (pynvml.nvmlDeviceGetComputeRunningProcesses_v3, pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3):
            try:
                found |= {int(process.pid) for process in ask(self._handle)}
            except pynvml.NVMLError:
                continue  # not told here: the idle watts before and after are compared as well
        return found


class _OnPackages:
    """CPU time that others took, of the whole machine: a container sees it all in this file."""

    def __init__(self, machine: Path = Path("/proc/stat")) -> None:
        self._machine = machine
        self._before = self._look()

    def seen(self) -> str | None:
        """More than `MOST_OF_OTHERS` of the machine."""
        before, now = self._before, self._look()
        if now[0] - before[0] < LEAST_LOOK_SECONDS:
            return None  # the next look covers it
        self._before = now
        seconds = (now[0] - before[0]) * (os.cpu_count() or 1)
        others = (now[1] - before[1]) - (now[2] - before[2])
        if others <= MOST_OF_OTHERS * seconds:
            return None
        return f"other processes took {others / seconds:.0%} of the machine's CPU time. {_SHARED}"

    def _look(self) -> tuple[float, float, float]:
        """Time, CPU seconds of the machine, CPU seconds of this process."""
        user, nice, system, _idle, _waiting, irq, soft_irq = map(int, self._machine.read_text().split()[1:8])
        busy_s = (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy_s, time.process_time()


def _handle(uuid: str) -> Any:
    return pynvml.nvmlDeviceGetHandleByUUID(uuid)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
