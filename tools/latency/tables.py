"""The tables that sizing reads, and how they are filled.

`build` simulates every cell, `check` simulates a few of them again and compares. Both queues have the axes burstiness,
batch limit, slope (share of a full batch's time that grows with the batch) and load. Values are rounded up to three
digits and never fall with load or burstiness: simulation noise errs on the side of a slower answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .batch_service import Lanes, sojourn_quantiles
from .continuous_batching import delays_and_paces

Floats = NDArray[np.float64]
Say = Callable[[str], None]

TABLE = Path(__file__).parents[2] / "operator" / "lowbeam" / "sizing" / "data" / "latency.npz"

CVS = np.array([1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 14.0])
LIMITS = 2.0 ** np.arange(10)
SLOPES = np.array([0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 1.0])
LOADS = np.round(np.arange(20) * 0.05, 2)
"""The first is an idle replica, whose figures need no simulation."""
REQUESTS = 80_000
_DIGITS = 3
_CHECKED_SHARE = 0.01
_RAISED, _RAISED_BY = 1.1, 0.02
"""How far a stored value may be above its own simulation."""


def build(say: Say) -> dict[str, NDArray[np.float32]]:
    """All arrays of the table file."""
    lanes = _all_lanes()
    shape = (-1, LIMITS.size, SLOPES.size, LOADS.size - 1)
    batch, continuous = [], []
    for cv in CVS:
        say(f"burstiness {cv:g}: {lanes.load.size} replicas of {REQUESTS} requests, batch service")
        batch.append(sojourn_quantiles(lanes, cv, REQUESTS).reshape(shape))
        say(f"burstiness {cv:g}: {lanes.load.size} replicas of {REQUESTS} requests, continuous batching")
        continuous.append(delays_and_paces(lanes, cv, REQUESTS).reshape(shape))
    alone = (1 - SLOPES)[None, :] + SLOPES[None, :] / LIMITS[:, None]
    waits = np.zeros_like(alone)
    return {
        "cv": CVS.astype(np.float32),
        "limit": LIMITS.astype(np.float32),
        "slope": SLOPES.astype(np.float32),
        "load": LOADS.astype(np.float32),
        "batch_service": _finished(batch, [alone] * 3),
        "continuous_batching": _finished(continuous, [waits] * 3 + [alone] * 6),
    }


def write(arrays: dict[str, NDArray[np.float32]], path: Path = TABLE) -> None:
    """Put the arrays into the package; the same arrays give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes its own keyword for an array


def check(say: Say, path: Path = TABLE) -> list[str]:
    """Cells of the table file that a new simulation does not confirm; a sample with the same seeds."""
    stored = np.load(path)
    everything = _all_lanes()
    chosen = np.random.default_rng(1).choice(
        everything.load.size, round(everything.load.size * _CHECKED_SHARE), replace=False
    )
    lanes = Lanes(everything.load[chosen], everything.limit[chosen], everything.slope[chosen])
    at = np.unravel_index(chosen, (LIMITS.size, SLOPES.size, LOADS.size - 1))
    wrong = []
    for index, cv in enumerate(CVS):
        say(f"burstiness {cv:g}: {chosen.size} replicas of each queue")
        for name, simulate in (("batch_service", sojourn_quantiles), ("continuous_batching", delays_and_paces)):
            found = _rounded_up(simulate(lanes, cv, REQUESTS))
            kept = stored[name][:, index, at[0], at[1], at[2] + 1]
            # What is stored may be higher, where a smaller load or burstiness was found slower by chance.
            off = (found > kept * (1 + 1e-6)) | (kept > found * _RAISED + _RAISED_BY)
            for figure, lane in np.argwhere(off):
                at_lane = f"limit {lanes.limit[lane]:g}, slope {lanes.slope[lane]:g}, load {lanes.load[lane]:g}"
                values = f"{kept[figure, lane]:g} stored, {found[figure, lane]:g} found"
                wrong.append(f"{name}[{figure}] at cv {cv:g}, {at_lane}: {values}")
    return wrong


def _all_lanes() -> Lanes:
    limit, slope, load = (axis.ravel() for axis in np.meshgrid(LIMITS, SLOPES, LOADS[1:], indexing="ij"))
    return Lanes(load, limit, slope)


def _finished(by_cv: list[Floats], idle: list[Floats]) -> NDArray[np.float32]:
    """(figure, cv, limit, slope, load) with the idle column in front, monotone and rounded up."""
    simulated = np.stack(by_cv, axis=1)
    first = np.broadcast_to(np.stack(idle)[:, None, :, :, None], (*simulated.shape[:-1], 1))
    whole = np.concatenate([first, simulated], axis=-1)
    return _rounded_up(np.maximum.accumulate(np.maximum.accumulate(whole, axis=-1), axis=1))


def _rounded_up(values: Floats) -> NDArray[np.float32]:
    safe = np.where(values > 0, values, 1.0)
    step = 10.0 ** (np.floor(np.log10(safe)) - (_DIGITS - 1))
    return np.where(values > 0, np.ceil(safe / step - 1e-6) * step, 0.0).astype(np.float32)
