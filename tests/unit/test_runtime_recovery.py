"""A new leader reads its first memory from statuses and Deployments."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning.committed import Order, Target
from lowbeam.render import Placement
from lowbeam.runtime.fleet import Decision, Dimming, WorkloadMemory
from lowbeam.runtime.recovery import recover
from lowbeam.runtime.replicas import Child
from lowbeam.runtime.status_workload import workload_status
from lowbeam.sizing import Sizer
from tests.builders import catalogue_of, model, stock, workload
from tests.unit.test_runtime_status import CHOICE, FACTS, NOW


def test_a_successor_reads_target_dimming_and_history_from_the_status() -> None:
    catalogue = catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20)))
    sizer = Sizer(catalogue, stock(gpu=8))
    needs = workload("w").rate(5).build()
    running = sizer.options_for(needs, None).options[0]
    dimming = Dimming("Batch", NOW, reasons.DIMMED, "c", "d-1", 50_000, 0)
    decision = Decision(NOW, "d-1", reasons.DIMMED, "less")
    memory = WorkloadMemory(target=Target(running), choice=CHOICE, dimming=dimming, history=(decision,))
    written = workload_status(FACTS, memory, {}, NOW)
    child = Child("w-x", "u", None, "x", 1, 1, {})

    read = recover(written, needs, [child], sizer)

    assert read.target is not None
    assert read.target.option is not None
    assert read.target.option.setting == running.setting
    assert (read.target.dimmed_by, read.dimming, read.history) == ("c", dimming, (decision,))
    assert (read.target.order, read.waiting_for) == (Order.BREAK_BEFORE_MAKE, "the change that was under way")


@pytest.mark.parametrize(
    ("beside", "order"), [(False, Order.IN_PLACE), (True, Order.MAKE_BEFORE_BREAK)], ids=["alone", "beside the old one"]
)
def test_a_replacement_that_had_begun_goes_on_as_it_began(beside: bool, order: Order) -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    running = sizer.options_for(needs, None).options[0]
    written = workload_status(FACTS, WorkloadMemory(target=Target(running), choice=CHOICE), {}, NOW)
    placement = Placement.of(running)
    children = [Child("w-new", "u", placement, "new", 1, 0, {})]
    if beside:
        children.append(Child("w-old", "v", replace(placement, model="old"), "old", 1, 1, {}))

    read = recover(written, needs, children, sizer)

    assert read.target is not None
    assert read.target.order is order
    assert bool(read.waiting_for) is beside


def test_a_workload_that_a_cap_paused_is_still_paused_for_a_successor_and_asks_the_gate() -> None:
    needs = workload("w").rate(5).build()
    dimming = Dimming("Pause", NOW, reasons.PAUSED, "c", "d-1", 50_000, 0)
    paused = WorkloadMemory(target=Target(None, dimmed_by="c"), choice=CHOICE, dimming=dimming)
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10))), stock(gpu=8))

    read = recover(workload_status(FACTS, paused, {}, NOW), needs, [], sizer)

    assert read.target == Target(None, dimmed_by="c")


def test_a_dimmed_workload_whose_floor_was_raised_beyond_what_runs_is_not_paused_for_a_successor() -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    running = sizer.options_for(needs, None).options[0]
    dimming = Dimming("Batch", NOW, reasons.DIMMED, "c", "d-1", 50_000, 0)
    written = workload_status(FACTS, WorkloadMemory(target=Target(running), choice=CHOICE, dimming=dimming), {}, NOW)
    child = Child("w-x", "u", Placement.of(running), "x", 1, 1, {})

    read = recover(written, replace(needs, floor_centi=10_000), [child], sizer)

    assert read.target is None, "what runs stays until the plan has something in its place"


def test_a_successor_believes_the_deployments_where_the_status_was_not_written_yet() -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(30).build()
    running = max(sizer.options_for(needs, None).options, key=lambda option: option.replicas)
    assert running.replicas > 1
    written = workload_status(FACTS, WorkloadMemory(target=Target(running), choice=CHOICE), {}, NOW)
    child = Child("w-x", "u", Placement.of(running), "x", 1, 1, {})  # one replica: the shed was written, then the kill

    read = recover(written, needs, [child], sizer)

    assert read.target is not None
    assert read.target.option is not None
    assert read.target.option.replicas == 1
    assert recover({}, needs, [child], sizer).target is None
