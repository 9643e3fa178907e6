"""When an entry of a schedule is active: cron and time zone as windows of UTC time.

Decides when windows begin and end. Starts follow Debian's cron (`cronsim`): of a local time that a change of the clocks
skips, the window begins when the gap ends; of one that comes twice, at the first. A window then lasts for so many
minutes that pass, whatever wall clocks do meanwhile. Windows of one entry that touch or overlap are one.

Reads no clock; which instant is meant comes in. Zones are those of the machine's time zone data, else of `tzdata`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from lowbeam.api.nearest import nearest

LONGEST_SHIFT = timedelta(hours=3)
"""More than any change of the clocks: a search on the wall clock that begins so much later misses no earlier start."""
LONGEST_WINDOW = timedelta(days=366)
"""A window that goes on for longer, start after start, has no end: cron repeats with the year."""


class NotUnderstood(ValueError):
    """A cron expression or a time zone that means nothing, or both.

    `problems`: of each its field, what is wrong and what to write.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` until before `end`; `end` None: it goes on for more than a year."""

    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Once:
    """One window."""

    window: Window

    def windows(self, now: datetime) -> Iterator[Window]:
        """The window, unless it is over at `now`."""
        if self.window.end is None or self.window.end > now:
            yield self.window


@dataclass(frozen=True, slots=True)
class Recurring:
    """Windows of one length; build with `recurring`."""

    cron: str
    zone: ZoneInfo
    minutes: int

    def windows(self, now: datetime) -> Iterator[Window]:
        """The window that `now` is in, if any, and those after it; endless for most expressions."""
        start = self._last_start(now)
        if start is None or start + self._length <= now:
            start = next(self.starts(now), None)
        while start is not None:
            end = _end(self, start)
            yield Window(start, end)
            start = None if end is None else next(self.starts(end), None)

    @property
    def _length(self) -> timedelta:
        return timedelta(minutes=self.minutes)

    def starts(self, after: datetime) -> Iterator[datetime]:
        """Every start later than `after`; ends where there is none in fifty years."""
        # On the wall clock: within an hour that comes twice cronsim may answer with its first pass, which is over.
        local = after.astimezone(self.zone)
        return (it for it in map(_in_utc, CronSim(self.cron, local)) if it > after)

    def _last_start(self, until: datetime) -> datetime | None:
        """The last start that is not later than `until`."""
        local = (until + LONGEST_SHIFT).astimezone(self.zone)
        starts = map(_in_utc, CronSim(self.cron, local, reverse=True))
        earliest = until - self._length - LONGEST_SHIFT
        return next((it for it in takewhile(lambda it: it > earliest, starts) if it <= until), None)


def recurring(cron: str, time_zone: str, minutes: int) -> Recurring:
    """The windows of a schedule entry. NotUnderstood: the expression or the zone means nothing."""
    zone, problems = _zone(time_zone), []
    try:
        CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        problems.append(f'cron: "{cron}" is no cron expression ({str(error).lower()})')
    if zone is None:
        near = nearest(time_zone, available_timezones())
        hint = f"did you mean {near[0]}?" if near else "use a name like Europe/Rome or UTC"
        problems.append(f'timeZone: "{time_zone}" is no time zone ({hint})')
    if zone is None or problems:
        raise NotUnderstood(problems)
    return Recurring(cron, zone, minutes)


@lru_cache(maxsize=1024)
def _end(when: Recurring, start: datetime) -> datetime | None:
    """When the window ends that begins or goes on at `start`: each start before its end prolongs it."""
    length = timedelta(minutes=when.minutes)
    end = start + length
    for again in when.starts(start):
        if again > end:
            return end
        end = again + length
        if end - start > LONGEST_WINDOW:
            return None
    return end


def _zone(name: str) -> ZoneInfo | None:
    """None: there is none of this name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
