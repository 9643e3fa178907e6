"""From the counters of replicas to windows of load: what was offered, how long the requests were, how they came.

Decides what counts as seen. Pure: readings carry the times at which the counters were read.

How
- Between two readings of one replica lie so many requests in so much time. At each look, the requests per second of the
  replicas that have something new, times the replicas that are ready, is the rate of the workload until then. Replicas
  that come, go or are silent for a while change nothing but how much of the window was seen.
- A counter that fell is a restarted process: that interval is left out, neither 0 nor a jump. So is an interval longer
  than `LONGEST_MS`: it tells of the time before. So is one between the counters of two: a worker counts
  what it refuses, and the series that Prometheus has of it do not. So is one in which one replica counted more than
  spec.load may say of the whole workload: that counter is not believed, and what was known stays.
- A look at which less than `SEEN_PERCENT` of the ready replicas have something new is left out, and a window of which
  less than that share was seen is no window. Missing is not zero.
- Burstiness is the index of dispersion of the counts of all replicas from look to look: its square root is the
  coefficient of variation of a renewal process over times longer than a look. How it thins out over replicas is
  `sizing.loads`' business.

Invariants: the order of the readings and of the replicas changes nothing; a reading that is not newer than the last of
its replica is ignored; no answer is made from fewer than two readings of a replica.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lowbeam.api.v1alpha1.base import MAX_TOKENS
from lowbeam.sizing.demand import Window
from lowbeam.sizing.requirements import MOST_MILLIRPS

LONGEST_MS = 60_000
"""Longest time between two readings of one replica that still says something about now."""
SEEN_PERCENT = 50
"""Share of the ready replicas, and of the window, that has to be seen."""
SURGE_PERCENT = 10
"""Share of a window after which a rise is believed before the window ends: a minute of ten."""
FEWEST_COMPLETED = 20
"""Completed requests from which a mean length is taken."""
FEWEST_LOOKS = 10
"""Looks from which burstiness is taken, with at least `FEWEST_PER_LOOK` requests in each on average."""
FEWEST_PER_LOOK = 2
"""With fewer, counts look like Poisson whatever the arrivals are."""
REFUSED_PERCENT = 1
"""A replica that refuses more of what arrives is saturated."""
FEWEST_REFUSED = 4
"""Refusals are what is missing between four counters that are not read at one instant: fewer may be none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of one replica since its start, as they were at `at_ms`. `None` = not known."""

    pod_uid: str
    at_ms: int
    received: int | None
    """Offered: accepted or refused."""
    completed: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    running: int | None = None
    waiting: int | None = None
    batch_limit: int | None = None
    counter: str = ""
    """Who counted."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What happened at one replica between two readings."""

    milliseconds: int
    requests: int
    completed: int
    input_tokens: int
    output_tokens: int
    saturated: bool | None
    """Whether more was offered than served; None where the replica does not tell."""


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """A window that is still being filled. Start with `OpenWindow(now_ms, now_ms)`."""

    began_ms: int
    looked_ms: int
    ready_ms: int = 0
    """Time of the ready replicas, added up."""
    seen_ms: int = 0
    """Time up to the looks that saw enough."""
    offered: float = 0.0
    """Requests in that time, at all ready replicas."""
    last: Mapping[str, Reading] = field(default_factory=dict)
    """The newest reading of each replica."""
    requests: int = 0
    """Requests that were counted."""
    counted_ms: int = 0
    """Time in which they were, added up over the replicas."""
    looks: int = 0
    """Looks that counted some time."""
    squares: float = 0.0
    """Of the requests of each look, over the replicas' time that it covers."""
    completed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    held: bool = False


def look(
    window: OpenWindow, readings: Iterable[Reading], *, ready: int, held: bool, now_ms: int
) -> tuple[OpenWindow, dict[str, Interval]]:
    """The window after one look at the ready replicas, and the interval of each that had something new to say.

    `readings`: the newest of each ready replica that is fresh. `ready`: how many are ready, with or without a reading.
    `held`: the workload has less than it needs. That matters as long as no replica tells whether it is saturated.
    """
    last, intervals = {}, {}
    for reading in readings:
        before = window.last.get(reading.pod_uid)
        # Who speaks for a silent replica for a moment may know its watts and not its counts.
        if before is not None and (reading.at_ms <= before.at_ms or reading.received is None):
            last[reading.pod_uid] = before
            continue
        last[reading.pod_uid] = reading
        interval = None if before is None else interval_between(before, reading)
        if interval is not None:
            intervals[reading.pod_uid] = interval
    # A replica that is silent for a moment goes on where it stopped; one that is silent for long begins anew.
    kept = {uid: it for uid, it in window.last.items() if uid not in last and now_ms - it.at_ms <= LONGEST_MS}
    found = intervals.values()
    requests, counted_ms = sum(it.requests for it in found), sum(it.milliseconds for it in found)
    passed_ms = max(0, now_ms - window.looked_ms)
    enough = bool(found) and len(found) * 100 >= ready * SEEN_PERCENT
    return (
        replace(
            window,
            looked_ms=now_ms,
            ready_ms=window.ready_ms + ready * passed_ms,
            seen_ms=window.seen_ms + passed_ms * enough,
            offered=window.offered + (requests * ready * passed_ms / counted_ms if enough else 0.0),
            last={**kept, **last},
            requests=window.requests + requests,
            counted_ms=window.counted_ms + counted_ms,
            looks=window.looks + bool(found),
            squares=window.squares + (requests**2 / counted_ms if counted_ms else 0.0),
            completed=window.completed + sum(it.completed for it in found),
            input_tokens=window.input_tokens + sum(it.input_tokens for it in found),
            output_tokens=window.output_tokens + sum(it.output_tokens for it in found),
            held=window.held or any(it.saturated or (held and it.saturated is None) for it in found),
        ),
        intervals,
    )


def interval_between(before: Reading, after: Reading) -> Interval | None:
    """What happened between two readings of one replica; None where they do not tell."""
    milliseconds = after.at_ms - before.at_ms
    if before.received is None or after.received is None or not 0 < milliseconds <= LONGEST_MS:
        return None
    if before.counter != after.counter:
        return None
    requests = after.received - before.received
    completed = _difference(before.completed, after.completed) or 0
    input_tokens = _difference(before.input_tokens, after.input_tokens) or 0
    output_tokens = _difference(before.output_tokens, after.output_tokens) or 0
    counted = Interval(milliseconds, requests, completed, input_tokens, output_tokens, _saturated(before, after))
    return counted if _believed(counted, still_inside=(after.running or 0) + (after.waiting or 0)) else None


def _believed(it: Interval, *, still_inside: int) -> bool:
    """Whether no counter fell, and none rose by more than spec.load may say. Of tokens, requests that have not ended
    may have had some already."""
    if min(it.requests, it.completed, it.input_tokens, it.output_tokens) < 0:
        return False
    most_requests = max(1.0, it.milliseconds * MOST_MILLIRPS / 1_000_000)
    most_tokens = (it.requests + it.completed + still_inside + 1) * MAX_TOKENS
    return max(it.requests, it.completed) <= most_requests and max(it.input_tokens, it.output_tokens) <= most_tokens


def surged(window: OpenWindow, window_ms: int) -> tuple[int, int] | None:
    """(requests, milliseconds of the whole workload) so far; None while that is too little to believe a rise."""
    if window.seen_ms * 100 < window_ms * SURGE_PERCENT or not _enough(window) or window.offered <= 0:
        return None
    # As many requests as were counted, in the time in which all ready replicas together would have got them.
    return window.requests, max(1, round(window.requests * window.seen_ms / window.offered))


def close(window: OpenWindow, window_ms: int) -> tuple[Window | None, OpenWindow]:
    """What the window says once it is over (None where too little was seen), and the next one."""
    following = OpenWindow(window.looked_ms, window.looked_ms, last=window.last)
    elapsed_ms = window.looked_ms - window.began_ms
    if elapsed_ms > 2 * window_ms or not _enough(window):  # whoever looked was away for longer than a window
        return None, following
    enough_answers = window.completed >= FEWEST_COMPLETED
    return (
        Window(
            ended_ms=window.looked_ms,
            millirps=math.ceil(round(window.offered * 1_000_000 / window.seen_ms, 3)),
            held=window.held,
            input_tokens=_mean(window.input_tokens, window.completed) if enough_answers else None,
            output_tokens=_mean(window.output_tokens, window.completed) if enough_answers else None,
            cv_percent=_cv_percent(window),
        ),
        following,
    )


def _enough(window: OpenWindow) -> bool:
    elapsed_ms = window.looked_ms - window.began_ms
    return window.seen_ms > 0 and window.seen_ms * 100 >= elapsed_ms * SEEN_PERCENT


def _cv_percent(window: OpenWindow) -> int | None:
    """From the index of dispersion of the counts of all looks, around the rate of the window."""
    if window.looks < FEWEST_LOOKS or window.requests < window.looks * FEWEST_PER_LOOK:
        return None
    excess = window.squares * window.counted_ms / window.requests - window.requests
    return round(100 * math.sqrt(max(0.0, excess) / (window.looks - 1)))


def _mean(tokens: int, requests: int) -> int | None:
    """None where the worker counts no tokens."""
    return round(tokens / requests) if tokens else None


def _saturated(before: Reading, after: Reading) -> bool | None:
    requests = _difference(before.received, after.received)
    completed = _difference(before.completed, after.completed)
    inside = [None if r.running is None or r.waiting is None else r.running + r.waiting for r in (before, after)]
    now_inside = _difference(*inside)
    if (
        requests is None
        or completed is None
        or now_inside is None
        or after.waiting is None
        or after.batch_limit is None
    ):
        return None
    if after.waiting >= after.batch_limit:
        return True
    refused = requests - completed - now_inside
    return refused >= FEWEST_REFUSED and refused * 100 > requests * REFUSED_PERCENT


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
