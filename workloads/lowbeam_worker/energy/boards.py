"""The GPUs that NVML shows to this process, read with the official bindings. Used by the worker and by the node agent.

Decides what is readable; never invents a value: what a board does not tell is None. Units: millijoules, watts.
Energy comes from the board's total-energy counter, not from integrated power samples: on A100 and H100 the power sensor
sees only about a quarter of the time. Power is for control and for cross-checks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pynvml

from lowbeam.api.wire import DeviceReading, MeterMethod, MeterScope


class NoMeterError(Exception):
    """NVML cannot be used here; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All boards at one time."""

    devices: tuple[DeviceReading, ...]
    at_unix_s: float
    at_monotonic_s: float
    counter_mj: int | None
    """Sum of the energy counters in millijoules; None when one of them cannot be read."""
    watts: float | None
    """Sum of the boards' power, the driver's average; None when one of them cannot be read."""
    sensor_watts: float | None = None
    """Sum of the boards' instant power where a board tells it, else of its average; to doubt the counter with."""


class Boards:
    """Open NVML handles, a `Source` of the meter. `close` when done."""

    method = MeterMethod.NVML
    name = "nvmlDeviceGetTotalEnergyConsumption"

    def __init__(self, visible: Sequence[str] = (), *, skip_lost: bool = False) -> None:
        """Open the boards in `visible` (indices or UUIDs, as in CUDA_VISIBLE_DEVICES); none named: all of them.

        Raises NoMeterError where one of them does not open: the sum of the others is not theirs. With `skip_lost` the
        others are opened, and `lost` says which are left out.
        """
        self._why: str | None = None
        every: list[tuple[str, Any]] = []
        named: dict[str, tuple[str, Any]] = {}
        lost: list[str] = []
        for index in range(_start()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                every.append((_uuid(handle), handle))
            except pynvml.NVMLError as error:
                lost.append(f"board {index}: {error}")
            else:
                named[str(index)] = named[every[-1][0]] = every[-1]
        self.lost = tuple(lost)
        """Boards that NVML counts and does not open, each with its index and NVML's error."""
        unknown = [name for name in visible if name not in named]
        if unknown or not every or (lost and not visible and not skip_lost):
            self.close()
            what = "not every board" if lost else "no board at all"
            if unknown:
                what = f"no board called {', '.join(unknown)}"
            if lost:
                raise NoMeterError(f"NVML shows {what} ({'; '.join(lost)}); see dmesg and nvidia-smi on the node")
            raise NoMeterError(f"NVML shows {what}; check the pod's GPU request and CUDA_VISIBLE_DEVICES")
        self._handles = [named[name] for name in visible] if visible else every
        self.scope = MeterScope.SHARED if any(_is_mig(handle) for _, handle in self._handles) else MeterScope.DEVICE

    def read(self) -> Reading:
        """Read every board now."""
        at_unix_s, at_monotonic_s = time.time(), time.monotonic()
        self._why = None
        counters = [self._ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle) for _, handle in self._handles]
        powers = [self._ask(pynvml.nvmlDeviceGetPowerUsage, handle) for _, handle in self._handles]
        limits = [self._ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle) for _, handle in self._handles]
        instants = [_instant_power_mw(handle) for _, handle in self._handles]
        devices = tuple(
            DeviceReading(
                uuid=uuid,
                watts=_thousandth(power),
                joules_total=_thousandth(counter),
                power_limit_watts=_thousandth(limit),
            )
            for (uuid, _), counter, power, limit in zip(self._handles, counters, powers, limits, strict=True)
        )
        sensed = [power if instant is None else instant for power, instant in zip(powers, instants, strict=True)]
        return Reading(
            devices, at_unix_s, at_monotonic_s, _sum(counters), _thousandth(_sum(powers)), _thousandth(_sum(sensed))
        )

    def why_unreadable(self) -> str | None:
        """What the last `read` met first, or None."""
        return self._why

    def close(self) -> None:
        """Give NVML back."""
        with contextlib.suppress(pynvml.NVMLError):  # the library may be gone with its driver
            pynvml.nvmlShutdown()

    def _ask(self, function: Any, handle: Any) -> int | None:
        try:
            return int(function(handle))
        except pynvml.NVMLError as error:  # not supported, no permission, or the board fell off the bus: unknown
            self._why = self._why or f"{function.__name__}: {error}"
            return None


def visible_devices(environment_value: str | None) -> tuple[str, ...]:
    """The names in CUDA_VISIBLE_DEVICES; unset, empty, `all` or MIG names mean every board that NVML shows."""
    names = tuple(name.strip() for name in (environment_value or "").split(",") if name.strip())
    return () if names == ("all",) or any(name.startswith("MIG-") for name in names) else names


def _start() -> int:
    """Open NVML; how many boards it counts. Raises NoMeterError."""
    try:
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError:
            pynvml.nvmlShutdown()
            raise
    except pynvml.NVMLError as error:
        raise NoMeterError(
            f"NVML does not start ({error}); on a GPU node give the container a GPU or the NVIDIA runtime "
            "(libnvidia-ml.so.1 must be on its library path)"
        ) from error


def _instant_power_mw(handle: Any) -> int | None:
    try:
        value = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
    except pynvml.NVMLError:
        return None  # an old driver or board: the average has to do
    return int(value.value.uiVal) if value.nvmlReturn == pynvml.NVML_SUCCESS else None


def _uuid(handle: Any) -> str:
    return str(pynvml.nvmlDeviceGetUUID(handle))


def _is_mig(handle: Any) -> bool:
    try:
        return bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
    except pynvml.NVMLError:
        return False


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
