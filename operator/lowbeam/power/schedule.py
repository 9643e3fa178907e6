"""What a cap allows at one instant: its static watts, or less while entries of its schedule or its events are active.

Decides which entry sets the watts, until when, and from when on plans have to keep to a cut that is still to come, so
that no second of it begins above the cap. Never who is dimmed.

    in force   the smallest of the static watts and all active entries: what the guard keeps, what a status tells
    planned    the same, and a coming entry counts already as long before it begins as the slowest move takes to settle
               and a plan to be made; with `rampSeconds` in steps before that. Plans and restores keep to it.
    admitted   on the way to the plan: what is in force, as long as the slowest move still settles before the entry
               begins; what is planned from then on

Invariants: overlaps take the smallest, never the latest; an entry never allows more than the static watts; one that is
not understood takes nothing away from the others; planned is never above admitted, and that never above in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from lowbeam.power.recurrence import Once, Recurring, Window

PLANNING_SECONDS = 15
"""Between the moment for a plan and its last move under way, in a large fleet; and until the guard's means, which span
10 seconds, hold nothing of before."""
RAMP_STEP_SECONDS = 60
"""A ramp comes down in steps of a minute: each may be a plan of its own."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry that is understood."""

    label: str
    """`schedule/NAME` or `event/NAME`."""
    watts: int
    ramp_seconds: int
    when: Once | Recurring


@dataclass(frozen=True, slots=True)
class Timetable:
    """All that the watts of one cap depend on besides the instant."""

    watts: int
    """Static."""
    entries: tuple[Entry, ...] = ()
    settle_seconds: int = 0
    """Of the slowest move that the cap allows (`planning.moves.settle_seconds`)."""
    troubles: tuple[str, ...] = ()
    """Of the entries that are not understood, and therefore not in `entries`: each field and what is wrong with it."""

    @property
    def lead_seconds(self) -> int:
        """How long before an entry begins its watts are planned with."""
        return self.settle_seconds + PLANNING_SECONDS

    def next_start(self, of: Callable[[int], bool], now: datetime) -> datetime | None:
        """When the next entry begins whose watts are `of` interest; None when none does."""
        windows = (it.when.windows(now) for it in self.entries if of(it.watts))
        starts = (next((it.start for it in islice(of_one, 2) if it.start > now), None) for of_one in windows)
        return min((it for it in starts if it is not None), default=None)

    def never_counting(self) -> tuple[str, ...]:
        """Entries that are not below the static watts."""
        return tuple(entry.label for entry in self.entries if entry.watts >= self.watts)


@dataclass(frozen=True, slots=True)
class Active:
    """One entry that is active."""

    entry: str
    watts: int
    until: datetime | None
    """None: for more than a year."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What one cap's own timetable says at one instant; `entry` empty: its static watts count."""

    watts: int
    entry: str
    planned_watts: int
    """At most `watts`; what plans and restores keep to."""
    planned_entry: str
    admitted_watts: int
    """At least `planned_watts`, at most `watts`: what moves on the way to the plan keep to."""
    planned_for: datetime | None
    """When the entry begins that `planned_watts` are below `watts` for; None when they are not."""
    active: tuple[Active, ...]
    holds_until: datetime | None
    """The first instant at which any of these is another one; None: never."""
    endless: tuple[str, ...] = ()
    """Entries whose windows follow each other without a gap."""


def limit_at(timetable: Timetable, now: datetime) -> Limit:
    """The answer for one cap on its own."""
    levels, planned, bounds = [(timetable.watts, "")], [(timetable.watts, "", now)], set[datetime]()
    active, endless, admitted = [], [], timetable.watts
    settles = timedelta(seconds=timetable.settle_seconds)
    for entry in timetable.entries:
        for window in islice(entry.when.windows(now), 2):  # the one that `now` is in, and the next
            if window.end is None:
                endless.append(entry.label)
            if window.start <= now:
                active.append(Active(entry.label, entry.watts, window.end))
                levels.append((entry.watts, entry.label))
                if window.end is not None:
                    bounds.add(window.end)
                continue
            bounds.add(window.start)
            if window.start - now <= settles:
                admitted = min(admitted, entry.watts)
            else:
                bounds.add(window.start - settles)
            for at, watts in _steps_down(timetable, entry, window):
                if at <= now:
                    planned.append((watts, entry.label, window.start))
                else:
                    bounds.add(at)
    watts, name = min(levels)
    ahead, ahead_name, begins = min(planned)
    is_ahead = ahead < watts
    return Limit(
        watts=watts,
        entry=name,
        planned_watts=ahead if is_ahead else watts,
        planned_entry=ahead_name if is_ahead else name,
        admitted_watts=min(admitted, watts),
        planned_for=begins if is_ahead else None,
        active=tuple(sorted(active, key=lambda it: it.entry)),
        holds_until=min(bounds, default=None),
        endless=tuple(dict.fromkeys(endless)),
    )


def _steps_down(timetable: Timetable, entry: Entry, window: Window) -> Iterator[tuple[datetime, int]]:
    """When plans begin to keep to a coming window, and with how many watts: the last step has all of the cut."""
    lead, cut = timetable.lead_seconds, timetable.watts - entry.watts
    if cut <= 0:
        return
    span = max(0, entry.ramp_seconds - lead)
    steps = span // RAMP_STEP_SECONDS
    begin = window.start - timedelta(seconds=span + lead)
    for step in range(steps + 1):
        seconds = span * step // steps if steps else span
        yield begin + timedelta(seconds=seconds), timetable.watts - cut * (step + 1) // (steps + 1)
