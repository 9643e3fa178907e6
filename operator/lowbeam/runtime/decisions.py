"""What a change of option is called, and what it leaves behind: the decision's word and sentence, and the dimming.

Pure. Decides words only; which option a workload gets was decided before.

Invariant: a workload is dimmed exactly while it runs something else than it would without caps.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning import Lever, move_between
from lowbeam.planning.moves import heaviest, levers_between
from lowbeam.planning.words import limit_text, option_text, watts
from lowbeam.runtime.fleet import Decision, Dimming
from lowbeam.sizing import Option

_NOT_ELSEWHERE = frozenset({Lever.BATCH, Lever.REASONING, Lever.PRECISION, Lever.MODEL})
"""With these it is no place that is missed: a variant is, or the batch limit of an engine that starts anew for it."""
_ACTIONS = {
    Lever.BATCH: reasons.RECONFIGURED,
    Lever.POWER_LIMIT: reasons.RECONFIGURED,
    Lever.REPLICAS: reasons.SCALED,
    Lever.STAY: reasons.SELECTED,
}


def decision_of(
    before: Option | None,
    after: Option | None,
    *,
    desired: Option | None,
    cap: str,
    was_dimmed: bool,
    first: bool,
    now: datetime,
    decision_id: str,
) -> Decision:
    """Name one change; `cap` is the cap it happens for, empty when none binds."""
    freed = _worst(before) - _worst(after)
    if after is None:
        action = reasons.PAUSED if cap else reasons.REPLACED
        message = f'"{cap}" leaves no watts: paused, {watts(freed)} freed' if cap else "nothing runs any longer"
    elif first or (before is None and not was_dimmed):
        action = reasons.DIMMED if cap else reasons.SELECTED
        message = option_text(after) + (f', less than asked for because of "{cap}"' if cap else "")
    elif before is not None and before.pool != after.pool and replace(before, pool=after.pool).setting == after.setting:
        action = reasons.REPLACED
        message = f"{option_text(after)}, as before, in pool {after.pool or '-'} instead of {before.pool or '-'}"
    elif cap and freed > 0:
        action = reasons.DIMMED
        message = f'"{cap}": {_difference(before, after)}, {watts(freed)} freed{_quality(before, after)}'
    elif was_dimmed and freed <= 0:
        action = reasons.RESTORED
        whole = "" if after == desired else ", not yet all that it asks for"
        message = f"{_difference(before, after)}{whole}"
    else:
        action = _ACTIONS.get(move_between(before, after).lever, reasons.REPLACED)
        message = _difference(before, after)
    return Decision(now, decision_id, action, message)


def dimming_of(
    option: Option | None, desired: Option | None, cap: str, before: Dimming | None, decision: Decision
) -> Dimming | None:
    """What stands between `option` and `desired` because of `cap`; None when nothing does."""
    if desired is None or not cap or (option is not None and option.setting == desired.setting):
        return None
    levers = levers_between(desired, option)
    if levers & _NOT_ELSEWHERE:
        levers -= {Lever.PLACEMENT}
    lost = 0 if option is None else max(0, option.quality_shortfall_centi - desired.quality_shortfall_centi)
    return Dimming(
        lever=heaviest(levers).value,
        since=before.since if before else decision.time,
        reason=reasons.DIMMED if option else reasons.PAUSED,
        power_cap=cap,
        decision_id=decision.decision_id,
        milliwatts_freed=max(0, _worst(desired) - _worst(option)),
        quality_lost_centi=lost,
    )


def _worst(option: Option | None) -> int:
    return 0 if option is None else option.worst_case_milliwatts


def _difference(before: Option | None, after: Option) -> str:
    """`batch 64 -> 24`, `power limit none -> 490 W a board`, `3 -> 2 replicas`, or the whole option where the placement
    changes."""
    if before is None or before.placement_key != after.placement_key:
        return option_text(after) if before is None else f"{_short(before)} -> {option_text(after)}"
    parts = []
    if before.batch_limit != after.batch_limit:
        parts.append(f"batch {before.batch_limit} -> {after.batch_limit}")
    if before.board_limit_watts != after.board_limit_watts:
        parts.append(limit_text(before.board_limit_watts, after.board_limit_watts))
    if before.replicas != after.replicas:
        parts.append(f"{before.replicas} -> {after.replicas} replicas")
    return ", ".join(parts) or "as before"


def _short(option: Option) -> str:
    return f"{option.model} {option.precision} on {option.accelerator_class}"


def _quality(before: Option | None, after: Option) -> str:
    if before is None or before.quality_centi is None or after.quality_centi is None:
        return ""
    lost = before.quality_centi - after.quality_centi
    return f", {lost / 100:.1f} points of quality" if lost > 0 else ""
