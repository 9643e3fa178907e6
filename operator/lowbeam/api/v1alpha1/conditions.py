"""Conditions: how one observation is added to those an object has.

Decides when a condition counts as changed. Pure: the time is passed in, nothing is written.

Invariants: at most one condition of a type; `lastTransitionTime` moves only when the status flips; the order of the
types stays as it is, so that an unchanged observation gives an unchanged object.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from lowbeam.api.v1alpha1.base import Condition, ConditionStatus


def find_condition(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """The condition of this type, or None when it was never observed."""
    return next((condition for condition in conditions if condition.type == type_), None)


def set_condition(
    conditions: tuple[Condition, ...],
    type_: str,
    status: ConditionStatus | bool | None,
    reason: str,
    message: str,
    *,
    now: datetime,
    observed_generation: int = 0,
) -> tuple[Condition, ...]:
    """The conditions with this observation in them; a status of None means Unknown.

    Returns the same tuple when nothing changed, so that the caller can tell by identity that there is nothing to write.
    """
    old = find_condition(conditions, type_)
    new_status = _as_status(status)
    new = Condition(
        type=type_,
        status=new_status,
        reason=reason,
        message=message,
        last_transition_time=old.last_transition_time if old is not None and old.status is new_status else now,
        observed_generation=observed_generation,
    )
    if old is None:
        return (*conditions, new)
    if old == new:
        return conditions
    return tuple(new if condition.type == type_ else condition for condition in conditions)


def _as_status(status: ConditionStatus | bool | None) -> ConditionStatus:
    if isinstance(status, ConditionStatus):
        return status
    return {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}[status]
