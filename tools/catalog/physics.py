"""The physical model behind the modelled profiles: time and watts of one step from bytes, FLOPs and hardware facts.

    seconds = c0 + c1 * bytes / bandwidth + c2 * FLOPs / peak + c3 * layers   (c3 only across several boards)
    watts   = idle + (limit - idle) * (p0 + p1 * bandwidth use + p2 * compute use), at most the limit

A step is one token for every request of the batch (decoders) or one batch (encoders). Bytes are the weights and the
keys and values read; FLOPs are two per active parameter and token, the prompt's included. The seven constants are
fitted, in closed form, to relative errors on the published H100 measurements of dense BF16 models up to batch 256.

Nothing here knows another precision than BF16 on accelerators, mixtures of experts, or power caps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FITTED_BATCH_LIMIT = 256
"""Above it the published runs are bound by the host and by preemption, which the model does not describe."""


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

    time: tuple[float, float, float, float]
    """c0 in seconds, c1 and c2 without unit, c3 in seconds per layer."""
    power: tuple[float, float, float]

    def seconds(self, step: Step) -> float:
        """Duration of a step."""
        return float(np.dot(self.time, _time_terms(step)))

    def watts(self, step: Step) -> float:
        """Draw of all boards of the replica during such steps."""
        use = float(np.clip(np.dot(self.power, _power_terms(step, self.seconds(step))), 0.0, 1.0))
        return step.boards * (step.board.idle_watts + (step.board.limit_watts - step.board.idle_watts) * use)

    def encoder_step(self, step: Step, host_seconds: float) -> tuple[float, float]:
        """(seconds, watts) of one batch of an encoder, whose host work overlaps with the board's.

        The board draws its working power only while it works: the host's `host_seconds` may be longer.
        """
        work = self.time[1] * step.bandwidth_seconds + self.time[2] * step.compute_seconds
        seconds = max(work, host_seconds)
        base, *uses = _power_terms(step, seconds)
        use = float(np.clip(np.dot(self.power, [base * work / seconds, *uses]), 0.0, 1.0))
        return seconds, step.board.idle_watts + (step.board.limit_watts - step.board.idle_watts) * use


def _time_terms(step: Step) -> list[float]:
    return [1.0, step.bandwidth_seconds, step.compute_seconds, step.layers if step.boards > 1 else 0.0]


def _power_terms(step: Step, seconds: float) -> list[float]:
    return [1.0, step.bandwidth_seconds / seconds, step.compute_seconds / seconds]


def fit(observations: Sequence[Observation]) -> PhysicalModel:
    """Least squares of the relative error of seconds and of the error of use of the power range."""
    time_rows = np.array([_time_terms(o.step) for o in observations])
    seconds = np.array([o.seconds for o in observations])
    time, *_ = np.linalg.lstsq(time_rows / seconds[:, None], np.ones_like(seconds), rcond=None)
    power_rows = np.array([_power_terms(o.step, o.seconds) for o in observations])
    use = np.array(
        [
            (o.watts / o.step.boards - o.step.board.idle_watts) / (o.step.board.limit_watts - o.step.board.idle_watts)
            for o in observations
        ]
    )
    power, *_ = np.linalg.lstsq(power_rows, use, rcond=None)
    return PhysicalModel(tuple(map(float, time)), tuple(map(float, power)))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of joules per request on observations that the fit has not seen."""

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
        """Median signed error: above zero = the model says too many joules."""
        return float(np.median(self.relative) * 100)


def joules_errors(model: PhysicalModel, observations: Iterable[Observation]) -> Floats:
    """(modelled - measured) / measured joules per step."""
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
