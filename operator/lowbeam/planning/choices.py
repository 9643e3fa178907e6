"""Choices: the answer for one workload with its reasons, as status, Events and `lowbeam explain` show it.

Decides reason and sentence of a choice. Never changes the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning.advice import MAX_ALTERNATIVES, Adviser, WaysOut
from lowbeam.planning.moves import HOT, Lever, levers_between, move_between
from lowbeam.planning.outcome import Outcome
from lowbeam.planning.plan_types import Alternative, Choice
from lowbeam.planning.snapshot import WorkloadState
from lowbeam.planning.words import joules, limit_text, option_text, rating, share, watts
from lowbeam.sizing.options import Option, OptionSet, Rejection
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.wishes import Advice
from lowbeam.sizing.words import centi, variant_name

MAX_WAYS_OUT = 3

_LATE = frozenset({reasons.TOO_SLOW, reasons.TOO_MUCH_ENERGY, reasons.TOO_MANY_WATTS, reasons.OUT_OF_MEMORY})
_NEAREST_FIRST = (
    reasons.TOO_MANY_WATTS,
    reasons.TOO_MUCH_ENERGY,
    reasons.TOO_SLOW,
    reasons.OUT_OF_MEMORY,
    reasons.NO_INVENTORY,
    reasons.NOT_SERVED_NATIVELY,
    reasons.NOT_SERVED_BY_ENGINE,
    reasons.PRECISION_NOT_SUPPORTED,
    reasons.CLASS_NOT_ALLOWED,
    reasons.NO_PROFILE,
    reasons.BELOW_FLOOR,
    reasons.QUALITY_UNKNOWN,
    reasons.REASONING_NOT_ALLOWED,
)
"""Filters from the last of the chain backwards: what got further came nearer to running."""


def choice_of(
    adviser: Adviser,
    state: WorkloadState,
    found: OptionSet,
    outcome: Outcome,
    entry: int,
    *,
    stays: bool,
) -> Choice:
    """The choice of entry number `entry`, not explained yet. `stays`: what runs would be kept without an option."""
    needs = state.requirements
    option, desired = outcome.option(entry), outcome.desired[entry]
    cap = outcome.binding_cap(entry)
    trimmed = "" if option is None or desired is None or loses(option, desired) else cap
    if trimmed:
        cap = ""
    pinned = _is_pinned(state, found, option, desired)
    alternatives: tuple[Alternative, ...] = ()
    shortage, keeps_running = "", False
    if needs.fixed_replicas == 0:
        reason, message = reasons.SCALED_TO_ZERO, found.relaxation
    elif not any(not o.below_floor for o in found.options):
        ways_out = adviser.ways_out(needs)
        reason, message = _no_option(needs, found, ways_out)
        keeps_running = stays and option is None
        alternatives = tuple(
            Alternative(it.option, it.reason, f"{it.change} would allow it")
            for it in ways_out.single[:MAX_ALTERNATIVES]
        )
    elif option is None:
        reason, message = _nothing(needs, found, outcome, desired=desired, cap=cap)
    elif desired is not None and option != desired and cap:
        reason, message = reasons.DIMMED, dimmed_text(needs, desired, option, cap, _usable(outcome, cap))
    else:
        limit = _who_limits(option, desired, trimmed, pinned=pinned)
        reason, message = reasons.SELECTED, selected_text(needs, option, limit)
        shortage = _shortage(needs, option, limit)
        if shortage and not option.unserved_millirps and not trimmed:  # else the message says it already
            message += f"; {shortage}"
        if trimmed and desired is not None:
            message += f'. PowerCap "{trimmed}" trims what nobody uses now: {step_text(desired, option)}'
    if option is None and desired is None and found.options and not alternatives:
        frugal = _least(found)
        text = f"would run with {frugal.accelerators} {frugal.accelerator_class} free"
        alternatives = (Alternative(frugal, reasons.NO_ACCELERATOR_OF_CLASS, text),)
    return Choice(
        namespace=needs.namespace,
        name=needs.name,
        option=option,
        reason=reason,
        message=message,
        desired=desired,
        binding_cap=cap,
        shortage=shortage,
        pinned=pinned,
        keeps_running=keeps_running,
        alternatives=alternatives,
        rejections=found.rejections,
    )


def stays_without_option(found: OptionSet, *, boards_there: bool) -> bool:
    """Whether a workload that has no option keeps what runs: always, except where its accelerators are gone.

    `boards_there`: those of what runs. What it may have instead is lacking as well where others hold it for a while.
    """
    return boards_there or not _lacks_accelerators({rejection.reason for rejection in found.rejections})


def loses(option: Option, desired: Option) -> bool:
    """Whether a workload gets less than it asks for. Burst head-room, class and model alone are nobody's loss."""
    return (
        option.unserved_millirps > desired.unserved_millirps
        or option.quality_shortfall_centi > desired.quality_shortfall_centi
    )


def _is_pinned(state: WorkloadState, found: OptionSet, option: Option | None, desired: Option | None) -> bool:
    """Whether anti-flap keeps what runs where something else is desired."""
    if not state.held or option is None or desired is None or option != found.running:
        return False
    return option.setting != desired.setting


def selected_text(needs: Requirements, option: Option, limit: str = "") -> str:
    """What was chosen and what it costs; what it cannot serve, when it cannot, and what limits it."""
    text = f"{option_text(option)}: {watts(option.expected_milliwatts)}, {joules(option)} per request"
    text += f", {rating(needs, option)}" if rating(needs, option) else ""
    if not option.unserved_millirps:
        enough = (
            "enough quality for the least energy" if needs.floor_centi or needs.target_centi else "the least energy"
        )
        return f"{text}; {enough}"
    return f"{text}; {_shortage(needs, option, limit)}"


def _shortage(needs: Requirements, option: Option, limit: str) -> str:
    """What an option leaves unserved, or of the replicas asked for, and what stands between it and the rest."""
    parts = []
    asked, by_whom = needs.min_replicas, "of spec.scaling.minReplicas"
    if needs.fixed_replicas is not None:
        asked, by_whom = needs.fixed_replicas, "asked for"
    if option.unserved_millirps:
        parts.append(f"serves {share(option.capacity_millirps, needs.demand.requests_per_second_milli)}")
    if option.replicas < asked:
        parts.append(f"{option.replicas} of the {asked} replicas {by_whom}")
    if not parts:
        return ""
    return f"{', '.join(parts)}: {limit or _what_limits(needs, option)}"


def _who_limits(option: Option, desired: Option | None, trimmed_by: str, *, pinned: bool) -> str:
    """The pin or the cap that keeps an option from more replicas or capacity that are desired; empty when none does."""
    if desired is None:
        return ""
    if pinned and (loses(option, desired) or option.replicas < desired.replicas):
        return "it went down and up too often and stays as it is for a while"
    return f'PowerCap "{trimmed_by}" leaves no more' if trimmed_by and option.replicas < desired.replicas else ""


def _what_limits(needs: Requirements, option: Option) -> str:
    """What else stands between an option and the whole demand, or all replicas asked for."""
    if needs.fixed_replicas is not None and option.replicas >= needs.fixed_replicas:
        return f"spec.replicas is {needs.fixed_replicas}; the autoscaler has to raise it"
    if option.replicas >= needs.max_replicas:
        return f"raise spec.scaling.maxReplicas above {needs.max_replicas}"
    return "no more accelerators are free; add nodes, or raise spec.priority"


def dimmed_text(needs: Requirements, desired: Option, option: Option, cap: str, usable_milliwatts: int) -> str:
    """Which cap, which lever from where to where, what was freed, and what it costs the workload."""
    move = move_between(desired, option)
    costs = []
    if option.unserved_millirps > desired.unserved_millirps:
        costs.append(f"serves {share(option.capacity_millirps, needs.demand.requests_per_second_milli)}")
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
    if not levers <= HOT | {Lever.REPLICAS}:
        here, there = option_text(before), option_text(after)
        if before.pool != after.pool:
            here, there = f"{here} in pool {before.pool or '-'}", f"{there} in pool {after.pool or '-'}"
        return f"{here} -> {there}"
    parts = [f"replicas {before.replicas} -> {after.replicas}"] if Lever.REPLICAS in levers else []
    if Lever.BATCH in levers:
        parts.append(f"batch limit {before.batch_limit} -> {after.batch_limit}")
    if before.board_limit_watts != after.board_limit_watts:
        parts.append(limit_text(before.board_limit_watts, after.board_limit_watts))
    return ", ".join(parts)


def _nothing(
    needs: Requirements, found: OptionSet, outcome: Outcome, *, desired: Option | None, cap: str
) -> tuple[str, str]:
    if desired is None:
        frugal = _least(found)
        text = f"needs at least {frugal.accelerators} {frugal.accelerator_class}, which {_who_has(outcome, frugal)}"
        return reasons.NO_ACCELERATOR_OF_CLASS, f"{text}. Add nodes, or raise spec.priority above theirs."
    if cap in outcome.too_small:
        sentence = outcome.too_small[cap]
        by_name = {it.name: it for it in outcome.problem.rows.tree.caps}
        return (reasons.PAUSED if by_name[cap].pause_lowest else reasons.CAP_UNSATISFIABLE), sentence
    least = min(o.worst_case_milliwatts for o in found.options)
    text = f"needs {watts(least)} at least beside workloads of the same or a higher priority"
    return reasons.CAP_UNSATISFIABLE, f'"{cap}" leaves too little: {text}. Raise the cap or spec.priority.'


def _least(found: OptionSet) -> Option:
    """What needs the fewest accelerators."""
    return min(found.options, key=lambda o: (o.below_floor, o.accelerators, o.expected_milliwatts, o.id))


def _who_has(outcome: Outcome, wanted: Option) -> str:
    """`go to support/assistant (priority 900) and 2 more`: who got the accelerators of this class."""
    takers = [
        entry.needs
        for index, entry in enumerate(outcome.problem.entries)
        if (option := outcome.option(index)) is not None and option.accelerator_class == wanted.accelerator_class
    ]
    if not takers:
        return "no pool has free together"
    first = max(takers, key=lambda needs: (needs.priority, needs.key))
    more = f" and {len(takers) - 1} more" if len(takers) > 1 else ""
    return f"go to {first.namespace}/{first.name} (priority {first.priority}){more}"


def _no_option(needs: Requirements, found: OptionSet, ways_out: WaysOut) -> tuple[str, str]:
    causes = {rejection.reason for rejection in found.rejections}
    advice = ways_out_text(needs, ways_out)
    if _lacks_accelerators(causes):
        nearest = _nearest([r for r in found.rejections if r.reason == reasons.NO_INVENTORY], ways_out)
        return reasons.NO_ACCELERATOR_OF_CLASS, f"{nearest.subject}: {nearest.message}. {advice}"
    floor_first = causes & {reasons.BELOW_FLOOR, reasons.QUALITY_UNKNOWN} and not causes & (
        _LATE | {reasons.NO_PROFILE, reasons.NOT_SERVED_NATIVELY, reasons.NOT_SERVED_BY_ENGINE}
    )
    if floor_first:
        text = f"no model for {needs.task} that may be used reaches {needs.benchmark} {centi(needs.floor_centi)}"
        return reasons.NO_MODEL_MEETS_FLOOR, f"{text}. {advice}"
    if reasons.NO_PROFILE in causes and not ways_out.single and ways_out.pair is None:
        text = f"no model for {needs.task} that may be used has an energy profile"
        return reasons.NO_OPTION, f"{text}: measure one with `lowbeam calibrate`, or add an EnergyProfile."
    if not found.rejections:
        return reasons.NO_OPTION, f"the catalogue has no model for {needs.task}. Add a ModelCard and an EnergyProfile."
    nearest = _nearest(found.rejections, ways_out)
    return reasons.NO_OPTION, f"nothing can run it; the nearest, {nearest.subject}: {nearest.message}. {advice}"


def _lacks_accelerators(causes: set[str]) -> bool:
    return reasons.NO_INVENTORY in causes and not causes & _LATE


def _nearest(rejections: Sequence[Rejection], ways_out: WaysOut) -> Rejection:
    """What came nearest to running: got furthest in the chain, and is what the smallest change would run."""
    rank = {reason: place for place, reason in enumerate(_NEAREST_FIRST)}
    runs = next((f"{variant_name(it.option)}, {it.option.accelerator_class}" for it in ways_out.single), "")
    return min(rejections, key=lambda it: (rank.get(it.reason, len(rank)), not it.subject.startswith(runs)))


def ways_out_text(needs: Requirements, ways_out: WaysOut) -> str:
    """`One change would do: spec.quality.floor 97.5 -> 96.4 (roberta-large-sst2 bf16, 0.26 J per request), or ...`."""
    if ways_out.single:
        changes = [_what_it_gives(advice) for advice in ways_out.single[:MAX_WAYS_OUT]]
        return f"One change would do: {', or '.join(changes)}."
    if ways_out.pair is not None:
        last, first = ways_out.pair
        return f"No single change would do; two together would: {first.change}, and {_what_it_gives(last)}."
    return (
        f"No change of the spec would do: no profile for {needs.task} fits the nodes and the wishes. "
        "Add nodes, or a ModelCard with an EnergyProfile."
    )


def _what_it_gives(advice: Advice) -> str:
    return f"{advice.change} ({variant_name(advice.option)}, {joules(advice.option)} per request)"


def _usable(outcome: Outcome, cap: str) -> int:
    return int(outcome.problem.rows.limits[outcome.problem.rows.caps.index(cap)])
