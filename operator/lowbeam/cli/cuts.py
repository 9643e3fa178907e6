"""What schedules and events of caps say about a plan: which entry counts, and what comes next."""

from __future__ import annotations

import textwrap
from typing import Any

from lowbeam.planning.words import watts
from lowbeam.power.outlook import Change
from lowbeam.power.schedule import Limit
from lowbeam.runtime.clock import timestamp
from lowbeam.runtime.world import World

WIDTH = 80


def cut_lines(world: World) -> tuple[str, ...]:
    """A sentence for each cap that has a schedule or events; nothing for the others."""
    lines: list[str] = []
    for name, limit in _scheduled(world):
        lines += textwrap.wrap(_sentence(name, limit, world.outlook.next_changes.get(name)), WIDTH)
    if lines:
        lines.insert(0, f"at {timestamp(world.outlook.at)}:")
    return tuple(lines)


def cuts_data(world: World) -> list[dict[str, Any]]:
    """The same as data."""
    found = []
    for name, limit in _scheduled(world):
        change = world.outlook.next_changes.get(name)
        found.append(
            {
                "cap": name,
                "milliwatts": limit.planned_watts * 1000,
                "entry": limit.planned_entry,
                "begins": None if limit.planned_for is None else timestamp(limit.planned_for),
                "changes": None if change is None else timestamp(change.at),
                "nextMilliwatts": None if change is None else change.watts * 1000,
                "nextCap": None if change is None else change.cap,
                "nextEntry": None if change is None else change.entry,
            }
        )
    return found


def _scheduled(world: World) -> list[tuple[str, Limit]]:
    return [(name, world.outlook.limits[name]) for name, timetable in world.timetables.items() if timetable.entries]


def _sentence(name: str, limit: Limit, change: Change | None) -> str:
    by = f"of {limit.entry or 'spec.watts'}" if limit.planned_for is None else f"ahead of {limit.planned_entry}"
    text = f"{name}: {watts(limit.planned_watts * 1000)} {by}"
    if change is None:
        return text
    whose = change.entry or "spec.watts"
    return f"{text}; {watts(change.watts * 1000)} of {whose}{_of_cap(name, change)} from {timestamp(change.at)}"


def _of_cap(name: str, change: Change) -> str:
    return "" if change.cap == name else f' of "{change.cap}"'
