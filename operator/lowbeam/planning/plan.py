"""The plan: one choice for every workload of a snapshot, under all caps together.

    1. size: the options of each workload; what runs without one, and stays, is set aside
    2. desire: the best for each within the inventory, as if there were no caps
    3. caps: if the desires fit, they are the plan
    4. dim: otherwise the exact optimum under the caps, with the levers that they allow
    5. check: an independent integer check; a plan that fails it never leaves
    6. explain: reasons, prices, alternatives

Pure: the same snapshot gives the same plan. Raises nothing for what a snapshot may hold: a workload that cannot run is
a choice with a reason. What is remembered between calls (sizing answers) never changes an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lowbeam.planning.advice import Adviser
from lowbeam.planning.caps import capped_columns, overtaken_caps, pressing_caps, too_small_caps
from lowbeam.planning.choices import choice_of, stays_without_option
from lowbeam.planning.feasibility import committed_milliwatts, violations
from lowbeam.planning.greedy import first_answer
from lowbeam.planning.optimise import Answer, solve
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
    options = sizer.options_for_all([(state.requirements, state.running) for state in states])
    return tuple(Sized(*it) for it in zip(states, options, strict=True))


def plan(snapshot: Snapshot, *, explain: bool = True) -> Plan:
    """The best choice for all workloads together; never one that breaks a cap, the inventory or a floor.

    Without `explain`, alternatives and recommendations wait for `explained`: they size each workload a few times more.
    """
    answer = _decided(snapshot)
    return replace(answer, choices=explained(snapshot, answer.choices)) if explain else answer


def explained(snapshot: Snapshot, choices: Sequence[Choice], *, known: bool = False) -> tuple[Choice, ...]:
    """Choices of a plan of this snapshot with their alternatives and recommendations; changes no decision.

    `known`: only with those that are remembered from an earlier cycle, which costs next to nothing.
    """
    adviser = _memory_for(snapshot).adviser
    needs = {state.requirements.key: state.requirements for state in snapshot.workloads}
    ask = adviser.known if known else adviser.explain
    made = []
    for choice in choices:
        if choice.desired is None:  # there is nothing to compare with
            made.append(replace(choice, explained=True))
            continue
        answer = ask(needs[choice.key], option=choice.option, desired=choice.desired, cap=choice.binding_cap)
        if answer is not None:
            choice = replace(
                choice, alternatives=answer.alternatives, recommendations=answer.recommendations, explained=True
            )
        made.append(choice)
    return tuple(made)


def _decided(snapshot: Snapshot) -> Plan:
    sized = size_all(snapshot)
    staying = [it for it in sized if not _under_a_cap(it) and _stays(snapshot, it)]
    kept = _milliwatts_by_cap(snapshot, staying)
    reserved = {name: snapshot.reserved_milliwatts.get(name, 0) + milliwatts for name, milliwatts in kept.items()}
    boards = Counter(snapshot.reserved_accelerators)
    for holding in (holding for it in staying for holding in it.state.pods):
        boards[holding.pool, holding.accelerator_class] += holding.accelerators
    snapshot = replace(snapshot, reserved_milliwatts=reserved, reserved_accelerators=boards)
    free = _without_caps(snapshot, sized)
    outcome = free if _keeps_caps(snapshot, sized, free.desired) else _under_caps(snapshot, sized, free.desired)
    given_up = free.given_up + (0 if outcome is free else outcome.given_up)
    choices = _choices(snapshot, sized, outcome)
    if violations(snapshot, choices):  # cannot happen by construction; the greedy answer needs no solver to be trusted
        problem = outcome.problem
        answer = first_answer(problem, outcome.allowed)
        outcome = Outcome(problem, answer, outcome.allowed, free.desired, outcome.too_small, proven=False)
        choices = _choices(snapshot, sized, outcome)
    _memory_for(snapshot).planned(len(sized))
    return Plan(
        choices=choices,
        cap_milliwatts=committed_milliwatts(snapshot, choices),
        cap_price={cap.name: 0.0 for cap, _ in snapshot.caps.enforced()} | cap_prices(outcome),
        unsatisfiable_caps=dict(outcome.too_small) | overtaken_caps(snapshot.caps, reserved, kept),
        reserved_milliwatts=reserved,
        proven=free.proven and outcome.proven,
        passes_given_up=given_up,
    )


def _stays(snapshot: Snapshot, it: Sized) -> bool:
    """Whether the workload keeps what runs where the plan has no option for it."""
    if it.state.requirements.fixed_replicas == 0:
        return False
    return stays_without_option(it.options, boards_there=_boards_there(snapshot, it.state))


def _boards_there(snapshot: Snapshot, state: WorkloadState) -> bool:
    """Whether what runs still has accelerators: of a replica at least, or those of its pods."""
    runs = state.running
    if runs is None:
        return any(holding.accelerator_class for holding in state.pods)
    here = (runs.pool, runs.accelerator_class)
    have = sum(row.accelerators for row in snapshot.inventory if (row.pool, row.accelerator_class) == here)
    return have >= max(1, runs.accelerators_per_replica)


def _milliwatts_by_cap(snapshot: Snapshot, staying: Iterable[Sized]) -> dict[str, int]:
    """Per cap: what may be drawn by what keeps running without an option. Its target counts, where it is known."""
    totals = {cap.name: 0 for cap in snapshot.caps.caps}
    for it in staying:
        runs, namespace = it.state.running, it.state.requirements.namespace
        drawn = [(holding.pool, holding.milliwatts) for holding in it.state.pods]
        for pool, milliwatts in drawn if runs is None else [(runs.pool, runs.worst_case_milliwatts)]:
            for cap in snapshot.caps.caps:
                if cap.covers(namespace, pool):
                    totals[cap.name] += milliwatts
    return totals


def _without_caps(snapshot: Snapshot, sized: Sequence[Sized]) -> Outcome:
    """What everybody would run within the inventory if there were no caps.

    Whoever gets nothing with all of spec.scaling.minReplicas, as others hold the accelerators, may have fewer replicas.
    """
    options = [_uncapped(it) for it in sized]
    problem, answer = _solved(snapshot, sized, options)
    fewer = [
        _above_the_floor(it) if problem.option[column] is None and _counts_from_the_least(it) else options[index]
        for index, (it, column) in enumerate(zip(sized, answer.choice, strict=True))
    ]
    given_up = 0
    if fewer != options:
        given_up = answer.given_up
        problem, answer = _solved(snapshot, sized, fewer)
    desired = tuple(problem.option[column] for column in answer.choice)
    given_up += answer.given_up
    return Outcome(
        problem, answer.choice, _only(problem, answer.choice), desired, proven=answer.exact, given_up=given_up
    )


def _solved(
    snapshot: Snapshot, sized: Sequence[Sized], options: Sequence[tuple[Option, ...]]
) -> tuple[Problem, Answer]:
    entries = [_entry(*it) for it in zip(sized, options, strict=True)]
    problem = build(entries, rows_of(snapshot, with_caps=False))
    return problem, solve(problem, np.ones(problem.owner.size, dtype=np.bool_))


def _keeps_caps(snapshot: Snapshot, sized: Sequence[Sized], desired: Sequence[Option | None]) -> bool:
    """Whether the desires are the plan: no cap is broken, and nobody is held at something else."""
    rows = rows_of(snapshot)
    used = np.zeros(rows.limits.size, dtype=np.int64)
    for it, option in zip(sized, desired, strict=True):
        if it.state.held and it.options.running is not None and option != it.options.running:
            return False
        if option is not None:
            for row, amount in rows.usage(it.state.requirements.namespace, option):
                used[row] += amount
    return bool((used <= rows.limits).all())


def _under_caps(snapshot: Snapshot, sized: Sequence[Sized], desired: Sequence[Option | None]) -> Outcome:
    entries = [_entry(it, _under_a_cap(it, dimmable=want is not None)) for it, want in zip(sized, desired, strict=True)]
    problem = build(entries, rows_of(snapshot))
    held = {i for i, it in enumerate(sized) if it.state.held and it.options.running is not None}
    wanted = _columns_of(problem, [it.options.running if i in held else desired[i] for i, it in enumerate(sized)])
    pressing = pressing_caps(problem, wanted)
    uncapped = _flags(problem, [{*_uncapped(it), want} for it, want in zip(sized, desired, strict=True)])
    allowed = capped_columns(problem, desired, pressing, uncapped)
    given_up = 0
    for pinned in (held, set[int]()):
        usable = _pin(problem, allowed, sized, pinned)
        too_small, usable = too_small_caps(problem, usable)
        answer = solve(problem, usable)
        given_up += answer.given_up
        if all(problem.option[answer.choice[i]] is not None for i in pinned):
            break  # otherwise a pinned setting is what does not fit: safety goes before calm
    return Outcome(problem, answer.choice, usable, tuple(desired), too_small, proven=answer.exact, given_up=given_up)


def _entry(it: Sized, options: Iterable[Option]) -> Entry:
    needs = it.state.requirements
    return Entry(
        needs, tuple(options), running=it.options.running, may_rest=not it.options.options or needs.fixed_replicas == 0
    )


def _under_a_cap(it: Sized, *, dimmable: bool = False) -> tuple[Option, ...]:
    """Options while caps bind: a `dimmable` workload would run without them, a held one may have to stay as it is."""
    return it.options.options if dimmable or it.state.held else _uncapped(it)


def _uncapped(it: Sized) -> tuple[Option, ...]:
    """Options that need no cap as an excuse: not below the floor, as many replicas as an autoscaler asked for, and no
    fewer than spec.scaling.minReplicas where an option has so many."""
    options = _above_the_floor(it)
    wanted = it.state.requirements.min_replicas if _counts_from_the_least(it) else None
    if not options or (wanted is not None and wanted <= 1):
        return options
    most = max(o.replicas for o in options)
    least = most if wanted is None else min(most, wanted)
    return tuple(o for o in options if o.replicas >= least)


def _above_the_floor(it: Sized) -> tuple[Option, ...]:
    options = it.options.options
    return tuple(o for o in options if not o.below_floor) if any(o.below_floor for o in options) else options


def _counts_from_the_least(it: Sized) -> bool:
    """Whether Lowbeam itself chooses the replicas, from spec.scaling.minReplicas up."""
    return it.state.requirements.fixed_replicas is None


def _columns_of(problem: Problem, options: Sequence[Option | None]) -> Ints:
    columns = []
    for index, option in enumerate(options):
        span = problem.columns_of(index)
        columns.append(next(c for c in range(span.start, span.stop) if problem.option[c] == option))
    return np.array(columns, dtype=np.int64)


def _flags(problem: Problem, options: Sequence[Collection[Option | None]]) -> Flags:
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


def _choices(snapshot: Snapshot, sized: Sequence[Sized], outcome: Outcome) -> tuple[Choice, ...]:
    adviser = _memory_for(snapshot).adviser
    return tuple(
        choice_of(adviser, it.state, it.options, outcome, i, stays=_stays(snapshot, it)) for i, it in enumerate(sized)
    )


@dataclass(slots=True)
class _Memory:
    """What is remembered between plans, for one catalogue and one inventory."""

    sizer: Sizer
    adviser: Adviser
    _largest: int = 0
    _since: int = 0
    """Workloads planned since something was forgotten."""

    def planned(self, workloads: int) -> None:
        """Forget what is old. One workload that is planned alone, for advice, must not cost the whole fleet's answers:
        a generation ends when it has seen twice the largest fleet."""
        self._largest = max(self._largest, workloads)
        self._since += workloads
        if self._since >= 2 * self._largest:
            self._since = 0
            self.sizer.next_cycle()
            self.adviser.next_cycle()


_remembered: list[_Memory] = []


def sizer_for(snapshot: Snapshot) -> Sizer:
    """The sizer of this catalogue and inventory."""
    return _memory_for(snapshot).sizer


def _memory_for(snapshot: Snapshot) -> _Memory:
    """The last memory is kept: between cycles the catalogue changes rarely, the inventory now and then."""
    wanted = tuple(sorted(snapshot.inventory, key=lambda row: (row.pool, row.accelerator_class)))
    for memory in _remembered:
        if memory.sizer.catalogue is snapshot.catalogue:
            if memory.sizer.inventory == wanted:
                return memory
            sizer = memory.sizer.with_inventory(wanted)
            break
    else:
        sizer = Sizer(snapshot.catalogue, wanted)
    memory = _Memory(sizer, Adviser(sizer))
    _remembered[:] = [memory]
    return memory
