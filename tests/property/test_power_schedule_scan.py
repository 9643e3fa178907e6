"""Windows and watts against a scan of every minute, which knows nothing of how they are worked out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lowbeam.power.outlook import Outlook, outlook
from lowbeam.power.recurrence import Once, Recurring, Window, recurring
from lowbeam.power.schedule import Entry, Timetable, limit_at
from tests.builders import cap

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)

CHANGES_OF_CLOCKS = {
    "Europe/Rome": (datetime(2026, 3, 29), datetime(2026, 10, 25)),
    "America/New_York": (datetime(2026, 3, 8), datetime(2026, 11, 1)),
    "Australia/Lord_Howe": (datetime(2026, 4, 4), datetime(2026, 10, 3)),
    "Africa/Cairo": (datetime(2026, 4, 23), datetime(2026, 10, 29)),
    "Pacific/Chatham": (datetime(2026, 4, 4), datetime(2026, 9, 26)),
    "America/St_Johns": (datetime(2026, 3, 8), datetime(2026, 11, 1)),
    "Antarctica/Troll": (datetime(2026, 3, 29), datetime(2026, 10, 25)),
    "Asia/Tokyo": (datetime(2026, 6, 1),),
    "UTC": (datetime(2026, 2, 27),),
}


@st.composite
def recurrences(draw: st.DrawFn) -> tuple[Recurring, datetime, Callable[[date], bool], frozenset[int] | None]:
    """Windows near a change of the clocks: with the day that it is near, the days and hours that are meant."""
    zone = draw(st.sampled_from(sorted(CHANGES_OF_CLOCKS)))
    near = draw(st.sampled_from(CHANGES_OF_CLOCKS[zone])).replace(tzinfo=UTC)
    minute = draw(st.sampled_from((0, 15, 30, 59)))
    hours = draw(st.none() | st.frozensets(st.integers(0, 5) | st.integers(0, 23), min_size=1, max_size=3))
    weekdays = draw(st.none() | st.frozensets(st.integers(0, 6), min_size=1, max_size=6))
    minutes = draw(st.sampled_from((1, 20, 59, 60, 61, 120, 180, 480, 1439, 1440, 3000)))
    text = [str(minute), _listed(hours), "*", "*", _listed(weekdays)]

    def is_day(day: date) -> bool:
        return weekdays is None or day.isoweekday() % 7 in weekdays

    return recurring(" ".join(text), zone, minutes), near, is_day, hours


def _listed(numbers: frozenset[int] | None) -> str:
    return "*" if numbers is None else ",".join(map(str, sorted(numbers)))


def starts(
    when: Recurring, near: datetime, is_day: Callable[[date], bool], hours: frozenset[int] | None
) -> set[datetime]:
    """Every start within some days, found minute by minute."""
    minute, first, last = int(when.cron.split()[0]), near - 5 * DAY, near + 5 * DAY
    if hours is None:  # every hour that passes
        every = (first + n * MINUTE for n in range(int((last - first) / MINUTE)))
        local = ((at, at.astimezone(when.zone)) for at in every)
        return {at for at, here in local if here.minute == minute and is_day(here.date())}
    found = set()
    for days in range((last - first).days):
        day = (first + days * DAY).date()
        for hour in hours if is_day(day) else ():
            wall = datetime(day.year, day.month, day.day, hour, minute)
            while wall.replace(tzinfo=when.zone).astimezone(UTC).astimezone(when.zone).replace(tzinfo=None) != wall:
                wall += MINUTE  # the clocks skip it
            found.add(wall.replace(tzinfo=when.zone).astimezone(UTC))
    return found


@settings(max_examples=40, deadline=None)
@given(recurrences())
def test_windows_are_what_a_scan_of_every_minute_finds(
    case: tuple[Recurring, datetime, Callable[[date], bool], frozenset[int] | None],
) -> None:
    when, near, _, hours = case
    # Within the half hour that comes twice there an hourly start is only found once (cronsim 2.8).
    assume(hours is not None or when.zone.key != "Australia/Lord_Howe")
    found = starts(*case)
    minutes = [near - DAY + n * MINUTE for n in range(3 * 24 * 60)]
    covered = {start + n * MINUTE for start in found for n in range(when.minutes)}
    expected = [at in covered for at in minutes]

    def told(windows: list[Window]) -> list[bool]:
        active, index = [], 0
        for at in minutes:
            while index < len(windows) and windows[index].end is not None and windows[index].end <= at:  # type: ignore[operator]
                index += 1
            active.append(index < len(windows) and windows[index].start <= at)
        return active

    assert told(list(takewhile(lambda it: it.start <= minutes[-1], when.windows(minutes[0])))) == expected
    for at, active in list(zip(minutes, expected, strict=True))[
        :: 24 * 60 // 7
    ]:  # whatever the minute that one asks at
        window = next(when.windows(at), None)
        assert (window is not None and window.start <= at) == active


NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@st.composite
def timetables(draw: st.DrawFn) -> Timetable:
    entries = []
    for index in range(draw(st.integers(0, 4))):
        watts, ramp = draw(st.integers(500, 1100)), draw(st.sampled_from((0, 60, 200, 600, 1500)))
        if draw(st.booleans()):
            start = NOON + draw(st.integers(-90, 240)) * MINUTE
            when: Once | Recurring = Once(Window(start, start + draw(st.integers(1, 120)) * MINUTE))
        else:
            cron = f"{draw(st.sampled_from((0, 10, 45)))} {draw(st.sampled_from(('*', '12-14', '13')))} * * *"
            when = recurring(
                cron, draw(st.sampled_from(("UTC", "Asia/Kolkata"))), draw(st.sampled_from((7, 30, 55, 90)))
            )
        entries.append(Entry(f"event/{index}", watts, ramp, when))
    return Timetable(1000, tuple(entries), draw(st.sampled_from((0, 25, 60, 195))))


def is_active(entry: Entry, at: datetime) -> bool:
    window = next(iter(entry.when.windows(at)), None)
    return window is not None and window.start <= at


@settings(max_examples=40, deadline=None)
@given(timetables())
def test_watts_are_the_smallest_of_all_that_is_active_at_every_minute(timetable: Timetable) -> None:
    for minute in range(0, 240, 3):
        at = NOON + minute * MINUTE
        active = {it.label: it.watts for it in timetable.entries if is_active(it, at)}
        limit = limit_at(timetable, at)
        assert limit.watts == min([timetable.watts, *active.values()])
        assert {it.entry: it.watts for it in limit.active} == active
        assert not limit.entry or active[limit.entry] == limit.watts


@settings(max_examples=40, deadline=None)
@given(timetables(), st.integers(0, 240 * 60))
def test_plans_never_allow_more_than_is_in_force_from_now_until_the_lead_is_over(
    timetable: Timetable, second: int
) -> None:
    now = NOON + timedelta(seconds=second)
    limit = limit_at(timetable, now)
    assert limit.planned_watts <= limit.admitted_watts <= limit.watts <= timetable.watts
    within = [now + timedelta(seconds=n) for n in range(0, timetable.lead_seconds + 1, 5)]
    waiting = [it for it in timetable.entries if not is_active(it, now)]
    coming = [it.watts for it in waiting if any(is_active(it, at) for at in within)]
    assert all(limit.planned_watts <= watts for watts in coming)


@settings(max_examples=40, deadline=None)
@given(timetables(), timetables(), st.integers(0, 120))
def test_nothing_changes_before_the_time_that_is_told_for_it(above: Timetable, below: Timetable, minute: int) -> None:
    caps, both = (cap("above", 1000), cap("below", 900, parent="above")), {"above": above, "below": below}
    both = {"above": above, "below": replace(below, watts=900)}
    now = NOON + minute * MINUTE
    first = outlook(caps, both, now)
    horizon = min(first.holds_until or now + 60 * MINUTE, now + 60 * MINUTE)
    seconds = int((horizon - now).total_seconds())
    for second in {seconds // 3, seconds // 2, seconds - 1}:
        then = outlook(caps, both, now + timedelta(seconds=second))
        assert (then.caps, then.planned, then.limits, then.next_changes) == (
            first.caps,
            first.planned,
            first.limits,
            first.next_changes,
        )
    for name in ("above", "below"):
        change = first.next_changes.get(name)
        for minutes in range(0, 120, 5):
            at = now + minutes * MINUTE
            if change is not None and at >= change.at:
                break
            assert effective(outlook(caps, both, at), name)[1] == effective(first, name)[1]
        if change is not None:
            assert effective(outlook(caps, both, change.at), name) == (change.cap, change.watts, change.entry)


def effective(found: Outlook, name: str) -> tuple[str, int, str]:
    by = dict(zip([it.name for it in found.caps.caps], found.caps.limited_by, strict=True))[name]
    return by, found.limits[by].watts, found.limits[by].entry
