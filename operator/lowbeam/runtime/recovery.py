"""A new leader's first memory: what runs, since when it is dimmed and why, read back from the objects' status.

Decides nothing. What cannot be read is left out; the first plan then decides anew, and the ledger counts the pods as
they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lowbeam.catalog.facts import Basis, Reasoning
from lowbeam.planning.committed import Order, Target
from lowbeam.render import Placement
from lowbeam.runtime.fleet import Decision, Dimming, WorkloadMemory
from lowbeam.runtime.replicas import Child
from lowbeam.sizing import Option, Requirements, Sizer


def recover(status: Mapping[str, Any], needs: Requirements, children: list[Child], sizer: Sizer) -> WorkloadMemory:
    """The memory of one workload, from its status and its Deployments."""
    memory = WorkloadMemory(planned_generation=status.get("observedGeneration"))
    memory.history = tuple(
        Decision(_moment(entry["time"]), entry["decisionId"], entry["action"], entry["message"])
        for entry in status.get("history", ())
    )
    if (raw := status.get("dimming")) is not None:
        memory.dimming = Dimming(
            lever=raw["lever"],
            since=_moment(raw["since"]),
            reason=raw["reason"],
            power_cap=raw["powerCap"],
            decision_id=raw["decisionId"],
            milliwatts_freed=raw["wattsFreed"] * 1000,
            quality_lost_centi=round(float(raw.get("qualityLost", "0")) * 100),
        )
    dimmed_by = memory.dimming.power_cap if memory.dimming else ""
    selected = _as_written(status.get("selected"), children)
    running = sizer.options_for(needs, _setting(selected)).running if selected is not None else None
    if selected is None and dimmed_by:
        memory.target = Target(None, dimmed_by=dimmed_by)  # paused by a cap: it comes back through the gate
    elif running is not None:
        order = _order(running, children)
        memory.waiting_for = "" if order is Order.IN_PLACE else "the change that was under way"
        memory.target = Target(running, order, dimmed_by=dimmed_by)
    return memory


def _order(running: Option, children: list[Child]) -> Order:
    """How the change that was under way goes on.

    Break-before-make ends the old Deployments first: where one stands beside that of `running`, the old one was to
    serve until the new one does, and boards and watts were found for both.
    """
    placement = Placement.of(running)
    if all(child.placement == placement for child in children):
        return Order.IN_PLACE
    begun = any(child.placement == placement for child in children)
    return Order.MAKE_BEFORE_BREAK if begun else Order.BREAK_BEFORE_MAKE


def _as_written(selected: Mapping[str, Any] | None, children: list[Child]) -> Mapping[str, Any] | None:
    """The selection that the Deployments show: a decision is written to them before the status tells of it.

    With several Deployments a change is under way and the status says where to. None: nothing runs.
    """
    if selected is None or not children:
        return None
    child = next((c for c in children if _is_selected(c, selected)), None)
    if child is None and len(children) == 1:
        child = children[0]
    if child is None or child.placement is None:
        return selected
    placement = child.placement
    return {
        **selected,
        "model": placement.model,
        "precision": placement.precision,
        "reasoning": placement.reasoning.value,
        "acceleratorClass": placement.accelerator_class,
        "acceleratorsPerReplica": placement.accelerators,
        "nodePool": placement.pool,
        "engine": placement.engine,
        "batchLimit": placement.batch_limit or selected["batchLimit"],
        "replicas": min(selected["replicas"], child.replicas) if _is_selected(child, selected) else child.replicas,
    }


def _is_selected(child: Child, selected: Mapping[str, Any]) -> bool:
    return child.placement == Placement.of(_setting(selected))


def last_action(status: Mapping[str, Any]) -> Decision | None:
    """What was last done for a cap, from its status."""
    raw = status.get("lastAction")
    if raw is None:
        return None
    return Decision(_moment(raw["time"]), raw["decisionId"], "", raw["message"])


def _setting(selected: Mapping[str, Any]) -> Option:
    """The option's identity; its figures are today's business."""
    return Option(
        model=selected["model"],
        precision=selected["precision"],
        reasoning=Reasoning(selected.get("reasoning", "Off")),
        accelerator_class=selected["acceleratorClass"],
        accelerators_per_replica=selected.get("acceleratorsPerReplica", 1),
        batch_limit=selected["batchLimit"],
        replicas=selected["replicas"],
        pool=selected.get("nodePool", ""),
        engine=selected["engine"],
        expected_milliwatts=0,
        worst_case_milliwatts=0,
        capacity_millirps=0,
        unserved_millirps=0,
        quality_centi=None,
        quality_shortfall_centi=0,
        millijoules_per_request=0,
        latency_p95_ms=0,
        basis=Basis.MODELLED,
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
