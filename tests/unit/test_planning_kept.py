"""What keeps running without an option, or is not planned, takes its watts and accelerators from the others' room."""

from __future__ import annotations

import dataclasses

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning import Holding, Plan, Snapshot, plan
from lowbeam.power.caps import CapTree
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing import Inventory
from tests.builders import cap, snapshot, stock, workload
from tests.plans import BOTH, CATALOGUE, ROOM, chosen, planned, worst_watts


def test_watts_of_pods_that_are_not_planned_are_not_given_to_others() -> None:
    free = snapshot([workload("w").rate(5)], CATALOGUE, ROOM, cap("c", 100))
    assert plan(free).choices[0].option is not None

    taken = plan(dataclasses.replace(free, reserved_milliwatts={"c": 80_000})).choices[0]

    assert taken.option is None
    assert "c" in taken.message


def test_what_keeps_running_without_an_option_leaves_the_others_only_the_rest() -> None:
    edited, other = workload("edited").rate(30).priority(100), workload("other").rate(60)
    before = planned(edited, other)
    runs = chosen(before, "edited")
    asked = (edited.floor("99").running(runs), other.running(chosen(before, "other")))
    usable = worst_watts(before) - 50

    made = planned(*asked, caps=(cap("cluster", usable),))

    choice = made.choice("team", "edited")
    assert choice is not None
    assert choice.keeps_running
    assert runs.worst_case_milliwatts + made.cap_milliwatts["cluster"] <= usable * 1000
    assert made.choice("team", "other") is not None
    assert chosen(made, "other").unserved_millirps > 0
    assert made.unsatisfiable_caps == {}


def test_what_a_successor_finds_running_without_an_option_leaves_the_others_only_the_rest() -> None:
    other = workload("other").rate(60)
    least = chosen(planned(other), "other")
    boards = sum(row.accelerators for row in ROOM if row.accelerator_class == least.accelerator_class)
    found = Holding(least.pool, least.accelerator_class, boards - least.accelerators, 300_000)
    unknown = dataclasses.replace(workload("edited").rate(30).priority(100).floor("99").state(), pods=(found,))

    def made(watts: int) -> Plan:
        caps = build_cap_tree([cap("cluster", watts)])
        return plan(Snapshot(CATALOGUE, caps, ROOM, (unknown, other.state())))

    roomy = made(300 + least.worst_case_milliwatts // 1000 + 1)
    assert chosen(roomy, "other") == least
    assert roomy.reserved_milliwatts == {"cluster": 300_000}
    tight = made(300 + least.worst_case_milliwatts // 1000 - 1)
    short = tight.choice("team", "other")
    assert short is not None
    assert short.option is None or short.option.worst_case_milliwatts < least.worst_case_milliwatts


def test_what_keeps_running_takes_the_boards_that_its_pods_hold_and_no_more() -> None:
    edited, other = workload("edited").rate(120).priority(100), workload("other").rate(120).priority(900)
    before = planned(edited, other)
    runs, serves = chosen(before, "edited"), chosen(before, "other")
    pending = Holding(runs.pool, "", 0, runs.worst_case_milliwatts)
    bound = Holding(runs.pool, runs.accelerator_class, runs.accelerators, runs.worst_case_milliwatts)
    room = stock(gpu=serves.accelerators)  # its node is gone

    def made(pod: Holding) -> Plan:
        kept = dataclasses.replace(edited.floor("99").running(runs).state(), pods=(pod,))
        return plan(Snapshot(CATALOGUE, CapTree(), room, (kept, other.running(serves).state())))

    assert chosen(made(pending), "other") == serves
    short = made(bound).choice("team", "other")
    assert short is not None
    assert short.option != serves


def test_what_runs_is_not_ended_while_others_hold_what_it_may_have_instead() -> None:
    asked = workload("edited").rate(2)
    runs = chosen(planned(asked), "edited")
    elsewhere = asked.only(accelerator_classes=("gpu-2",)).running(runs)
    room = (*ROOM, Inventory("", "gpu-2", 0, 0, held_by_others=8))
    choice = plan(snapshot([elsewhere], BOTH, room)).choices[0]
    assert (choice.option, choice.reason, choice.keeps_running) == (None, reasons.NO_ACCELERATOR_OF_CLASS, True)
    gone = plan(snapshot([elsewhere], BOTH, room[1:])).choices[0]
    assert (gone.reason, gone.keeps_running) == (reasons.NO_ACCELERATOR_OF_CLASS, False)


def test_a_cap_below_what_keeps_running_without_an_option_says_so() -> None:
    asked = workload("edited").rate(30)
    runs = chosen(planned(asked), "edited")
    small = cap("small", runs.worst_case_milliwatts // 1000 - 1)
    made = planned(asked.floor("99").running(runs), caps=(small, cap("large", 5000)))
    assert list(made.unsatisfiable_caps) == ["small"]
    assert "keep running without an option" in made.unsatisfiable_caps["small"]


@pytest.mark.parametrize("ends", ["no accelerators", "no replicas", "never ran"])
def test_nothing_is_set_aside_for_what_does_not_go_on(ends: str) -> None:
    asked = workload("edited").rate(30)
    runs = chosen(planned(asked), "edited")
    asked = (
        asked.replicas(fixed=0) if ends == "no replicas" else asked if ends == "no accelerators" else asked.floor("99")
    )
    room = () if ends == "no accelerators" else ROOM
    made = planned(asked.running(None if ends == "never ran" else runs), caps=(cap("c", 5000),), inventory=room)
    assert made.reserved_milliwatts == {"c": 0}
