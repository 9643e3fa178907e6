"""A new leader's first memory: what runs, since when it is dimmed and why, read back from the objects' status.

Decides nothing. What cannot be read is left out; the first plan then decides anew, and the ledger counts the pods as
they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog.facts import Basis, Reasoning
from lowbeam.planning.committed import Order, Target, taken_up
from lowbeam.planning.roll import Roll
from lowbeam.planning.words import option_text
from lowbeam.render import Placement
from lowbeam.runtime.fleet import Decision, Dimming, Fleet, WorkloadMemory
from lowbeam.runtime.power_control import HISTORY_LENGTH
from lowbeam.runtime.replicas import Child
from lowbeam.runtime.world import World
from lowbeam.sizing import Option, Requirements, Sizer
from lowbeam.sizing.ways import HEADROOM_PERCENT

UNTOLD = 0
"""Generation of the spec that a decision answers which only Deployments tell of; a spec begins with 1."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What one workload left in the cluster."""

    status: Mapping[str, Any]
    needs: Requirements
    children: Sequence[Child]


def recover_fleet(world: World, sizer: Sizer, now: datetime) -> Fleet:
    """The memory of every workload that can be planned."""
    fleet = Fleet()
    traces = [
        Trace(world.raw_workloads[key].get("status", {}), needs, world.children.get(key, []))
        for key, needs in world.requirements.items()
    ]
    fleet.workloads = dict(zip(world.requirements, recover(traces, sizer), strict=True))
    for key in world.enforced():
        memory = fleet.workloads[key]
        option = memory.target.option if memory.target else None
        if option is not None and memory.planned_generation == UNTOLD:
            memory.decision = Decision(now, fleet.decision_id(now), reasons.SELECTED, option_text(option))
            memory.history = (memory.decision, *memory.history)[:HISTORY_LENGTH]
    return fleet


def recover(traces: Sequence[Trace], sizer: Sizer) -> list[WorkloadMemory]:
    """The memories of workloads, in order, from their statuses and their Deployments."""
    untold = [trace for trace in traces if _shows_more(trace)]
    sized = sizer.options_for_all([(trace.needs, None) for trace in untold])
    shown = {
        id(trace): _shown(trace.needs, trace.children, it.options) for trace, it in zip(untold, sized, strict=True)
    }
    settings = []
    for trace in traces:
        selected = _as_written(trace.status.get("selected"), trace.children)
        settings.append(shown.get(id(trace)) if selected is None else _setting(selected))
    running = _running([trace.needs for trace in traces], settings, sizer)
    memories = [
        _memory(trace, paused=setting is None, running=option)
        for trace, setting, option in zip(traces, settings, running, strict=True)
    ]
    for trace, memory in zip(traces, memories, strict=True):
        if id(trace) in shown and memory.target is not None:
            memory.planned_generation = UNTOLD  # which spec it answers, nobody knows
    return memories


def _running(needs: Sequence[Requirements], settings: Sequence[Option | None], sizer: Sizer) -> list[Option | None]:
    """The settings at today's demand, in order; None where nothing runs, or nothing may run so any more.

    Where no power limit may be set now (no agent answers), what runs is the same without one: it keeps its place and
    what dimmed it, and is charged as its boards may draw.
    """
    found: list[Option | None] = []
    for wanted in (settings, [it and replace(it, board_limit_watts=0) for it in settings]):
        answers = sizer.options_for_all(list(zip(needs, wanted, strict=True)))
        here = [None if it is None else answer.running for it, answer in zip(wanted, answers, strict=True)]
        found = here if not found else [one or other for one, other in zip(found, here, strict=True)]
        if all(it is None or not it.board_limit_watts for it in settings):
            break
    return found


def _memory(trace: Trace, *, paused: bool, running: Option | None) -> WorkloadMemory:
    """`paused`: neither its status nor a Deployment says that anything runs."""
    status, children = trace.status, trace.children
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
    if paused and dimmed_by:
        memory.target = Target(None, dimmed_by=dimmed_by)  # by a cap: it comes back through the gate
    elif running is not None:
        order, roll = _way(running, children)
        memory.waiting_for = "" if order is Order.IN_PLACE else "the change that was under way"
        memory.target = Target(running, order, roll, dimmed_by=dimmed_by)
    return memory


def _shows_more(trace: Trace) -> bool:
    """Whether something runs that the status does not tell of: a decision is written to the Deployments first."""
    told = trace.status.get("selected") is not None or trace.status.get("dimming") is not None
    return not told and bool(trace.children)


def _shown(needs: Requirements, children: Sequence[Child], options: Iterable[Option]) -> Option | None:
    """The option that the Deployments show; None when none of `options` could have made them.

    Several stand side by side while one replaces another: the one that is to grow share by share counts, else the one
    that serves. A batch limit that changes in place is in no Deployment but one that is to grow: of those that could be
    meant it is the one that a plan without caps prefers. Without a power limit, unless that Deployment tells of one:
    whoever finds one that nobody wrote down would take watts for free that boards may draw.
    """
    child = max(children, key=lambda child: (child.promised_replicas > 0, child.ready_replicas, child.name))
    alike = [option for option in options if Placement.of(option) == child.placement]
    if not alike:
        return None
    headroom = needs.demand.requests_per_second_milli * HEADROOM_PERCENT // 100

    def preferred(it: Option) -> tuple[int | str, ...]:
        other_batch = child.shares is not None and it.batch_limit != child.shares.batch_limit
        lacking = max(0, headroom - it.capacity_millirps)
        watts = (it.expected_milliwatts, lacking, it.worst_case_milliwatts)
        return (other_batch, abs(it.replicas - child.decided_replicas), it.unserved_millirps, *watts, it.id)

    nearest = min(alike, key=preferred)
    limit_watts = 0 if child.shares is None else child.shares.board_limit_watts
    return replace(nearest, replicas=child.decided_replicas or nearest.replicas, board_limit_watts=limit_watts)


def _way(running: Option, children: Sequence[Child]) -> tuple[Order, Roll | None]:
    """How the change that was under way goes on, and where it began if that is told."""
    placement = Placement.of(running)
    new = next((child for child in children if child.placement == placement), None)
    old = sum(child.replicas for child in children if child.placement != placement)
    order = taken_up(running.replicas, None if new is None else new.replicas, old)
    shares = new.shares if new is not None and order is Order.ROLLING else None
    return order, None if shares is None else shares.roll


def _as_written(selected: Mapping[str, Any] | None, children: Sequence[Child]) -> Mapping[str, Any] | None:
    """The selection that the Deployments show: a decision is written to them before the status tells of it.

    With several Deployments a change is under way and the status says where to. None: nothing runs.
    """
    if selected is None or not children:
        return None
    there = sorted(children, key=lambda child: not _is_selected(child, selected))
    begun = (c for c in there if c.promised_replicas)  # decided later than what the status may still tell of
    child = next(begun, None) or next((c for c in there if _is_selected(c, selected)), None)
    if child is None and len(children) == 1:
        child = children[0]
    if child is None or child.placement is None:
        return selected
    placement = child.placement
    replicas, batch_limit = child.decided_replicas, selected["batchLimit"]
    limit_watts = 0  # of another placement than the status tells of: none, which is charged most
    if _is_selected(child, selected):
        limit_watts = selected.get("boardLimitWatts", 0)
    if child.shares is not None:
        batch_limit, limit_watts = child.shares.batch_limit, child.shares.board_limit_watts
    if _is_selected(child, selected):
        replicas, batch_limit = min(selected["replicas"], replicas), min(selected["batchLimit"], batch_limit)
    return {
        **selected,
        "boardLimitWatts": limit_watts,
        "model": placement.model,
        "precision": placement.precision,
        "reasoning": placement.reasoning.value,
        "acceleratorClass": placement.accelerator_class,
        "acceleratorsPerReplica": placement.accelerators,
        "nodePool": placement.pool,
        "engine": placement.engine,
        "batchLimit": placement.batch_limit or batch_limit,
        "replicas": replicas,
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
        board_limit_watts=selected.get("boardLimitWatts", 0),
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
