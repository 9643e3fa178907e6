"""kopf's liveness endpoint (`kopf run --liveness`): what the loops last did, as JSON."""

from __future__ import annotations

from typing import Any

import kopf


@kopf.on.probe(id="planner-age-seconds")
async def planner_age(memo: kopf.Memo, **_: Any) -> float | None:
    """Seconds since the last finished plan; None before the first."""
    age: float | None = memo.application.health.planner_age_seconds()
    return age


@kopf.on.probe(id="leader")
async def leader(memo: kopf.Memo, **_: Any) -> bool:
    """True while this process holds the Lease."""
    is_leader: bool = memo.application.health.is_leader
    return is_leader
