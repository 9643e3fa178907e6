"""Power limits of the boards, through NVML. Integer milliwatts everywhere, as NVML has them.

Decides nothing: it reads what a board says and sets what it is told. What a board does not tell is None in `read`, and
a `BoardError` where an answer is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

T = TypeVar("T")


class BoardError(Exception):
    """A board did not answer, or refused; the message is NVML's own, with the question."""


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """What one board says about its power limit."""

    set_milliwatts: int | None = None
    """What was last set; survives the process, not the driver."""
    min_milliwatts: int | None = None
    max_milliwatts: int | None = None
    default_milliwatts: int | None = None


class NvmlLimits:
    """The boards that NVML shows; NVML must be open."""

    def read(self, uuid: str) -> LimitFacts:
        """Everything that the board tells."""
        span = _known(lambda: self.span(uuid))
        return LimitFacts(
            set_milliwatts=_known(lambda: self.limit(uuid)),
            min_milliwatts=span[0] if span else None,
            max_milliwatts=span[1] if span else None,
            default_milliwatts=_known(lambda: int(_ask(pynvml.nvmlDeviceGetPowerManagementDefaultLimit, uuid))),
        )

    def limit(self, uuid: str) -> int:
        """The limit that was last set. Raises BoardError."""
        return int(_ask(pynvml.nvmlDeviceGetPowerManagementLimit, uuid))

    def enforced(self, uuid: str) -> int:
        """The limit that the board obeys now. Raises BoardError."""
        return int(_ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, uuid))

    def span(self, uuid: str) -> tuple[int, int]:
        """Smallest and largest limit that the board takes. Raises BoardError."""
        least, most = _ask(pynvml.nvmlDeviceGetPowerManagementLimitConstraints, uuid)
        return int(least), int(most)

    def set(self, uuid: str, milliwatts: int) -> None:
        """Set the limit; that the driver says yes does not prove that it holds. Raises BoardError."""
        _ask(pynvml.nvmlDeviceSetPowerManagementLimit, uuid, milliwatts)

    def device_number(self, uuid: str) -> int | None:
        """N of the board's /dev/nvidiaN, which stays when other boards are lost; None where NVML does not tell."""
        return _known(lambda: int(_ask(pynvml.nvmlDeviceGetMinorNumber, uuid)))

    def parent(self, mig_uuid: str) -> str | None:
        """The UUID of the board that a MIG instance was cut from; None where NVML does not know the instance."""
        return _known(
            lambda: str(
                _nvml(pynvml.nvmlDeviceGetUUID, _ask(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, mig_uuid))
            )
        )


def _known(question: Callable[[], T]) -> T | None:
    try:
        return question()
    except BoardError:
        return None


def _ask(function: Any, uuid: str, *arguments: int) -> Any:
    return _nvml(function, _nvml(pynvml.nvmlDeviceGetHandleByUUID, uuid), *arguments)


def _nvml(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        raise BoardError(f"{function.__name__}: {error}") from error
