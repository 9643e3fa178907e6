"""CPU time of planning and sizing on fleets of four sizes, and of the emergency shed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import median

from lowbeam.planning import Plan, ShedBook, ShedOrder, Sized, Snapshot, explained, plan, size_all

from . import instances
from .figures import Section, Table, number
from .reference import cpu_seconds, kernel_cpu_seconds

COUNTS = (8, 100, 500, 2000)
_CAP_PERCENT = 75
_SHED_PERCENT = 25
_ROUNDS = 3


def measure(say: Callable[[str], None]) -> Section:
    """All figures of the pure core."""
    kernel = kernel_cpu_seconds()
    plans: list[list[str]] = []
    parts: list[list[str]] = []
    for count in COUNTS:
        say(f"{count} workloads")
        start = instances.unlimited(count)
        free_s, free = _cold(start)
        capped = instances.under_cluster_cap(start, free, _CAP_PERCENT)
        capped_s, dimmed = _cold(capped)
        limited_s, limited = _cold(instances.under_every_limit(start, free))
        warm = [_warm(capped, dimmed, seed) for seed in range(1, _ROUNDS + 1)]
        warm_s = median(it[0] for it in warm), median(it[1] for it in warm)
        for name, (decided_s, seconds), answer in (
            ("no cap", free_s, free),
            (f"cluster cap at {_CAP_PERCENT} %", capped_s, dimmed),
            ("caps and stock of every kind", limited_s, limited),
            ("warm, 3 % drift, cluster cap", warm_s, dimmed),
        ):
            runs = sum(choice.option is not None for choice in answer.choices)
            watts = sum(c.option.worst_case_milliwatts for c in answer.choices if c.option) / 1_000_000
            row = [f"{count}: {name}", number(decided_s, 3), *_times(seconds, kernel), str(runs), number(watts)]
            plans.append(row)
        parts += _parts(count, capped, dimmed, kernel)
    return Section(
        title="Planner",
        about=(
            "Workloads over 4 tasks with the built-in catalogue; rates lognormal (sigma 1.6), 2 to 20 pools with two "
            "accelerator classes each, namespaces of Pareto sizes (`tools/bench/instances.py`). A cold plan sizes "
            "every workload and explains every choice; the operator acts when it has decided. Warm: the cycle after "
            "one that ran the same options; 3 % of the rates have moved by a tenth. "
            f"One kernel (`tools/bench/reference.py`) took {kernel * 1000:.0f} ms of CPU in this run."
        ),
        tables=[
            Table(
                ("plan", "decided after, CPU s", "and explained, CPU s", "kernels", "running", "committed kW"), plans
            ),
            Table(("step", "CPU ms", "kernels", "amount"), parts),
        ],
    )


def _cold(snapshot: Snapshot) -> tuple[tuple[float, float], Plan]:
    """The least CPU times (decided, explained) of a few plans that each begin without any remembered answer."""
    found = [_times_of(replace(snapshot, catalogue=instances.fresh_catalogue())) for _ in range(_ROUNDS)]
    return (min(it[0] for it in found), min(it[1] for it in found)), found[0][2]


def _warm(snapshot: Snapshot, before: Plan, seed: int) -> tuple[float, float]:
    """One cycle in the life of an operator: the sizer knows what ran last time."""
    settled = instances.running(snapshot, before)
    answer = plan(settled)
    return _times_of(instances.drifted(settled, answer, seed))[:2]


def _times_of(snapshot: Snapshot) -> tuple[float, float, Plan]:
    """CPU seconds until it is decided and until it is explained, and the plan."""
    decided_s, decided = cpu_seconds(lambda: plan(snapshot, explain=False))
    more_s, choices = cpu_seconds(lambda: explained(snapshot, decided.choices))
    return decided_s, decided_s + more_s, replace(decided, choices=choices)


def _parts(count: int, capped: Snapshot, dimmed: Plan, kernel: float) -> Iterable[list[str]]:
    fresh = replace(capped, catalogue=instances.fresh_catalogue())
    sizing_s, sized = cpu_seconds(lambda: size_all(fresh))
    offered = sum(len(it.options.options) for it in sized)
    yield [
        f"{count}: size all workloads",
        *_times(sizing_s, kernel, milli=True),
        f"{offered} options, {sizing_s / offered * 1e6:.0f} us each",
    ]
    now = instances.running(capped, dimmed)
    book_s, book = cpu_seconds(lambda: _book(now, size_all(now)))
    yield [f"{count}: shed book, once per plan", *_times(book_s, kernel, milli=True), ""]
    drawn = sum(choice.option.worst_case_milliwatts for choice in dimmed.choices if choice.option)
    order = ShedOrder("cluster", drawn * _SHED_PERCENT // 100, committed=True)
    shed_s, sheds = min((cpu_seconds(lambda: book.choose([order])) for _ in range(_ROUNDS)), key=lambda it: it[0])
    yield [
        f"{count}: choose sheds for {_SHED_PERCENT} % of the watts",
        *_times(shed_s, kernel, milli=True),
        f"{len(sheds)} moves",
    ]


def _book(snapshot: Snapshot, sized: Iterable[Sized]) -> ShedBook:
    return ShedBook(snapshot, {it.state.requirements.key: it.options for it in sized})


def _times(seconds: float, kernel: float, *, milli: bool = False) -> list[str]:
    shown = number(seconds * 1000, 2) if milli else number(seconds, 3)
    return [shown, number(seconds / kernel, 2)]
