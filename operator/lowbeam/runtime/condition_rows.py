"""Condition rows of a status as the API server holds them: old transition times kept, messages cut to fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from lowbeam.api.v1alpha1.base import MAX_MESSAGE_LENGTH, Condition, ConditionStatus
from lowbeam.api.v1alpha1.conditions import set_condition

Row = tuple[str, bool | None, str, str]
"""(type, holds or unknown, reason, message)."""


def as_conditions(
    previous: Iterable[Mapping[str, Any]], rows: Iterable[Row], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Conditions for the wire; types that `rows` leaves out go away."""
    rows = list(rows)
    types = {row[0] for row in rows}
    conditions = tuple(Condition.from_cluster(raw) for raw in previous if raw.get("type") in types)
    for type_, holds, reason, message in rows:
        status = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}[holds]
        conditions = set_condition(
            conditions, type_, status, reason, _cut(message), now=now, observed_generation=generation
        )
    return [condition.to_wire() for condition in sorted(conditions, key=lambda c: c.type)]


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_LENGTH else message[: MAX_MESSAGE_LENGTH - 1] + "…"
