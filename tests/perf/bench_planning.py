"""Figures of sizing, planning and shedding: `python -m tests.perf.bench_planning [WORKLOADS ...]`.

Random workloads of the built-in catalogue (fixed seed) in 7 namespaces, 2 pools, 4 priorities; caps at a share of what
the plan without caps commits. CPU seconds of one thread; "cold" is a first cycle, "warm" one with the same demand.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from lowbeam.catalog import load_builtin
from lowbeam.planning import Snapshot, WorkloadState, plan, size_all
from lowbeam.planning.shed import ShedBook, ShedOrder
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing import Inventory
from tests.builders import cap, workload

CATALOGUE = load_builtin()
SHARES = (0.9, 0.75, 0.5)
T = TypeVar("T")


def fleet(count: int) -> tuple[WorkloadState, ...]:
    rng = random.Random(count)
    tasks = sorted({p.task for p in CATALOGUE.profiles} & set(CATALOGUE.tasks))
    states = []
    for number in range(count):
        facts = CATALOGUE.tasks[rng.choice(tasks)]
        states.append(
            workload(f"w{number:04d}")
            .in_namespace(f"ns{number % 7}")
            .task(facts.name)
            .rate(rng.lognormvariate(1.0, 1.2))
            .tokens(rng.choice([200, 500, 900]), rng.choice([100, 300, 400]) if facts.generative else 1)
            .priority(rng.choice([100, 300, 500, 900]))
            .within(facts.end_to_end_ms, facts.time_to_first_token_ms, facts.inter_token_ms)
            .only(
                benchmark=facts.benchmark,
                floor_centi=facts.floor_centi,
                target_centi=facts.target_centi,
                generative_allowed=facts.generative,
            )
            .state()
        )
    return tuple(states)


def timed(what: str, run: Callable[[], T], note: Callable[[T], str] = lambda _: "") -> T:
    began = time.process_time()
    answer = run()
    print(f"  {what:<34}{(time.process_time() - began) * 1000:>9.1f} ms  {note(answer)}".rstrip())
    return answer


def measure(count: int) -> None:
    shelves = tuple(
        Inventory(pool, name, max(4, count * 4), 8) for name in CATALOGUE.accelerator_classes for pool in ("a", "b")
    )
    free = Snapshot(CATALOGUE, build_cap_tree([]), shelves, fleet(count))
    print(f"{count} workloads")
    timed("options, cold", lambda: size_all(free), lambda s: f"{sum(len(it.options.options) for it in s)} options")
    timed("plan without caps, no explanations", lambda: plan(free, explain=False))
    timed("plan without caps, cold explanations", lambda: plan(free))
    made = timed("plan without caps, warm", lambda: plan(free))
    watts = sum(c.option.worst_case_milliwatts for c in made.choices if c.option) // 1000
    for share in SHARES:
        capped = replace(free, caps=build_cap_tree([cap("cluster", int(watts * share))]))
        timed(
            f"plan at {share:.0%} of {watts / 1000:.0f} kW",
            lambda capped=capped: plan(capped, explain=False),
            lambda p: f"{sum(c.option != c.desired for c in p.choices)} dimmed",
        )
    now = {c.key: c.option for c in made.choices}
    states = tuple(replace(s, running=now[s.requirements.key]) for s in free.workloads)
    shot = Snapshot(CATALOGUE, build_cap_tree([cap("cluster", watts)]), shelves, states)
    sets = {it.state.requirements.key: it.options for it in size_all(shot)}
    book = timed("shed book", lambda: ShedBook(shot, sets))
    timed("shed a quarter", lambda: book.choose([ShedOrder("cluster", watts * 250)]), lambda s: f"{len(s)} moves")


if __name__ == "__main__":
    plan(Snapshot(CATALOGUE, build_cap_tree([]), (), fleet(1)))  # imports and tables
    for argument in sys.argv[1:] or ["8", "100", "500"]:
        measure(int(argument))
