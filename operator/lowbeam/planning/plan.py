"""The plan: one choice for every workload of a snapshot, under all caps together.

    1. size: the options of each workload
    2. desire: the best for each within the inventory, as if there were no caps
    3. caps: if the desires fit, they are the plan
    4. dim: otherwise the exact optimum under the caps, with the levers that they allow
    5. check: an independent integer check; a plan that fails it never leaves
    6. explain: reasons, prices, alternatives

Pure: the same snapshot gives the same plan. Raises nothing for what a snapshot may hold: a workload that cannot run is
a choice with a reason. What is remembered between calls (sizing answers) never changes an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lowbeam.planning.caps import capped_columns, pressing_caps, too_small_caps
from lowbeam.planning.choices import choice_of
from lowbeam.planning.feasibility import committed_milliwatts, violations
from lowbeam.planning.greedy import first_answer
from lowbeam.planning.optimise import solve
from lowbeam.planning.outcome import Outcome
from lowbeam.planning.plan_types import Choice, Plan
from lowbeam.planning.prices import cap_prices
from lowbeam.planning.problem import Entry, Flags, Ints, Problem, build, rows_of
from lowbeam.planning.snapshot import Snapshot, WorkloadState
from lowbeam.sizing.options import Option, OptionSet
from lowbeam.sizing.size import Sizer


@dataclass(frozen=True, slots=True)
class Sized:
    """A workload with its options: what `plan` and the guard's `choose_sheds` share."""

    state: WorkloadState
    options: OptionSet


def size_all(snapshot: Snapshot) -> tuple[Sized, ...]:
    """Options of every workload, in canonical order."""
    sizer = sizer_for(snapshot)
    states = sorted(snapshot.workloads, key=lambda s: s.requirements.key)
    return tuple(Sized(state, sizer.options_for(state.requirements, state.running)) for state in states)


def plan(snapshot: Snapshot, *, explain: bool = True) -> Plan:
    """The best choice for all workloads together; never one that breaks a cap, the inventory or a floor.

    Without `explain`, alternatives and recommendations stay empty: they size each workload a few times more.
    """
    sized = size_all(snapshot)
    desired = _desired(snapshot, sized)
    outcome = _under_caps(snapshot, sized, desired)
    choices = _choices(snapshot, sized, outcome, explain=explain)
    if violations(snapshot, choices):  # cannot happen by construction; the greedy answer needs no solver to be trusted
        problem = outcome.problem
        safe = Outcome(problem, first_answer(problem, outcome.allowed), outcome.allowed, desired, outcome.too_small)
        choices = _choices(snapshot, sized, safe, explain=explain)
    sizer_for(snapshot).next_cycle()
    return Plan(
        choices=choices,
        cap_milliwatts=committed_milliwatts(snapshot, choices),
        cap_price=cap_prices(outcome),
        unsatisfiable_caps=dict(outcome.too_small),
    )


def _desired(snapshot: Snapshot, sized: Sequence[Sized]) -> tuple[Option | None, ...]:
    entries = [_entry(it, _uncapped(it)) for it in sized]
    problem = build(entries, rows_of(snapshot.caps, snapshot.inventory, with_caps=False))
    answer = solve(problem, np.ones(problem.owner.size, dtype=np.bool_))
    return tuple(problem.option[column] for column in answer.choice)


def _under_caps(snapshot: Snapshot, sized: Sequence[Sized], desired: Sequence[Option | None]) -> Outcome:
    entries = [
        _entry(it, it.options.options if d is not None or it.state.held else _uncapped(it))
        for it, d in zip(sized, desired, strict=True)
    ]
    problem = build(
        entries, rows_of(snapshot.caps, snapshot.inventory, reserved_milliwatts=snapshot.reserved_milliwatts)
    )
    held = {i for i, it in enumerate(sized) if it.state.held and it.options.running is not None}
    wanted = _columns_of(problem, [it.options.running if i in held else desired[i] for i, it in enumerate(sized)])
    pressing = pressing_caps(problem, wanted)
    if not pressing and problem.fits(wanted):
        return Outcome(problem, wanted, _only(problem, wanted), tuple(desired), {})
    uncapped = _flags(problem, [set(_uncapped(it)) for it in sized])
    allowed = capped_columns(problem, desired, pressing, uncapped)
    for pinned in (held, set[int]()):
        usable = _pin(problem, allowed, sized, pinned)
        too_small, usable = too_small_caps(problem, usable)
        choice = solve(problem, usable).choice
        if all(problem.option[choice[i]] is not None for i in pinned):
            break  # otherwise a pinned setting is what does not fit: safety goes before calm
    return Outcome(problem, choice, usable, tuple(desired), too_small)


def _entry(it: Sized, options: Iterable[Option]) -> Entry:
    needs = it.state.requirements
    return Entry(
        needs, tuple(options), running=it.options.running, may_rest=not it.options.options or needs.fixed_replicas == 0
    )


def _uncapped(it: Sized) -> tuple[Option, ...]:
    """Options that need no cap as an excuse: not below the floor, and as many replicas as an autoscaler asked for."""
    options = tuple(o for o in it.options.options if not o.below_floor)
    if it.state.requirements.fixed_replicas is None or not options:
        return options
    most = max(o.replicas for o in options)
    return tuple(o for o in options if o.replicas == most)


def _columns_of(problem: Problem, options: Sequence[Option | None]) -> Ints:
    columns = []
    for index, option in enumerate(options):
        span = problem.columns_of(index)
        columns.append(next(c for c in range(span.start, span.stop) if problem.option[c] == option))
    return np.array(columns, dtype=np.int64)


def _flags(problem: Problem, options: Sequence[set[Option]]) -> Flags:
    return np.array(
        [o is None or o in options[w] for o, w in zip(problem.option, problem.owner, strict=True)], dtype=np.bool_
    )


def _only(problem: Problem, columns: Ints) -> Flags:
    flags = np.zeros(problem.owner.size, dtype=np.bool_)
    flags[columns] = True
    return flags


def _pin(problem: Problem, allowed: Flags, sized: Sequence[Sized], pinned: set[int]) -> Flags:
    flags = allowed.copy()
    for index in pinned:
        span = problem.columns_of(index)
        running = sized[index].options.running
        flags[span] = [o is None or o == running for o in problem.option[span]]
    return flags


def _choices(snapshot: Snapshot, sized: Sequence[Sized], outcome: Outcome, *, explain: bool) -> tuple[Choice, ...]:
    sizer = sizer_for(snapshot)
    return tuple(choice_of(sizer, it.state, it.options, outcome, i, explain=explain) for i, it in enumerate(sized))


_remembered: list[Sizer] = []


def sizer_for(snapshot: Snapshot) -> Sizer:
    """The sizer of this catalogue and inventory; the last one is kept, as both change rarely between cycles."""
    wanted = tuple(sorted(snapshot.inventory, key=lambda row: (row.pool, row.accelerator_class)))
    for sizer in _remembered:
        if sizer.catalogue is snapshot.catalogue and sizer.inventory == wanted:
            return sizer
    sizer = Sizer(snapshot.catalogue, wanted)
    _remembered[:] = [sizer]
    return sizer
