"""What a token costs in a decoder's step, measured while it serves: seconds = step + prefill x P + decode x D.

A step has a price of its own (weights are read once, whoever is in it), and a token that is read costs less than one
that is written. Counting tokens alone charges long prompts several times too much: at batch 1 a written token was
measured at 13 times a read one, at batch 16 at about twice; the one line above gives both. Pure: no clock.

Invariants: the three prices are never negative; before enough steps of both kinds were seen, tokens count the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST_STEPS = 8
"""Steps of each kind before the prices are believed."""
_MEMORY_STEPS = 2000
"""After so many further steps an old one counts a third: a change of precision or of clocks is learned anew."""
_SOLVE_EVERY_STEPS = 16
_LONGEST_FACTOR = 10.0
"""A step that took longer than so many times its price was stopped by something else (a neighbour, the collector)."""

Kind = tuple[int, bool]
"""One request's part of a step: tokens, and True when it decodes."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Seconds of the device."""

    step: float
    prefill_token: float
    decode_token: float


class StepCost:
    """Learns from each step, and weighs the requests of the next one. For one thread."""

    def __init__(self) -> None:
        self._prices: Prices | None = None
        self._normal: NDArray[np.float64] = np.zeros((3, 3))
        self._target: NDArray[np.float64] = np.zeros(3)
        self._seen_prefill = self._seen_decode = self._since_solved = 0

    @property
    def prices(self) -> Prices | None:
        """None before enough steps were seen."""
        return self._prices

    def weights(self, members: Sequence[Kind]) -> list[float]:
        """Each request's part of a step's seconds, up to a common factor."""
        prices = self._prices
        if prices is None:
            return [float(tokens) for tokens, _ in members]
        own = prices.step / len(members) if members else 0.0
        return [
            own + tokens * (prices.decode_token if decodes else prices.prefill_token) for tokens, decodes in members
        ]

    def learn(self, members: Sequence[Kind], seconds: float) -> None:
        """A step with these members took so long."""
        prefill = sum(tokens for tokens, decodes in members if not decodes)
        decode = sum(tokens for tokens, decodes in members if decodes)
        if seconds <= 0 or not prefill + decode:
            return
        if self._prices is not None:
            expected = self._prices.step + self._prices.prefill_token * prefill + self._prices.decode_token * decode
            if seconds > _LONGEST_FACTOR * expected > 0:
                return
        row = np.array([1.0, prefill, decode]) / seconds  # relative errors: a long prompt is not the only teacher
        fade = 1.0 - 1.0 / _MEMORY_STEPS
        self._normal = self._normal * fade + np.outer(row, row)
        self._target = self._target * fade + row
        self._seen_prefill += prefill > 0
        self._seen_decode += decode > 0
        self._since_solved += 1
        if min(self._seen_prefill, self._seen_decode) >= _LEAST_STEPS and self._since_solved >= _SOLVE_EVERY_STEPS:
            self._since_solved = 0
            self._prices = self._solve() or self._prices

    def _solve(self) -> Prices | None:
        """Least squares without negative prices: what comes out negative is set to 0 and the rest solved again."""
        free = [0, 1, 2]
        solution = np.zeros(3)
        while free:
            part = np.linalg.lstsq(self._normal[np.ix_(free, free)], self._target[free], rcond=1e-12)[0]
            if (part >= 0).all():
                solution[free] = part
                break
            free = [index for index, value in zip(free, part, strict=True) if value > 0]
        if not np.isfinite(solution).all() or not solution.any():
            return None
        return Prices(*(float(value) for value in solution))
