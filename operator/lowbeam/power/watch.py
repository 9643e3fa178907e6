"""One look at every cap: readings into windows, windows into assessments, and the views that gate and admission use.

Decides nothing of its own; it is the order in which `ledger`, `progress` and `guard` are asked, once, for the runtime
and the simulation alike. What must be remembered between looks is one immutable value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lowbeam.power.caps import Cap, CapTree
from lowbeam.power.gate import CapView
from lowbeam.power.guard import Assessment, GuardMemory, assess
from lowbeam.power.ledger import Measured, Reading, measured, measured_by_workload
from lowbeam.power.progress import Place, Promise, check, outstanding
from lowbeam.power.windows import PowerWindow


@dataclass(frozen=True, slots=True)
class WatchState:
    """Memory of the watch, by cap name, and the moves that are still settling."""

    windows: Mapping[str, PowerWindow] = field(default_factory=dict)
    memories: Mapping[str, GuardMemory] = field(default_factory=dict)
    promises: tuple[Promise, ...] = ()

    def acted(
        self, caps: Iterable[str], promises: Iterable[Promise], now_ms: int, *, taken_back: Iterable[Place] = ()
    ) -> WatchState:
        """The memory after `caps` shed: their means begin anew, and the new promises count.

        Steps that no cap asked for begin no mean anew. In a large fleet there is one every second, and a draw that
        stays above a cap would never have a whole window; what such steps will free is among the promises.

        `taken_back`: where steps raise the draw again. What was promised there will not come: it neither counts as gone
        nor is anybody blamed for it.
        """
        shed, raised = frozenset(caps), frozenset(taken_back)
        windows = {name: w.restarted(now_ms) if name in shed else w for name, w in self.windows.items()}
        kept = [promise for promise in self.promises if promise.place not in raised]
        return replace(self, windows=windows, promises=(*kept, *promises))


@dataclass(frozen=True, slots=True)
class Watch:
    """What was seen in one look; mappings are by cap name."""

    measured: Mapping[str, Measured]
    assessments: Mapping[str, Assessment]
    views: Mapping[str, CapView]
    drawn: Mapping[Place, int]
    """Milliwatts per workload and pool."""
    ineffective: tuple[Promise, ...]
    """Moves that settled in this look without giving what they promised."""
    state: WatchState


def watch(
    tree: CapTree,
    readings: Iterable[Reading],
    committed: Mapping[str, int],
    state: WatchState,
    now_ms: int,
    *,
    decided: Mapping[str, int] | None = None,
    unsatisfiable: Mapping[str, str] | None = None,
    dimming: frozenset[str] = frozenset(),
) -> Watch:
    """Assess every cap of the tree.

    Per cap: `committed` and `decided` are the ledger with and without pods on their way out (`planning.committed`),
    `unsatisfiable` the planner's sentences; `dimming`: caps that keep some workload from its desired option.
    """
    known = tuple(readings)
    drawn = measured_by_workload(known)
    progress = check(state.promises, drawn, now_ms)
    totals = measured(tree, known, now_ms)
    windows: dict[str, PowerWindow] = {}
    assessments: dict[str, Assessment] = {}
    views: dict[str, CapView] = {}
    for cap, usable, planned in zip(tree.caps, tree.usable_milliwatts, tree.planned_milliwatts, strict=True):
        seen = totals[cap.name]
        window = _window(cap, state.windows.get(cap.name)).append(now_ms, seen.milliwatts)
        assessment = assess(
            cap,
            usable,
            committed_milliwatts=committed.get(cap.name, 0),
            measured=seen,
            window=window,
            now_ms=now_ms,
            memory=state.memories.get(cap.name),
            decided_milliwatts=None if decided is None else decided.get(cap.name, 0),
            outstanding_milliwatts=outstanding(cap, progress.running, drawn),
            unsatisfiable=(unsatisfiable or {}).get(cap.name, ""),
            restoring=cap.name in dimming,
        )
        windows[cap.name], assessments[cap.name] = window, assessment
        views[cap.name] = CapView(
            cap=cap,
            usable_milliwatts=planned,
            window=window,
            coverage_percent=seen.coverage_percent,
            growth_allowed=assessment.growth_allowed,
            needs_milliwatts=assessment.milliwatts_to_free,
        )
    memories = {name: assessment.memory for name, assessment in assessments.items()}
    return Watch(
        measured=totals,
        assessments=assessments,
        views=views,
        drawn=drawn,
        ineffective=progress.ineffective,
        state=WatchState(windows, memories, progress.running),
    )


def _window(cap: Cap, window: PowerWindow | None) -> PowerWindow:
    keep_ms = max(60, cap.restore.window_seconds) * 1000
    return PowerWindow(keep_ms=keep_ms) if window is None else replace(window, keep_ms=keep_ms)
