"""Arrival times with a given burstiness. Decides nothing; seeded, so the same call gives the same times everywhere.

A time is in mean times between requests: divide by the rate. Burstiness is the coefficient of variation (cv) of the
time between two requests: 1 is Poisson. Times between requests are independent and Gamma distributed, the family that
fits most of the clients in ServeGen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEED = 20261121


def gamma_arrivals(cv: float, count: int, *stream: int) -> Floats:
    """`count` arrival times; `stream` tells independent sequences apart."""
    shape = 1 / cv**2
    return np.cumsum(_generator(cv, *stream).gamma(shape, 1 / shape, count))


def unit_exponentials(cv: float, count: int, *stream: int) -> Floats:
    """Exponential times of mean 1."""
    return _generator(cv, 7, *stream).exponential(1.0, count)


def coefficient_of_variation(times: Floats) -> float:
    """Of the gaps between the given arrival times."""
    gaps = np.diff(times)
    return float(gaps.std() / gaps.mean())


def _generator(cv: float, *stream: int) -> np.random.Generator:
    return np.random.default_rng([SEED, round(cv * 1000), *stream])
