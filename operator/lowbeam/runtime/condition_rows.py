"""Condition rows of a status as the API server holds them: old transition times kept, messages cut to fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from operator import itemgetter
from typing import Any

from lowbeam.api.v1alpha1.base import MAX_MESSAGE_LENGTH, Condition, ConditionStatus, cut
from lowbeam.api.v1alpha1.conditions import set_condition

Row = tuple[str, bool | None, str, str]
"""(type, holds or unknown, reason, message)."""


def as_conditions(
    previous: Iterable[Mapping[str, Any]], rows: Iterable[Row], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Conditions for the wire; types that `rows` leaves out go away."""
    before = {raw.get("type"): raw for raw in previous}
    conditions = [_condition(before.get(row[0]), row, generation, now) for row in rows]
    return sorted(conditions, key=itemgetter("type"))


def _condition(raw: Mapping[str, Any] | None, row: Row, generation: int, now: datetime) -> dict[str, Any]:
    type_, holds, reason, message = row
    status = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}[holds]
    message = cut(message, MAX_MESSAGE_LENGTH)
    said = {
        "type": type_,
        "status": status.value,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
    }
    if raw is not None and said.items() <= raw.items():  # nearly always, and reading it takes longer than all the rest
        return dict(raw)
    known = () if raw is None else (Condition.from_cluster(raw),)
    (condition,) = set_condition(known, type_, status, reason, message, now=now, observed_generation=generation)
    return condition.to_wire()
