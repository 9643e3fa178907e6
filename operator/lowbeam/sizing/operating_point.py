"""The operating point of one replica: running batch, watts and latency of one profile at a rate.

The readable face of `sizing.curves` for one profile at a time; sizing itself asks for all profiles at once. Decides
nothing.

    curve = at_lengths(measured_curve(profile, h100), profile, model, h100, input_tokens=500, output_tokens=200)
    expected_milliwatts(curve, np.array([2.5]))     # at 2.5 requests/s; idle watts at 0
"""

from __future__ import annotations

import numpy as np

from lowbeam.catalog.facts import AcceleratorClass, EnergyProfile, Model
from lowbeam.sizing import curves

Curve = curves.Curves
"""Curves of exactly one profile."""


def measured_curve(profile: EnergyProfile, accelerator: AcceleratorClass) -> Curve:
    """The profile's points as measured."""
    return curves.measured_curves([(profile, accelerator)])


def at_lengths(
    curve: Curve,
    profile: EnergyProfile,
    model: Model,
    accelerator: AcceleratorClass,
    *,
    input_tokens: int,
    output_tokens: int,
) -> Curve:
    """The curve for requests of other lengths than the profile's."""
    return curves.at_lengths(curve, curves.lengths([(profile, model, accelerator)], input_tokens, output_tokens))


def running_batch(curve: Curve, rate: curves.Floats) -> curves.Floats:
    """Mean number of requests running in one replica at `rate` requests/s."""
    return curves.running_batch(curve, np.zeros(np.size(rate), dtype=np.int64), rate)


def expected_milliwatts(curve: Curve, rate: curves.Floats) -> curves.Floats:
    """Mean draw of one replica at `rate` requests/s: idle watts at 0."""
    return curves.expected_milliwatts(curve, np.zeros(np.size(rate), dtype=np.int64), rate)
