"""Choices: the answer for one workload with its reasons, as status, Events and `lowbeam explain` show it.

Decides reason and sentence of a choice, and which three alternatives are worth showing. Never changes the answer.
"""

from __future__ import annotations

from dataclasses import replace

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning.moves import Lever, levers_between, move_between
from lowbeam.planning.outcome import Outcome
from lowbeam.planning.plan_types import Alternative, Choice
from lowbeam.planning.snapshot import WorkloadState
from lowbeam.planning.words import joules, option_text, rate, rating, watts
from lowbeam.sizing.options import Option, OptionSet
from lowbeam.sizing.relax import nearest_relaxation, savings
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.size import Sizer
from lowbeam.sizing.words import centi

MAX_ALTERNATIVES = 3

_LATE = frozenset({reasons.TOO_SLOW, reasons.TOO_MUCH_ENERGY, reasons.TOO_MANY_WATTS, reasons.OUT_OF_MEMORY})


def choice_of(
    sizer: Sizer, state: WorkloadState, found: OptionSet, outcome: Outcome, entry: int, *, explain: bool = True
) -> Choice:
    """The choice of entry number `entry`. Without `explain`, alternatives and recommendations are left out."""
    needs = state.requirements
    option, desired = outcome.option(entry), outcome.desired[entry]
    cap = outcome.binding_cap(entry)
    trimmed = "" if option is None or desired is None or loses(option, desired) else cap
    if trimmed:
        cap = ""
    if option is None:
        reason, message = _nothing(sizer, needs, found, outcome, desired=desired, cap=cap)
    elif desired is not None and option != desired and cap:
        reason, message = reasons.DIMMED, dimmed_text(needs, desired, option, cap, _usable(outcome, cap))
    else:
        reason, message = reasons.SELECTED, selected_text(needs, option)
        if trimmed and desired is not None:
            message += f'. PowerCap "{trimmed}" trims what nobody uses now: {step_text(desired, option)}'
    return Choice(
        namespace=needs.namespace,
        name=needs.name,
        option=option,
        reason=reason,
        message=message,
        desired=desired,
        binding_cap=cap,
        alternatives=_alternatives(sizer, needs, found, option=option, desired=desired, cap=cap) if explain else (),
        rejections=found.rejections,
        recommendations=savings(sizer, needs, desired) if explain and desired is not None else (),
    )


def loses(option: Option, desired: Option) -> bool:
    """Whether a workload gets less than it asks for. Burst head-room, class and model alone are nobody's loss."""
    return (
        option.unserved_millirps > desired.unserved_millirps
        or option.quality_shortfall_centi > desired.quality_shortfall_centi
    )


def selected_text(needs: Requirements, option: Option) -> str:
    """What was chosen and what it costs; what it cannot serve, when it cannot."""
    text = f"{option_text(option)}: {watts(option.expected_milliwatts)}, {joules(option)} per request"
    text += f", {rating(needs, option)}" if rating(needs, option) else ""
    if not option.unserved_millirps:
        return f"{text}; enough quality for the least energy"
    demand = needs.demand.requests_per_second_milli
    limit = "spec.replicas" if needs.fixed_replicas is not None else "spec.scaling.maxReplicas or the accelerators"
    return f"{text}; serves {rate(min(demand, option.capacity_millirps))} of {rate(demand)}: more needs more {limit}"


def dimmed_text(needs: Requirements, desired: Option, option: Option, cap: str, usable_milliwatts: int) -> str:
    """Which cap, which lever from where to where, what was freed, and what it costs the workload."""
    move = move_between(desired, option)
    costs = []
    if option.unserved_millirps > desired.unserved_millirps:
        demand = needs.demand.requests_per_second_milli
        costs.append(f"serves {rate(min(demand, option.capacity_millirps))} of {rate(demand)}")
    if option.quality_shortfall_centi > desired.quality_shortfall_centi:
        below = " (below the floor, with consent)" if option.below_floor else ""
        costs.append(f"{rating(needs, option)}{below}")
    freed = (
        f"{watts(move.freed_milliwatts)} freed"
        if move.freed_milliwatts >= 0
        else (f"{watts(-move.freed_milliwatts)} more, elsewhere")
    )
    return f'"{cap}" allows {watts(usable_milliwatts)}: {step_text(desired, option)}, {freed}, {", ".join(costs)}'


def step_text(before: Option, after: Option) -> str:
    """From where to where: the numbers that change in place, else both options."""
    levers = levers_between(before, after)
    if not levers <= {Lever.BATCH, Lever.REPLICAS}:
        here, there = option_text(before), option_text(after)
        if before.pool != after.pool:
            here, there = f"{here} in pool {before.pool or '-'}", f"{there} in pool {after.pool or '-'}"
        return f"{here} -> {there}"
    parts = [f"replicas {before.replicas} -> {after.replicas}"] if Lever.REPLICAS in levers else []
    if Lever.BATCH in levers:
        parts.append(f"batch limit {before.batch_limit} -> {after.batch_limit}")
    return ", ".join(parts)


def _nothing(
    sizer: Sizer, needs: Requirements, found: OptionSet, outcome: Outcome, *, desired: Option | None, cap: str
) -> tuple[str, str]:
    if not [o for o in found.options if not o.below_floor]:
        return _no_option(sizer, needs, found)
    if desired is None:
        best = min(found.options, key=lambda o: (o.accelerators, o.id))
        where = f"{best.accelerators} x {best.accelerator_class}"
        text = f"all accelerators are taken by workloads of the same or a higher priority; it needs at least {where}"
        return reasons.NO_ACCELERATOR_OF_CLASS, f"{text}. Add nodes, or raise spec.priority."
    if cap in outcome.too_small:
        sentence = outcome.too_small[cap]
        by_name = {it.name: it for it in outcome.problem.rows.tree.caps}
        return (reasons.PAUSED if by_name[cap].pause_lowest else reasons.CAP_UNSATISFIABLE), sentence
    least = min(o.worst_case_milliwatts for o in found.options)
    text = f"needs {watts(least)} at least beside workloads of the same or a higher priority"
    return reasons.CAP_UNSATISFIABLE, f'"{cap}" leaves too little: {text}. Raise the cap or spec.priority.'


def _no_option(sizer: Sizer, needs: Requirements, found: OptionSet) -> tuple[str, str]:
    causes = {rejection.reason for rejection in found.rejections}
    if reasons.SCALED_TO_ZERO in causes:
        return reasons.SCALED_TO_ZERO, found.relaxation
    if reasons.NO_INVENTORY in causes and not causes & _LATE:
        lacking = next(r for r in found.rejections if r.reason == reasons.NO_INVENTORY)
        return reasons.NO_ACCELERATOR_OF_CLASS, f"{lacking.subject}: {lacking.message}. Add nodes of an allowed class."
    way_out = nearest_relaxation(sizer, needs)
    floor_first = causes & {reasons.BELOW_FLOOR, reasons.QUALITY_UNKNOWN} and not causes & (
        _LATE | {reasons.NO_PROFILE}
    )
    if floor_first:
        text = f"no model for {needs.task} that may be used reaches {needs.benchmark} {centi(needs.floor_centi)}"
        return reasons.NO_MODEL_MEETS_FLOOR, f"{text}; {way_out}. Change the spec or add a ModelCard."
    nearest = next((r for r in found.rejections if r.reason in _LATE), next(iter(found.rejections), None))
    what = f"nearest: {nearest.subject}: {nearest.message}" if nearest else f"no model for {needs.task}"
    return reasons.NO_OPTION, f"no way to run it: {what}; {way_out}."


def _usable(outcome: Outcome, cap: str) -> int:
    return int(outcome.problem.rows.limits[outcome.problem.rows.caps.index(cap)])


def _alternatives(
    sizer: Sizer, needs: Requirements, found: OptionSet, *, option: Option | None, desired: Option | None, cap: str
) -> tuple[Alternative, ...]:
    """What a person would ask about: the desired one, then the best of each other way, then the one below the floor."""
    rivals: list[Alternative] = []
    if desired is not None and cap:
        rivals.append(Alternative(desired, reasons.DIMMED, f'what it would run without "{cap}"'))
    base = desired or option
    if base is None:
        return ()
    seen = {_way(base), *(() if option is None else (_way(option),))}
    serving = [o for o in (*found.options, *found.also_ran) if not o.below_floor]
    for rival in sorted(serving, key=lambda o: (o.unserved_millirps, o.expected_milliwatts, o.id)):
        if _way(rival) not in seen:
            seen.add(_way(rival))
            rivals.append(Alternative(rival, *_why_it_lost(needs, base, rival)))
    below = _below_floor(sizer, needs, base)
    keep = MAX_ALTERNATIVES - (0 if below is None else 1)
    return (*rivals[:keep], *(() if below is None else (below,)))


def _way(option: Option) -> tuple[object, ...]:
    return (option.model, option.precision, option.reasoning, option.accelerator_class, option.accelerators_per_replica)


def _why_it_lost(needs: Requirements, base: Option, rival: Option) -> tuple[str, str]:
    if rival.unserved_millirps > base.unserved_millirps:
        demand = needs.demand.requests_per_second_milli
        served = f"serves {rate(rival.capacity_millirps)} of {rate(demand)}"
        return reasons.SERVES_LESS, served
    if rival.quality_shortfall_centi > base.quality_shortfall_centi:
        return reasons.BELOW_TARGET, f"{rating(needs, rival)} < {centi(needs.target_centi)} (target)"
    more = rival.expected_milliwatts - base.expected_milliwatts
    if more > 0 and base.expected_milliwatts > 0:
        return reasons.MORE_ENERGY, f"+{100 * more // base.expected_milliwatts} %: {watts(more)} more"
    return reasons.LESS_HEADROOM, f"commits {watts(rival.worst_case_milliwatts)} at worst"


def _below_floor(sizer: Sizer, needs: Requirements, base: Option) -> Alternative | None:
    """The cheaper model that the floor keeps out: what quality costs."""
    if needs.floor_centi <= 0:
        return None
    open_floor = replace(needs, floor_centi=0, below_floor_when_capped=False)
    cheaper = [
        o
        for o in sizer.options_for(open_floor).options
        if o.quality_centi is not None
        and o.quality_centi < needs.floor_centi
        and not o.unserved_millirps
        and o.expected_milliwatts < base.expected_milliwatts
    ]
    if not cheaper:
        return None
    best = min(cheaper, key=lambda o: (-(o.quality_centi or 0), o.expected_milliwatts, o.id))
    return Alternative(best, reasons.BELOW_FLOOR, f"{rating(needs, best)} < {centi(needs.floor_centi)} (floor)")
