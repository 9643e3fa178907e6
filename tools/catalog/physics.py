"""The physical model behind the modelled profiles: time and watts of one step from bytes, FLOPs and hardware facts.

    seconds = c0 + c1 * bytes / bandwidth + c2 * FLOPs / peak + c3 * layers (across boards only) + c4 * requests
    watts   = idle + (limit - idle) * (p0 + p1 * bandwidth use + p2 * sqrt(compute use)), at most the limit

A step is one token for every request of the batch (decoders) or one batch (encoders). Bytes are the weights and the
keys and values read; FLOPs are two per active parameter and token, the prompt's included. c0 and c4 are the host's work
per step and per request (scheduling, sampling, detokenising), which no faster board shortens. The root makes watts rise
early and flatten, as they do on every measured board. The eight constants are fitted to relative errors on published
measurements of dense BF16 models, none below zero for the times.

Nothing here knows another precision than BF16 on accelerators, mixtures of experts, or lowered power limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FITTED_BATCH_LIMIT = 1024
"""Above it the published runs are bound by preemption and by the host, which the model does not describe."""


@dataclass(frozen=True, slots=True)
class Board:
    """Hardware facts of one accelerator."""

    bandwidth_bytes_per_second: float
    peak_flops_per_second: float
    idle_watts: float
    limit_watts: float


@dataclass(frozen=True, slots=True)
class Step:
    """Work of one step of a replica."""

    board: Board
    boards: int
    bytes_read: float
    flops: float
    layers: int
    requests: float

    @property
    def bandwidth_seconds(self) -> float:
        """Time to read the bytes at peak bandwidth."""
        return self.bytes_read / (self.boards * self.board.bandwidth_bytes_per_second)

    @property
    def compute_seconds(self) -> float:
        """Time for the FLOPs at peak throughput."""
        return self.flops / (self.boards * self.board.peak_flops_per_second)


@dataclass(frozen=True, slots=True)
class Observation:
    """A measured step."""

    group: str
    """The model, so that an error can be computed on models that the fit has not seen."""
    step: Step
    seconds: float
    watts: float


@dataclass(frozen=True, slots=True)
class PhysicalModel:
    """The fitted constants."""

    time: tuple[float, ...]
    """c0 in seconds, c1 and c2 without unit, c3 in seconds per layer, c4 in seconds per request."""
    power: tuple[float, ...]
    """p0 to p2, shares of the range from idle to the limit."""

    def seconds(self, step: Step) -> float:
        """Duration of a step."""
        return float(np.dot(self.time, _time_terms(step)))

    def watts(self, step: Step, seconds: float | None = None) -> float:
        """Draw of all boards of the replica during such steps, which take `seconds` (None: as modelled)."""
        duration = self.seconds(step) if seconds is None else seconds
        use = float(np.clip(np.dot(self.power, _power_terms(step, duration)), 0.0, 1.0))
        return step.boards * (step.board.idle_watts + (step.board.limit_watts - step.board.idle_watts) * use)

    def board_seconds(self, step: Step) -> float:
        """What the board itself needs for a step, the host left out."""
        return self.time[1] * step.bandwidth_seconds + self.time[2] * step.compute_seconds

    def encoder_step(self, step: Step, host_seconds: float) -> tuple[float, float]:
        """(seconds, watts) of one batch of an encoder, whose host work overlaps with the board's.

        The board draws its working power only while it works: the host's `host_seconds` may be longer. Where the work
        would draw more than the limit it takes longer in proportion: a board that is starved of watts saves none.
        """
        work = self.board_seconds(step)
        wanted = max(0.0, float(np.dot(self.power, _power_terms(step, work))))
        work *= max(1.0, wanted)
        seconds = max(work, host_seconds)
        use = min(1.0, wanted) * work / seconds
        return seconds, step.board.idle_watts + (step.board.limit_watts - step.board.idle_watts) * use


def _time_terms(step: Step) -> list[float]:
    across = step.layers if step.boards > 1 else 0.0
    return [1.0, step.bandwidth_seconds, step.compute_seconds, across, step.requests]


def _power_terms(step: Step, seconds: float) -> list[float]:
    return [1.0, step.bandwidth_seconds / seconds, (step.compute_seconds / seconds) ** 0.5]


def fit(observations: Sequence[Observation]) -> PhysicalModel:
    """Least squares of the relative error of seconds and of the error of use of the power range."""
    seconds = np.array([o.seconds for o in observations])
    time_rows = np.array([_time_terms(o.step) for o in observations]) / seconds[:, None]
    power_rows = np.array([_power_terms(o.step, o.seconds) for o in observations])
    use = np.array(
        [
            (o.watts / o.step.boards - o.step.board.idle_watts) / (o.step.board.limit_watts - o.step.board.idle_watts)
            for o in observations
        ]
    )
    power, *_ = np.linalg.lstsq(power_rows, use, rcond=None)
    return PhysicalModel(_not_negative(time_rows, np.ones_like(seconds)), tuple(map(float, power)))


def _not_negative(rows: Floats, wanted: Floats) -> tuple[float, ...]:
    """Least squares; the column with the most negative constant leaves until none is: no work takes negative time."""
    kept = list(range(rows.shape[1]))
    while True:
        found, *_ = np.linalg.lstsq(rows[:, kept], wanted, rcond=None)
        worst = int(np.argmin(found))
        if found[worst] >= 0:
            break
        del kept[worst]
    constants = np.zeros(rows.shape[1])
    constants[kept] = found
    return tuple(map(float, constants))


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors on observations that the fit has not seen: (modelled - measured) / measured."""

    relative: Floats

    @property
    def median_percent(self) -> float:
        """Half of the points are closer."""
        return float(np.median(np.abs(self.relative)) * 100)

    @property
    def p90_percent(self) -> float:
        """Nine of ten points are closer."""
        return float(np.percentile(np.abs(self.relative), 90) * 100)

    @property
    def bias_percent(self) -> float:
        """Median signed error: above zero = the model says too much."""
        return float(np.median(self.relative) * 100)


def joules_errors(model: PhysicalModel, observations: Iterable[Observation]) -> Floats:
    """Of joules per step."""
    return np.array(
        [model.seconds(o.step) * model.watts(o.step) / (o.seconds * o.watts) - 1.0 for o in observations],
        dtype=np.float64,
    )


def leave_one_model_out(observations: Sequence[Observation]) -> Errors:
    """Each model predicted from the others."""
    parts = []
    for group in sorted({o.group for o in observations}):
        rest = fit([o for o in observations if o.group != group])
        parts.append(joules_errors(rest, [o for o in observations if o.group == group]))
    return Errors(np.concatenate(parts))


def unseen_hardware(fitted: PhysicalModel, observations: Sequence[Observation]) -> Errors:
    """Another class predicted from the fitted one."""
    return Errors(joules_errors(fitted, observations))
