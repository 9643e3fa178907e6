"""One point of a curve: warm-up, steady windows, and whether what they say is sure enough.

    start the load -> until its phases are mixed -> windows until the last `STEADY_WINDOWS` agree -> measured windows

A window begins and ends when the counter moves. It is as long as the rules say, and longer until enough requests have
ended in it that all windows together tell a 95th percentile. Windows agree when requests per second, and watts, lie
within twice the tolerance. The point counts when joules per request and requests per second have confidence intervals
within the tolerance, and as many requests ran together as the batch says; else it is left out, with the reason.

Joules are the whole device's, its idle draw included: that is what a replica costs.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from lowbeam_worker.calibration.device import CannotCalibrateError, Gauge
from lowbeam_worker.calibration.figures import STEADY_WINDOWS, Interval, interval, is_steady, quantile
from lowbeam_worker.calibration.load import Load, LoadFailedError, Seen, Times
from lowbeam_worker.calibration.options import Rules

REQUESTS_FOR_P95 = 20
MOST_WARM_UP_WINDOWS = 20
MOST_STRETCH = 20
"""A window that waits for requests to end is at most so many times as long as the rules say."""
MOST_COOLING_WINDOWS = 60
"""Five minutes with the usual windows: a board that was busy for an hour is warm for a while."""
MOST_IDLE_DRIFT = 0.1
"""Between the idle watts before and after, as a share of those before."""
LEAST_TOGETHER = 0.75
"""Share of its batch that must have run together on average; slots are empty for a step or two between answers."""
_LOOKS = 40
"""How often a window looks whether it is over and all is well."""


class LeftOutError(Exception):
    """This batch has no point; the message says why and what to do."""


class TooMuchError(LeftOutError):
    """The engine did not bear this batch, nor would it bear a larger one."""


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two moves of the counter."""

    seconds: float
    joules: float
    requests: float

    @property
    def watts(self) -> float:
        """Mean draw of the device."""
        return self.joules / self.seconds

    @property
    def requests_per_second(self) -> float:
        """Throughput."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Tail:
    """Percentiles in seconds; None where too few values tell."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, times: Times) -> Tail:
        """Of all that was seen."""
        values = times.counted()
        return cls(quantile(values, 500), quantile(values, 950), quantile(values, 990))


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one batch."""

    batch: int
    together: float
    """Requests that ran together on average."""
    watts: Interval
    requests_per_second: Interval
    joules_per_request: Interval
    latency: Tail
    first_token: Tail
    """Empty for models that write no text, as the next."""
    between_tokens: Tail
    requests: int
    """How many ended while it was measured."""
    seconds: float


async def measure(batch: int, load: Load, gauge: Gauge, rules: Rules) -> Point:
    """One point; raises LeftOutError, or CannotCalibrateError when nothing measured here can be believed."""
    load.start(batch)
    try:
        while not load.settled:
            load.check()
            await asyncio.sleep(rules.window_seconds / _LOOKS)
        await _warm_up(load, gauge, rules)
        point = await _point(batch, load, gauge, rules)
    except LoadFailedError as error:
        raise TooMuchError(f"the engine did not bear it: {error}") from error
    finally:
        load.watch(None)
        await load.stop()
    return point


async def idle_watts(gauge: Gauge, rules: Rules, before: float | None = None) -> float:
    """Mean draw of the loaded device without work, once it stands still.

    After work it must come back to what it drew `before`, within `MOST_IDLE_DRIFT`: a board that is still warm draws a
    little more, a stranger much more.
    """
    watts: list[float] = []
    for _ in range(MOST_WARM_UP_WINDOWS if before is None else MOST_COOLING_WINDOWS):
        watts.append((await _window(None, gauge, rules.window_seconds / 2, 0)).watts)
        if is_steady(watts, 2 * rules.tolerance):
            mean = math.fsum(watts[-STEADY_WINDOWS:]) / STEADY_WINDOWS
            if before is None or abs(mean - before) <= MOST_IDLE_DRIFT * before:
                return mean
    drew = f"without any work the device draws between {min(watts):.1f} and {max(watts):.1f} W"
    if before is None:
        raise CannotCalibrateError(
            f"{drew}: something else uses it, or it is still cooling down; wait, or measure on another device"
        )
    raise CannotCalibrateError(
        f"{drew} by now, and drew {before:.1f} W before it was measured: something else began or ended meanwhile; "
        "measure again when nothing else runs there"
    )


async def _warm_up(load: Load, gauge: Gauge, rules: Rules) -> None:
    windows: list[Window] = []
    for _ in range(MOST_WARM_UP_WINDOWS):
        windows.append(await _window(load, gauge, rules.window_seconds / 2, 1))
        if all(
            is_steady(figures, 2 * rules.tolerance)
            for figures in ([it.requests_per_second for it in windows], [it.watts for it in windows])
        ):
            return
    raise LeftOutError(
        f"it did not come to rest within {sum(it.seconds for it in windows):.0f} s; "
        "use longer windows (--window-seconds), or a quieter device"
    )


async def _point(batch: int, load: Load, gauge: Gauge, rules: Rules) -> Point:
    seen, steps_before = Seen(), load.together()
    least = math.ceil(REQUESTS_FOR_P95 / rules.windows)
    load.watch(seen)
    windows = [await _window(load, gauge, rules.window_seconds, least) for _ in range(rules.windows)]
    load.watch(None)
    busy_s, member_s = (now - before for now, before in zip(load.together(), steps_before, strict=True))
    point = Point(
        batch=batch,
        together=member_s / busy_s if busy_s else 0.0,
        watts=interval([it.watts for it in windows]),
        requests_per_second=interval([it.requests_per_second for it in windows]),
        joules_per_request=interval([it.joules / it.requests for it in windows]),
        latency=Tail.of(seen.latency),
        first_token=Tail.of(seen.first_token),
        between_tokens=Tail.of(seen.between_tokens),
        requests=seen.latency.total,
        seconds=math.fsum(it.seconds for it in windows),
    )
    _check_sure(point, rules)
    return point


def _check_sure(point: Point, rules: Rules) -> None:
    if point.together < LEAST_TOGETHER * point.batch:
        raise LeftOutError(f"only {point.together:.1f} ran together on average: the engine cannot keep so many")
    for what, figure in (("J per request", point.joules_per_request), ("requests/s", point.requests_per_second)):
        if figure.share > rules.tolerance:
            raise LeftOutError(
                f"{figure.mean:.4g} {what} is sure to {figure.share:.1%} only, {rules.tolerance:.1%} are asked for; "
                "use longer or more windows (--window-seconds, --windows), or a quieter device"
            )
    if point.latency.p95 is None:
        raise LeftOutError(f"only {point.requests} requests ended, too few for a 95th percentile; use longer windows")


async def _window(load: Load | None, gauge: Gauge, least_seconds: float, least_finished: int) -> Window:
    begin = await gauge.border()
    requests, finished = (load.requests(), load.finished()) if load else (0.0, 0)
    waited = 0.0
    while True:
        await asyncio.sleep(least_seconds / _LOOKS)
        waited += least_seconds / _LOOKS
        if load is not None:
            load.check()
        if waited < least_seconds:
            continue
        if load is None or load.finished() - finished >= least_finished:
            break
        if waited > MOST_STRETCH * least_seconds:
            raise LeftOutError(
                f"{load.finished() - finished} requests ended within {waited:.0f} s, {least_finished} are needed; "
                "use longer windows (--window-seconds), or shorter answers (--output-tokens)"
            )
    end = await gauge.border()
    gauge.check_alone()
    done = (load.requests() if load else 0.0) - requests
    if load is not None and done <= 0:
        raise LeftOutError("nothing was done in a window; use longer windows (--window-seconds)")
    return Window(end.at_s - begin.at_s, (end.counter_mj - begin.counter_mj) / 1000, done)
