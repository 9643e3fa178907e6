"""Replays clients through the operator's own estimator and through simpler sizers: one estimate per window.

Decides what each sizer knows when: only windows before the one that it estimates. Never looks at days 8-14 to choose
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowbeam.sizing.demand import RULES, Rules, Window, first_state, learn
from lowbeam.sizing.requirements import Demand
from tools.traces.servegen import WINDOW_SECONDS, WINDOWS_PER_DAY, Client

TUNING_DAYS = 7
TUNING = range(WINDOWS_PER_DAY, TUNING_DAYS * WINDOWS_PER_DAY)
"""Days 2-7: the first day is there to learn."""
HELD_OUT = range(TUNING_DAYS * WINDOWS_PER_DAY, 14 * WINDOWS_PER_DAY)

Series = list[float | None]
"""One figure per window, thousandths of a request per second; None where nothing was recorded."""


@dataclass(frozen=True, slots=True)
class Sizer:
    """A way to guess the rate of the next window."""

    name: str
    estimates: Callable[[Sequence[float | None]], Series]


def rates(client: Client) -> Series:
    """Real rates, thousandths of a request per second."""
    return [None if it is None else it * 1000 / WINDOW_SECONDS for it in client.requests]


def lowbeam_estimates(real: Sequence[float | None], rules: Rules = RULES) -> Series:
    """What the operator would size for. The declared load is the mean of the first day: a fair first guess."""
    known = [rate for rate in real[:WINDOWS_PER_DAY] if rate is not None]
    declared = Demand(round(sum(known) / max(1, len(known))), input_tokens=1, output_tokens=1)
    state, estimates = first_state(declared), []
    for number, rate in enumerate(real):
        estimates.append(None if rate is None else float(state.demand.requests_per_second_milli))
        if rate is not None:  # a gap is no window, and the estimator is not told of one
            state = learn(state, Window(ended_ms=number * WINDOW_SECONDS * 1000, millirps=round(rate)), rules)
    return estimates


def trailing(windows: int, of: Callable[[Sequence[float]], float]) -> Callable[[Sequence[float | None]], Series]:
    """A figure of the last recorded windows."""

    def estimates(real: Sequence[float | None]) -> Series:
        known: list[float] = []
        found: Series = []
        for rate in real:
            found.append(None if rate is None else of(known[-windows:] or [0.0]))
            if rate is not None:
                known.append(rate)
        return found

    return estimates


def of_tuning_days(of: Callable[[Sequence[float]], float]) -> Callable[[Sequence[float | None]], Series]:
    """One figure of days 1-7 for ever, as somebody writes it into a manifest."""

    def estimates(real: Sequence[float | None]) -> Series:
        figure = of([rate for rate in real[: HELD_OUT.start] if rate is not None])
        return [None if rate is None else figure for rate in real]

    return estimates


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


SIZERS = (
    Sizer("Lowbeam", lowbeam_estimates),
    Sizer("mean of the last hour", trailing(6, mean)),
    Sizer("mean of days 1-7", of_tuning_days(mean)),
    Sizer("peak of the last hour", trailing(6, max)),
    Sizer("peak of the last 24 hours", trailing(WINDOWS_PER_DAY, max)),
    Sizer("peak of days 1-7", of_tuning_days(max)),
)
