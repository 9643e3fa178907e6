"""What must hold for every plan (DESIGN.md section 8: 1, 2 and 6), on random fleets of the built-in catalogue."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import Catalogue, Reasoning
from lowbeam.planning import Lever, Plan, Snapshot, WorkloadState, plan, size_all
from lowbeam.planning.feasibility import violations
from lowbeam.planning.shed import ShedOrder, choose_sheds
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing import Inventory
from tests.builders import ALL_LEVERS, WorkloadBuilder, cap, workload

T = TypeVar("T")
CATALOGUE = load_builtin()
TASKS = sorted({profile.task for profile in CATALOGUE.profiles} & set(CATALOGUE.tasks))
POOLS = ("", "rack")


@st.composite
def wishes(draw: st.DrawFn, number: int) -> WorkloadBuilder:
    facts = CATALOGUE.tasks[draw(st.sampled_from(TASKS))]
    consent = draw(st.booleans())
    return (
        workload(f"w{number}")
        .in_namespace(draw(st.sampled_from(["x", "y"])))
        .task(facts.name)
        .rate(draw(st.sampled_from([0, 0.5, 4, 30])))
        .tokens(draw(st.sampled_from([100, 900])), draw(st.sampled_from([100, 400])) if facts.generative else 1)
        .priority(draw(st.sampled_from([100, 500, 900])))
        .replicas(most=draw(st.sampled_from([1, 4, 20])))
        .within(facts.end_to_end_ms, facts.time_to_first_token_ms, facts.inter_token_ms)
        .only(
            benchmark=facts.benchmark,
            floor_centi=draw(st.sampled_from([0, facts.floor_centi])),
            target_centi=facts.target_centi,
            below_floor_when_capped=consent,
            generative_allowed=facts.generative,
            reasoning=draw(st.sampled_from([Reasoning.OFF, Reasoning.HIGH])),
        )
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    states = [draw(wishes(i)).state() for i in range(draw(st.integers(1, 6)))]
    levers = tuple(draw(st.sets(st.sampled_from(ALL_LEVERS), min_size=1)))
    pause = draw(st.booleans())
    caps = [
        cap("cluster", draw(st.integers(0, 4000)), pause_lowest=pause, levers=levers),
        cap("rack", draw(st.integers(0, 1500)), pool="rack", parent="cluster"),
        cap("tenant", draw(st.integers(0, 1500)), namespaces=["x"], enforce=draw(st.booleans())),
    ]
    limits = draw(st.sampled_from([(), ("rack",), POOLS]))
    shelves = tuple(
        Inventory(pool, name, draw(st.sampled_from([0, 2, 8])), 8, board_limits=pool in limits)
        for pool in POOLS
        for name in sorted(CATALOGUE.accelerator_classes)
    )
    shot = Snapshot(CATALOGUE, build_cap_tree(caps), shelves, tuple(states))
    if draw(st.booleans()):  # a second cycle, from what the first decided without caps
        before = plan(replace(shot, caps=build_cap_tree([])), explain=False)
        shot = replace(shot, workloads=tuple(_running(state, before) for state in states))
    return shot


def _running(state: WorkloadState, before: Plan) -> WorkloadState:
    choice = before.choice(*state.requirements.key)
    return replace(state, running=None if choice is None else choice.option)


@settings(max_examples=40, deadline=None)
@given(snapshots())
def test_a_plan_breaks_no_cap_no_inventory_and_no_floor(shot: Snapshot) -> None:
    made = plan(shot)
    assert violations(shot, made.choices) == ()
    for name, usable in ((c.name, u) for c, u in shot.caps.enforced()):
        assert made.cap_milliwatts[name] <= usable
    for choice, state in zip(made.choices, sorted(shot.workloads, key=lambda s: s.requirements.key), strict=True):
        needs, option = state.requirements, choice.option
        assert choice.message
        if option is None:
            continue
        if needs.floor_centi and not needs.below_floor_when_capped:
            assert option.quality_centi is not None
            assert option.quality_centi >= needs.floor_centi
        if option.below_floor:
            assert choice.binding_cap, "consent is for caps only"
        if option.board_limit_watts:
            where = (option.pool, option.accelerator_class)
            assert any(row.board_limits for row in shot.inventory if (row.pool, row.accelerator_class) == where)
            assert option.worst_case_milliwatts <= option.board_limit_watts * 1000 * option.accelerators


@settings(max_examples=25, deadline=None)
@given(snapshots(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_arrive_changes_nothing(shot: Snapshot, rng: random.Random) -> None:
    assert plan(shuffled(shot, rng)) == plan(shot)


@settings(max_examples=25, deadline=None)
@given(snapshots())
def test_a_cap_without_the_lever_limits_no_boards_beyond_what_runs_without_caps(shot: Snapshot) -> None:
    levers = tuple(it for it in ALL_LEVERS if it != Lever.POWER_LIMIT)
    caps = build_cap_tree([replace(it, levers=levers) for it in shot.caps.caps])
    made = plan(replace(shot, caps=caps), explain=False)
    for choice in made.choices:
        if choice.option is not None and choice.desired is not None and choice.option.board_limit_watts:
            assert choice.option.board_limit_watts == choice.desired.board_limit_watts


@settings(max_examples=25, deadline=None)
@given(snapshots(), st.integers(1, 5000))
def test_a_shed_frees_no_more_than_it_says_and_breaks_nothing(shot: Snapshot, watts: int) -> None:
    sets = {it.state.requirements.key: it.options for it in size_all(shot)}
    now = {state.requirements.key: state.running for state in shot.workloads}
    sheds = choose_sheds(shot, [ShedOrder("cluster", watts * 1000, committed=True)], sets)
    assert len({it.key for it in sheds}) == len(sheds)
    for it in sheds:
        before = now[it.key]
        assert before is not None
        assert it.freed_milliwatts >= 0
        if it.option is not None:
            assert it.option.worst_case_milliwatts <= before.worst_case_milliwatts
            assert it.option.pool == before.pool


def shuffled(shot: Snapshot, rng: random.Random) -> Snapshot:
    def mixed(items: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(rng.sample(items, len(items)))

    known = shot.catalogue
    catalogue = Catalogue(
        models=dict(mixed(tuple(known.models.items()))),
        accelerator_classes=dict(mixed(tuple(known.accelerator_classes.items()))),
        profiles=mixed(known.profiles),
        tasks=dict(mixed(tuple(known.tasks.items()))),
    )
    caps = build_cap_tree(mixed(shot.caps.caps))
    return Snapshot(catalogue, caps, mixed(shot.inventory), mixed(shot.workloads))


PROGRAM = """
import json
from lowbeam.catalog import load_builtin
from lowbeam.planning import Snapshot, plan, plan_data
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing import Inventory
from tests.builders import cap, workload
catalogue = load_builtin()
tasks = sorted(catalogue.tasks)
states = tuple(
    workload(f"w{i}").task(tasks[i % len(tasks)]).rate(1 + i % 7).within().priority(100 * (i % 3))
    .tokens(200, 200 if catalogue.tasks[tasks[i % len(tasks)]].generative else 1).state()
    for i in range(24)
)
shelves = tuple(Inventory(p, name, 16, 8) for p in ("a", "b") for name in set(catalogue.accelerator_classes))
shot = Snapshot(catalogue, build_cap_tree([cap("cluster", 300)]), shelves, states)
print(json.dumps(plan_data(plan(shot), {it.requirements.key: it.requirements for it in states}, shot.caps)))
"""


def answer_with(hash_seed: str) -> str:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=root, capture_output=True, text=True, check=True
    ).stdout


def test_another_hash_seed_changes_nothing() -> None:
    answers = {answer_with(seed) for seed in ("0", "1", "42")}
    assert len(answers) == 1
    assert '"reason": "Dimmed"' in answers.pop()
