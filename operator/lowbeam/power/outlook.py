"""The cap tree at one instant, and when it will be another one: where the clock meets the caps, for the runtime, the
simulation and the command line alike.

Decides the watts of every cap from its own timetable, and the next change of what is effective on its path. Never drops
a limit: an entry that is not understood, or never ends, is a problem of its cap, whose other watts stay in force.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from lowbeam.power.caps import Cap, CapProblem, CapTree
from lowbeam.power.schedule import Limit, Timetable, limit_at
from lowbeam.power.tree import build_cap_tree, limiting_paths, planned_milliwatts, usable_milliwatts

CAP_SCHEDULE_INVALID = "CapScheduleInvalid"
"""An entry of `spec.schedule` or `spec.events` means nothing, or is active all the time."""
MOST_CHARACTERS = 360
"""Of the entries that a complaint names, in each of its two lists: a condition holds both with the words around."""


@dataclass(frozen=True, slots=True)
class Change:
    """From `at` on a cap's effective watts are these, as `cap` sets them by `entry` (empty: its static watts)."""

    at: datetime
    watts: int
    cap: str
    entry: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """The caps as they are from `at` until before `holds_until` (None: for ever); mappings are by cap name."""

    at: datetime
    caps: CapTree
    limits: Mapping[str, Limit]
    """What each cap's own timetable says."""
    planned: Mapping[str, int]
    """Watts that plans keep to: the smallest on each cap's path, with cuts that are close."""
    next_changes: Mapping[str, Change]
    """Of the effective watts of each cap; none for a cap that no entry changes any more."""
    holds_until: datetime | None

    def holds_at(self, now: datetime) -> bool:
        """Whether `now` gives the same; not before `at` either, as a clock may be set back."""
        return self.at <= now and (self.holds_until is None or now < self.holds_until)


def outlook(caps: Collection[Cap], timetables: Mapping[str, Timetable], now: datetime) -> Outlook:
    """The caps at `now`. `timetables`: one for each cap, by its name."""
    limits = {cap.name: limit_at(timetables[cap.name], now) for cap in caps}
    tree = build_cap_tree([_limited(cap, limits[cap.name]) for cap in caps])
    complaints = {cap.name: _complaint(cap.name, timetables[cap.name], limits[cap.name]) for cap in tree.caps}
    problems = [CapProblem(name, CAP_SCHEDULE_INVALID, text) for name, text in complaints.items() if text]
    paths = limiting_paths(tree)
    changes = {name: change for name, path in paths.items() if (change := _next_change(path, timetables, now))}
    return Outlook(
        at=now,
        caps=replace(tree, problems=(*problems, *tree.problems)),
        limits=limits,
        planned={name: limits[min(path, key=planned_milliwatts).name].planned_watts for name, path in paths.items()},
        next_changes=changes,
        holds_until=min((it.holds_until for it in limits.values() if it.holds_until is not None), default=None),
    )


def _limited(cap: Cap, limit: Limit) -> Cap:
    return replace(cap, watts=limit.watts, planned_watts=limit.planned_watts, admitted_watts=limit.admitted_watts)


def _complaint(cap: str, timetable: Timetable, limit: Limit) -> str:
    """What is wrong with the entries of a cap; empty when nothing is."""
    sentences = []
    if timetable.troubles:
        sentences.append(
            f"{_named(timetable.troubles)}. Correct that; until then such an entry changes nothing, and "
            f"{timetable.watts} W and the other entries stay in force."
        )
    if limit.endless:
        one = len(limit.endless) == 1
        never = "never ends, as it begins again before it is over" if one else "never end: they begin again too soon"
        sentences.append(
            f"{_named(limit.endless)} {never}. {'It stays' if one else 'They stay'} in force. Shorten "
            f"{'its' if one else 'their'} durationMinutes, or lower spec.watts instead."
        )
    return f'PowerCap "{cap}": {" ".join(sentences)}' if sentences else ""


def _named(found: Sequence[str]) -> str:
    """As many as MOST_CHARACTERS hold, one at least, and how many more there are."""
    count = 1
    while count < len(found) and len("; ".join(found[: count + 1])) <= MOST_CHARACTERS:
        count += 1
    more = [f"and {len(found) - count} more"] if count < len(found) else []
    return "; ".join([*found[:count], *more])


def _next_change(path: Sequence[Cap], timetables: Mapping[str, Timetable], now: datetime) -> Change | None:
    """The next change of the effective watts of the first cap of `path`; the others are those above that limit it.

    What is effective ends with its own entry, or when an entry of the path begins that allows less: others are hidden.
    """
    usable, by, limit = _effective(path, timetables, now)
    ends = [it.until for it in limit.active if it.entry == limit.entry]
    begins = [timetables[cap.name].next_start(partial(_allows_less, cap, usable), now) for cap in path]
    at = min((it for it in (*ends, *begins) if it is not None), default=None)
    if at is None:
        return None
    _, by, limit = _effective(path, timetables, at)
    return Change(at, limit.watts, by, limit.entry)


def _allows_less(cap: Cap, milliwatts: int, watts: int) -> bool:
    return usable_milliwatts(replace(cap, watts=watts)) < milliwatts


def _effective(path: Sequence[Cap], timetables: Mapping[str, Timetable], at: datetime) -> tuple[int, str, Limit]:
    """(usable milliwatts, cap, its limit) of what is effective at an instant; the nearest cap on a tie."""
    limits = [(cap, limit_at(timetables[cap.name], at)) for cap in path]
    usable = [(usable_milliwatts(replace(cap, watts=limit.watts)), cap.name, limit) for cap, limit in limits]
    return min(usable, key=lambda it: it[0])
