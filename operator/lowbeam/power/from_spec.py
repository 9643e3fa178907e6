"""A PowerCap's spec as the core's `Cap`. Decides nothing; namespace selectors are resolved by the caller."""

from __future__ import annotations

from lowbeam.api.v1alpha1.powercap import CapMode, OnInfeasible, PowerCapSpec
from lowbeam.power.caps import Cap, RestoreRules, Thresholds


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
