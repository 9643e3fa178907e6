"""What spec.scaling.minReplicas asks for is kept where any accelerators allow it, and said where none do."""

from __future__ import annotations

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning import Choice, plan
from lowbeam.planning.feasibility import violations
from lowbeam.power.caps import Cap
from lowbeam.sizing import Inventory
from tests.builders import WorkloadBuilder, cap, catalogue_of, model, snapshot, stock, workload

CATALOGUE = catalogue_of(model("small").on("gpu", (1, 60, 10, 100)).on("gpu-2", (1, 600, 10, 100)))
AT_LEAST_12 = workload("a").replicas(least=12)


def choices(*workloads: WorkloadBuilder, inventory: tuple[Inventory, ...], caps: tuple[Cap, ...] = ()) -> list[Choice]:
    shot = snapshot(workloads, CATALOGUE, inventory, *caps)
    made = plan(shot)
    assert violations(shot, made.choices) == ()
    return list(made.choices)


def both(gpu: int, gpu_2: int) -> tuple[Inventory, ...]:
    return stock(**{"gpu": gpu, "gpu-2": gpu_2})


def got(choice: Choice) -> tuple[int, str]:
    assert choice.option is not None, choice.message
    return choice.option.replicas, choice.option.accelerator_class


def test_accelerators_that_hold_all_of_them_win_over_cheaper_ones_that_do_not() -> None:
    (choice,) = choices(AT_LEAST_12, inventory=both(8, 16))
    assert got(choice) == (12, "gpu-2")
    assert choice.shortage == ""


def test_where_none_hold_them_all_as_many_run_as_there_can_be_and_it_is_said() -> None:
    (choice,) = choices(AT_LEAST_12, inventory=both(8, 4))
    assert got(choice) == (8, "gpu")
    says = "8 of the 12 replicas of spec.scaling.minReplicas: no more accelerators are free"
    assert choice.shortage.startswith(says)
    assert choice.message.endswith(choice.shortage)


def test_fewer_run_where_somebody_more_important_holds_what_they_need() -> None:
    first = workload("first").priority(900).replicas(least=16)
    mine, theirs = choices(AT_LEAST_12, first, inventory=both(8, 16))
    assert (got(mine), got(theirs)) == ((8, "gpu"), (16, "gpu-2"))
    assert mine.reason == reasons.SELECTED
    assert mine.shortage.startswith("8 of the 12 replicas of spec.scaling.minReplicas")


def test_a_cap_that_presses_others_leaves_those_who_have_fewer_where_they_are() -> None:
    first = workload("first").priority(900).replicas(least=16)
    other = workload("other").only(namespace="elsewhere", accelerator_classes=("gpu-2",))
    pressing = cap("elsewhere", 10, namespaces=("elsewhere",))
    _, mine, theirs = choices(AT_LEAST_12, first, other, inventory=both(8, 17), caps=(pressing,))
    assert (got(mine), got(theirs)) == ((8, "gpu"), (16, "gpu-2"))


def test_under_a_power_cap_fewer_are_allowed() -> None:
    (free,) = choices(AT_LEAST_12, inventory=both(8, 16))
    assert free.option is not None
    tight = cap("cluster", free.option.worst_case_milliwatts // 1000 - 1)
    (choice,) = choices(AT_LEAST_12, inventory=both(8, 16), caps=(tight,))
    assert got(choice) == (8, "gpu")
