"""Quantiles of very many times, one set per lane, in fixed memory.

Bins grow by 1 %, from 1e-4 to 1e4; a quantile is the upper edge of its bin, so it errs by at most 1 % and upwards.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LEAST, _MOST, _GROWTH = 1e-4, 1e4, 1.01
_BINS = int(np.ceil(np.log(_MOST / _LEAST) / np.log(_GROWTH))) + 2


class Histogram:
    """Counts per lane and bin."""

    def __init__(self, lanes: int) -> None:
        self._counts = np.zeros(lanes * _BINS)
        self._lanes = lanes

    def add(self, lanes: Ints, times: Floats) -> None:
        """Count each time in its lane; lanes may repeat."""
        spot = np.ceil(np.log(np.maximum(times, _LEAST) / _LEAST) / np.log(_GROWTH) - 1e-9).astype(np.int64)
        self._counts += np.bincount(lanes * _BINS + np.minimum(spot, _BINS - 1), minlength=self._counts.size)

    def quantile(self, share: float) -> Floats:
        """Per lane, the time that `share` of all times do not exceed; 0 for times below the first bin's edge."""
        cumulative = np.cumsum(self._counts.reshape(self._lanes, _BINS), axis=1)
        spot = (cumulative < share * cumulative[:, -1:]).sum(axis=1)
        result: Floats = np.where(spot == 0, 0.0, _LEAST * _GROWTH**spot)
        return result
