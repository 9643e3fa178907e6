"""How much load to size for: the owner's first guess, then an upper quantile of what telemetry saw.

Decides, from one `Window` of observed load after the other, the `Demand` that sizing gets. Pure: windows carry their
own times, and the caller says when it is.

How, and why
- The rate to expect in the next window is the highest of the last few windows times a margin, and the margin is the
  workload's own: an upper quantile of how far a window exceeded the peak before it, over the last `MARGINS` windows,
  never below 1 and bounded above. A steady service earns a small margin, a moody one a large one.
  `python -m tools.backtest` chose the `Rules` on days 1-7 of the ServeGen traces and prints days 8-14.
- A figure moves in steps of `STEP_PERCENT`: up at once, down only when it is two steps too high, once per window.
  The plan is made anew for a change of load, not for noise.
- The declared load is the floor of a cold start. It fades out over the first `ENOUGH` windows: one quiet quarter of an
  hour after a deployment proves little. An edit of spec.load starts that anew: the owner knows something.
- A window in which the workload was saturated may raise the figure, never lower it: users who are turned away do not
  come back every second to be counted. The same where it was dimmed or short of replicas and nobody could tell.

Invariants: nothing is concluded from a missing window, whatever its length; the rate is never below the floor while a
start is cold, nor above the largest margin and a step times the highest rate seen; burstiness is never below Poisson;
no figure is above what spec.load may say, whatever was seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lowbeam.api.v1alpha1.base import MAX_TOKENS
from lowbeam.api.v1alpha1.provenance import LoadBasis
from lowbeam.sizing.requirements import MOST_MILLIRPS, Demand


@dataclass(frozen=True, slots=True)
class Rules:
    """What the backtest chooses."""

    recent: int = 6
    """Windows whose highest rate is the level."""
    quantile_percent: int = 95
    """Of the ratios of a window to the level before it."""
    largest_margin: float = 1.5
    """A burst beyond this is met by the open window, a minute after it begins, and not by idle replicas all day."""


RULES = Rules()
MARGINS = 72
"""Windows from which the margin is learned: half a day of windows of 10 minutes."""
FIRST_MARGIN = 1.2
"""Until `LEARNED` ratios are known, but not above the first guess where that is higher: owners declare peaks."""
LEARNED = 12
ENOUGH = 6
"""Windows until the declared load counts no longer."""
STEP_PERCENT = 10
"""Steps of the figures: each is so much above the one before."""
STEPS_DOWN = 2
"""So many steps must a figure be too high before it comes down."""
SURGE_PERCENT = 5
"""So far above what is in use must a rise within a window be for certain: half a step."""
SMOOTHING = 0.3
"""Weight of the newest window in the means of tokens and burstiness."""
MISSED_WINDOWS = 3
"""So many windows without data are a gap that the status names."""
SMOOTHEST_CV_PERCENT = 100
"""Poisson. Smoother arrivals are not believed: a queue that was planned for them has no slack."""
LARGEST_CV_PERCENT = 1000

_PERMILLE = 1000
_STEP = 1 + STEP_PERCENT / 100


@dataclass(frozen=True, slots=True)
class Window:
    """The load of one workload over one window that enough telemetry covers. `None` = not known."""

    ended_ms: int
    millirps: int
    """Offered: accepted or refused, thousandths of a request per second."""
    held: bool = False
    """More may have been offered than was seen: it was saturated, or had less than it needs and cannot tell."""
    input_tokens: int | None = None
    """Mean of a request."""
    output_tokens: int | None = None
    cv_percent: int | None = None
    """Coefficient of variation of the time between requests of the whole workload."""


@dataclass(frozen=True, slots=True)
class LoadState:
    """What is known about the load of one workload. Make it with `first_state`."""

    declared: Demand
    guess: Demand
    """The floor of a cold start: the declared load, or what an earlier leader had observed."""
    demand: Demand
    """The figures in use."""
    recent: tuple[int, ...] = ()
    """Rates of the last `Rules.recent` windows, thousandths of a request per second, oldest first."""
    margins: tuple[int, ...] = ()
    """Ratios of the last `MARGINS` windows to the level before each, in permille."""
    seen: int = 0
    """Windows since the guess was made, up to `ENOUGH`."""
    input_tokens: float | None = None
    output_tokens: float | None = None
    cv_percent: float | None = None
    updated_ms: int | None = None
    """When the newest window ended; None before the first one of this process."""

    @property
    def observed(self) -> bool:
        """Whether the figures in use come from observation."""
        return self.demand.basis == LoadBasis.OBSERVED


def first_state(declared: Demand, recovered: Demand | None = None) -> LoadState:
    """The beginning: `recovered` is what the status says that an earlier leader observed."""
    guess = recovered or declared
    return LoadState(declared=declared, guess=guess, demand=guess)


def redeclare(state: LoadState, declared: Demand, rules: Rules = RULES) -> LoadState:
    """The owner edited spec.load: a new first guess, beside what was observed since."""
    if declared == state.declared:
        return state
    if not state.recent:
        return first_state(declared)
    fresh = replace(state, declared=declared, guess=declared, seen=0)
    return _in_use(fresh, _expected_millirps(fresh, rules), may_fall=True)


def learn(state: LoadState, window: Window, rules: Rules = RULES) -> LoadState:
    """The state after one more window."""
    state = replace(
        state,
        input_tokens=_smoothed(state.input_tokens, window.input_tokens),
        output_tokens=_smoothed(state.output_tokens, window.output_tokens),
        cv_percent=_smoothed(state.cv_percent, window.cv_percent),
        updated_ms=window.ended_ms,
    )
    level = max(state.recent, default=None)
    if window.held and window.millirps <= (level or 0):
        return state
    margins = state.margins
    if level is not None and (level or window.millirps):
        most = round(rules.largest_margin * _PERMILLE)
        ratio = min(most, window.millirps * _PERMILLE // level) if level else most
        margins = (*margins, ratio)[-MARGINS:]
    state = replace(
        state,
        recent=(*state.recent, window.millirps)[-rules.recent :],
        margins=margins,
        seen=min(state.seen + 1, ENOUGH),
    )
    return _in_use(state, _expected_millirps(state, rules), may_fall=not window.held)


def surge(state: LoadState, requests: int, milliseconds: int) -> LoadState:
    """The state when the window that is still open has seen so many requests: upwards only, and only beyond chance.

    Chance: two standard deviations of a Poisson count. The caller has seen to it that `milliseconds` are a fair share
    of a window.
    """
    certain = requests - 2 * math.sqrt(requests)
    least = state.demand.requests_per_second_milli * (1 + SURGE_PERCENT / 100)
    if milliseconds <= 0 or certain * 1_000_000 / milliseconds <= least:
        return state
    return _in_use(state, math.ceil(requests * 1_000_000 / milliseconds), may_fall=False)


def in_gap(state: LoadState, now_ms: int, window_ms: int) -> bool:
    """Whether the newest window is older than windows come."""
    return state.updated_ms is not None and now_ms - state.updated_ms > MISSED_WINDOWS * window_ms


def margin(margins: tuple[int, ...], rules: Rules = RULES) -> float:
    """By how much the next window may exceed the level: a workload's own upper quantile, within bounds."""
    if len(margins) < LEARNED:
        return FIRST_MARGIN
    ranked = sorted(margins)
    place = -(-rules.quantile_percent * len(ranked) // 100) - 1
    return min(rules.largest_margin, max(1.0, ranked[place] / _PERMILLE))


def bounded(demand: Demand) -> Demand:
    """No more than spec.load may say: sizing counts in 64 bits, and one workload's figure must not stop the others."""
    return replace(
        demand,
        requests_per_second_milli=min(demand.requests_per_second_milli, MOST_MILLIRPS),
        input_tokens=min(demand.input_tokens, MAX_TOKENS),
        output_tokens=min(demand.output_tokens, MAX_TOKENS),
    )


def stepped(value: float, current: int, *, may_fall: bool = True) -> int:
    """`value` on the ladder of steps, or `current` while that is high enough and not `STEPS_DOWN` steps too high."""
    falls = value * _STEP**STEPS_DOWN < current
    if value <= current and not (falls and may_fall):
        return current
    if value <= 1:
        return math.ceil(value)
    return math.ceil(_STEP ** math.ceil(round(math.log(value) / math.log(_STEP), 9)))


def _expected_millirps(state: LoadState, rules: Rules) -> float:
    level, guess = max(state.recent, default=0), state.guess.requests_per_second_milli
    expected = level * margin(state.margins, rules)
    return min(expected, guess) if len(state.margins) < LEARNED and level <= guess else expected


def _in_use(state: LoadState, expected: float, *, may_fall: bool) -> LoadState:
    """The state with the demand that follows from an expected rate and from the means."""
    guess, current = state.guess, state.demand
    floor = guess.requests_per_second_milli * (ENOUGH - state.seen) / ENOUGH
    if expected < floor:
        rate = stepped(floor, current.requests_per_second_milli, may_fall=may_fall)
        whole = guess.requests_per_second_milli
        return replace(state, demand=bounded(replace(guess, requests_per_second_milli=rate if state.seen else whole)))
    output_tokens = current.output_tokens
    if state.declared.output_tokens > 1:  # else the task generates no text, whatever its workers count
        output_tokens = _mean_in_use(state.output_tokens, output_tokens)
    cv = SMOOTHEST_CV_PERCENT if state.cv_percent is None else max(SMOOTHEST_CV_PERCENT, state.cv_percent)
    observed = Demand(
        requests_per_second_milli=stepped(expected, current.requests_per_second_milli, may_fall=may_fall),
        input_tokens=_mean_in_use(state.input_tokens, current.input_tokens),
        output_tokens=output_tokens,
        basis=LoadBasis.OBSERVED.value,
        arrival_cv_percent=min(LARGEST_CV_PERCENT, stepped(cv, current.arrival_cv_percent)),
    )
    return replace(state, demand=bounded(observed))


def _mean_in_use(mean: float | None, current: int) -> int:
    """A mean length moves only when it is a step away, to the nearest of the ladder: unlike a rate, half of them down.

    On one ladder, so that workloads of one kind share their lengths: what they have in common is sized once.
    """
    if mean is None or abs(math.log(max(mean, 1.0) / current)) <= math.log(_STEP):
        return current
    return max(1, round(_STEP ** round(math.log(max(mean, 1.0)) / math.log(_STEP))))


def _smoothed(mean: float | None, newest: int | None) -> float | None:
    if newest is None or mean is None:
        return mean if newest is None else float(newest)
    return mean + SMOOTHING * (newest - mean)
