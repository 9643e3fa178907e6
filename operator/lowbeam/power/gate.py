"""The restore gate: may this workload have its watts back now?

Decides yes, or no with the rule that holds and when to ask again. Never picks what to restore and never hurries: one
workload at a time, slower than the guard sheds, and only on fresh data with a full window of it since the start.

Invariants: no restore within the dwell time of a shed under the same cap; at most one step per step time and cap; on
average at most the ramp's share of the cap per minute. The ramp is a token bucket that may go into debt: a move larger
than a minute's share passes when the bucket is full and is paid back before the next one. Of a cap that is gone only
dwell and step time still pace; the ramps are those of the caps that remain.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lowbeam.power.caps import Cap, RestoreRules
from lowbeam.power.pins import Direction, MoveHistory
from lowbeam.power.windows import PowerWindow

Key = tuple[str, str]

DWELL = "DwellTime"
STEP = "StepTime"
RAMP = "RampLimit"
MEASURED = "MeasuredAboveGate"
COMMITTED = "CommittedAboveGate"
HISTORY = "NotEnoughHistory"
COVERAGE = "CoverageTooLow"
FROZEN = "GrowthFrozen"
PINNED = "PinnedByAntiFlap"

MINUTE_MS = 60_000
RECHECK_MS = 2_000
"""When the answer depends on measurements, ask again at the next guard tick."""


@dataclass(frozen=True, slots=True)
class Permit:
    """The move may happen now."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The move waits: reason constant, a sentence, and when it is worth asking again.

    A status shows the sentence: it has no figure that moves at each look.
    """

    reason: str
    message: str
    retry_at_ms: int


@dataclass(frozen=True, slots=True)
class CapView:
    """One cap at this tick, as gate and admission see it."""

    cap: Cap
    usable_milliwatts: int
    """With cuts that are close: nothing comes back that would have to go again at once."""
    window: PowerWindow
    coverage_percent: int
    growth_allowed: bool = True
    """`Assessment.growth_allowed`."""
    needs_milliwatts: int = 0
    """`Assessment.milliwatts_to_free`."""


@dataclass(frozen=True, slots=True)
class CapMemory:
    """What the gate remembers of one cap."""

    last_shed_ms: int | None = None
    last_step_ms: int | None = None
    spent_milliwatts: int = 0
    """Restored watts that the ramp has not paid back yet, at `last_step_ms`; nobody owes a cap that is gone."""
    rules: RestoreRules = field(default_factory=RestoreRules)
    """As last seen: dwell and step time of a cap that is deleted while workloads are dimmed still pace their return."""


@dataclass(frozen=True, slots=True)
class GateState:
    """Everything the gate remembers. After a restart: empty, plus `shed` for what the objects' status tells."""

    caps: Mapping[str, CapMemory] = field(default_factory=dict)
    workloads: Mapping[Key, MoveHistory] = field(default_factory=dict)

    def shed(self, key: Key, cap: str, now_ms: int, view: CapView | None = None) -> GateState:
        """The state after `key` was dimmed for `cap`; without its view the default rules pace a deleted cap."""
        memory = _seen(self.caps.get(cap, CapMemory()), view)
        caps = {**self.caps, cap: replace(memory, last_shed_ms=now_ms)}
        moves = {**self.workloads, key: self.workloads.get(key, MoveHistory()).moved(Direction.DOWN, now_ms)}
        return GateState(caps, moves)

    def restored(
        self, key: Key, extra_milliwatts: Mapping[str, int], views: Mapping[str, CapView], now_ms: int
    ) -> GateState:
        """The state after a permitted restore of `key` that adds `extra_milliwatts` per cap."""
        caps = dict(self.caps)
        for name, extra in extra_milliwatts.items():
            if extra > 0:
                view = views.get(name)
                memory = _seen(caps.get(name, CapMemory()), view)
                spent = 0 if view is None else _spent(memory, view, now_ms) + extra
                caps[name] = replace(memory, last_step_ms=now_ms, spent_milliwatts=spent)
        moves = {**self.workloads, key: self.workloads.get(key, MoveHistory()).moved(Direction.UP, now_ms)}
        return GateState(caps, moves)

    def went_down_last(self, key: Key) -> bool:
        """Whether a cap dimmed the workload and nothing was restored since."""
        history = self.workloads.get(key)
        return history is not None and history.last is Direction.DOWN

    def pruned(self, workloads: frozenset[Key], caps: frozenset[str]) -> GateState:
        """The state without what no longer exists."""
        return GateState(
            {name: memory for name, memory in self.caps.items() if name in caps},
            {key: history for key, history in self.workloads.items() if key in workloads},
        )


def permit(
    state: GateState,
    key: Key,
    *,
    uid: str,
    extra_milliwatts: Mapping[str, int],
    committed_milliwatts: Mapping[str, int],
    views: Mapping[str, CapView],
    now_ms: int,
    paused: bool = False,
) -> Permit | Hold:
    """Ask for a restore of workload `key` that adds `extra_milliwatts` per cap to `committed_milliwatts`.

    A `paused` workload may use all that is usable: the reserve keeps those that run from going up and down, and must
    not keep one from running at all while a less important one does.

    Every cap that would be charged more is asked; the hold that lasts longest is answered, so that a user reads what
    really stands in the way. A name without a view is a cap that is gone: only its dwell and step time still count. A
    move that adds nothing anywhere is a permit unless it is pinned.
    """
    if pin := pin_of(state, key, now_ms):
        return pin
    holds = []
    for name in sorted(extra_milliwatts):
        extra = extra_milliwatts[name]
        if extra <= 0:
            continue
        memory, view = _seen(state.caps.get(name, CapMemory()), views.get(name)), views.get(name)
        hold = _ask_dwell(name, memory, uid, now_ms)
        if hold is None and view is not None:
            hold = _ask_watts(view, committed_milliwatts.get(name, 0) + extra, now_ms, paused=paused)
        hold = hold or _ask_step(name, memory, now_ms)
        if hold is None and view is not None:
            hold = _ask_ramp(view, memory, extra, now_ms)
        if hold is not None:
            holds.append(hold)
    return max(holds, key=lambda hold: hold.retry_at_ms) if holds else Permit()


def pin_of(state: GateState, key: Key, now_ms: int) -> Hold | None:
    """What anti-flap says to an upward move of the workload; None when it lets it pass."""
    free_at = state.workloads.get(key, MoveHistory()).may_rise_at(now_ms)
    if free_at <= now_ms:
        return None
    minutes = -(-(free_at - now_ms) // MINUTE_MS)
    return Hold(PINNED, f"went down and up too often in the last 10 min: stays as it is for {minutes} min", free_at)


def jitter_ms(uid: str, jitter_seconds: int) -> int:
    """0 to `jitter_seconds`, always the same for one uid, so that workloads do not come back together."""
    return zlib.crc32(uid.encode()) % (jitter_seconds * 1000 + 1)


def _ask_dwell(cap: str, memory: CapMemory, uid: str, now_ms: int) -> Hold | None:
    if memory.last_shed_ms is None:
        return None
    ready_at = memory.last_shed_ms + memory.rules.dwell_seconds * 1000 + jitter_ms(uid, memory.rules.jitter_seconds)
    if now_ms >= ready_at:
        return None
    waits = (ready_at - memory.last_shed_ms) / 1000
    return Hold(DWELL, f'PowerCap "{cap}" shed less than {waits:.0f} s ago', ready_at)


def _ask_watts(view: CapView, after: int, now_ms: int, *, paused: bool) -> Hold | None:
    rules, cap, usable = view.cap.restore, view.cap.name, view.usable_milliwatts
    committed_percent = 100 if paused else rules.committed_percent
    again = now_ms + RECHECK_MS
    if not view.growth_allowed:
        return Hold(FROZEN, f'PowerCap "{cap}" is shedding or cannot see: nothing grows', again)
    if view.coverage_percent < rules.coverage_percent:
        seen = f"{view.coverage_percent} % of its accelerators, {rules.coverage_percent} % needed"
        return Hold(COVERAGE, f'PowerCap "{cap}" sees {seen}', again)
    peak = view.window.maximum(rules.window_seconds, now_ms)
    if peak is None:
        began = now_ms if view.window.began_ms is None else view.window.began_ms
        message = f'PowerCap "{cap}" needs {rules.window_seconds} s of measurements first'
        return Hold(HISTORY, message, max(began + rules.window_seconds * 1000, again))
    if peak * 100 >= rules.gate_percent * usable:
        message = (
            f'PowerCap "{cap}": what was drawn in the last {rules.window_seconds} s must stay below '
            f"{rules.gate_percent} % of usable"
        )
        return Hold(MEASURED, message, again)
    if after * 100 > committed_percent * usable:
        message = (
            f'PowerCap "{cap}": with it more than {committed_percent * usable / 100_000:.0f} W would be committed, '
            f"{committed_percent} % of usable"
        )
        return Hold(COMMITTED, message, again)
    return None


def _ask_step(cap: str, memory: CapMemory, now_ms: int) -> Hold | None:
    if memory.last_step_ms is None:
        return None
    ready_at = memory.last_step_ms + memory.rules.step_seconds * 1000
    if now_ms >= ready_at:
        return None
    return Hold(STEP, f'PowerCap "{cap}" restores one workload at a time', ready_at)


def _ask_ramp(view: CapView, memory: CapMemory, extra: int, now_ms: int) -> Hold | None:
    share = _share_per_minute(view)
    # A move above a minute's share needs the whole bucket, a smaller one needs room for itself.
    excess = _spent(memory, view, now_ms) + min(extra, share) - share
    if excess <= 0:
        return None
    wait_ms = -(-excess * MINUTE_MS // share) if share else MINUTE_MS
    return Hold(RAMP, f'PowerCap "{view.cap.name}" gives back {share / 1000:.0f} W per minute', now_ms + wait_ms)


def _seen(memory: CapMemory, view: CapView | None) -> CapMemory:
    return memory if view is None else replace(memory, rules=view.cap.restore)


def _share_per_minute(view: CapView) -> int:
    return view.usable_milliwatts * view.cap.restore.ramp_percent_per_minute // 100


def _spent(memory: CapMemory, view: CapView, now_ms: int) -> int:
    if memory.last_step_ms is None:
        return 0
    paid = _share_per_minute(view) * (now_ms - memory.last_step_ms) // MINUTE_MS
    return max(0, memory.spent_milliwatts - paid)
