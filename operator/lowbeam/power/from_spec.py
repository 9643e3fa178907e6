"""A PowerCap's spec as the core's `Cap` and `Timetable`. Namespace selectors are resolved by the caller.

Decides which entries are understood: one whose cron expression or time zone means nothing is left out and told, as the
API server cannot refuse it.
"""

from __future__ import annotations

from lowbeam.api.v1alpha1.cuts import CapEvent, Cut, ScheduleEntry
from lowbeam.api.v1alpha1.powercap import CapMode, OnInfeasible, PowerCapSpec
from lowbeam.power.caps import Cap, RestoreRules, Thresholds
from lowbeam.power.recurrence import NotUnderstood, Once, Recurring, Window, recurring
from lowbeam.power.schedule import Entry, Timetable


def cap_of_spec(name: str, uid: str, spec: PowerCapSpec, namespaces: frozenset[str]) -> Cap:
    """`namespaces`: those that a namespaces scope names or selects. A pool is called after its cap."""
    return Cap(
        name=name,
        uid=uid,
        parent=spec.parent or "",
        watts=spec.watts,
        meter_tolerance_percent=spec.meter_tolerance_percent,
        overhead_watts=spec.overhead_watts or 0,
        levers=tuple(lever.value for lever in spec.levers),
        enforce=spec.mode is CapMode.ENFORCE,
        pause_lowest=spec.on_infeasible is OnInfeasible.PAUSE_LOWEST,
        pool=name if spec.scope.node_pool else None,
        namespaces=namespaces if spec.scope.namespaces else None,
        thresholds=Thresholds(**spec.thresholds.model_dump()),
        restore=RestoreRules(**spec.restore.model_dump()),
        late_seconds=spec.telemetry.late_seconds,
        stale_seconds=spec.telemetry.stale_seconds,
    )


def timetable_of_spec(spec: PowerCapSpec, settle_seconds: int) -> Timetable:
    """`settle_seconds`: of the slowest move that the cap allows (`planning.moves.settle_seconds`)."""
    entries: list[Entry] = []
    troubles: list[str] = []
    for index, item in enumerate(spec.schedule):
        try:
            when = recurring(item.cron, item.time_zone, item.duration_minutes)
        except NotUnderstood as error:
            troubles += [f"spec.schedule[{index}].{problem}" for problem in error.problems]
        else:
            entries.append(_entry(spec, item, when))
    entries += [_entry(spec, event, Once(Window(event.start, event.end))) for event in spec.events]
    return Timetable(spec.watts, tuple(entries), settle_seconds, tuple(troubles))


def _entry(spec: PowerCapSpec, cut: ScheduleEntry | CapEvent, when: Recurring | Once) -> Entry:
    kind = "event" if isinstance(cut, CapEvent) else "schedule"
    return Entry(f"{kind}/{cut.name}", _watts_of(cut, spec.watts), cut.ramp_seconds, when)


def _watts_of(cut: Cut, static_watts: int) -> int:
    """What an entry allows: its watts, or its share of the static ones, at least 1."""
    return cut.watts if cut.watts is not None else max(1, static_watts * (cut.percent or 100) // 100)
