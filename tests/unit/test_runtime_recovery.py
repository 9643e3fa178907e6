"""A new leader reads its first memory from statuses and Deployments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog import load_builtin
from lowbeam.cli.plan import snapshot_of
from lowbeam.planning import plan
from lowbeam.planning.committed import Order, Target
from lowbeam.planning.plan import sizer_for
from lowbeam.planning.roll import Roll
from lowbeam.planning.words import option_text
from lowbeam.render import Placement, Shares, labels
from lowbeam.runtime.executor import Executor
from lowbeam.runtime.fleet import Decision, Dimming, WorkloadMemory
from lowbeam.runtime.recovery import Trace, recover, recover_fleet
from lowbeam.runtime.replicas import Child, child_of
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.status_workload import workload_status
from lowbeam.runtime.world import Objects, Parser, build_world
from lowbeam.sizing import Inventory, Option, Requirements, Sizer
from tests.builders import catalogue_of, model, stock, workload
from tests.fakes.agents import no_agents
from tests.raw_objects import TODAY, iw, node
from tests.unit.test_runtime_status import CHOICE, FACTS, NOW
from tools.bench.instances import unlimited


def _recovered(status: Mapping[str, Any], needs: Requirements, children: list[Child], sizer: Sizer) -> WorkloadMemory:
    return recover([Trace(status, needs, children)], sizer)[0]


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

    read = _recovered(written, needs, [child], sizer)

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

    read = _recovered(written, needs, children, sizer)

    assert read.target is not None
    assert read.target.order is order
    assert bool(read.waiting_for) is beside


@pytest.mark.parametrize(("wanted", "selected"), [(3, 8), (3, 3)], ids=["told", "the status is behind"])
def test_a_replacement_share_by_share_goes_on_to_the_count_that_was_decided(wanted: int, selected: int) -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    running = replace(sizer.options_for(needs, None).options[0], replicas=selected)
    written = workload_status(FACTS, WorkloadMemory(target=Target(running), choice=CHOICE), {}, NOW)
    placement = Placement.of(running)
    children = [
        Child("w-new", "u", placement, "new", wanted, wanted, {}, promised_replicas=8),
        Child("w-old", "v", replace(placement, model="old"), "old", 5, 5, {}),
    ]

    target = _recovered(written, needs, children, sizer).target

    assert target is not None
    assert target.option is not None
    if selected == 8:
        assert (target.order, target.option.replicas) == (Order.ROLLING, 8)
    else:  # a shed that was told before it was written: never more than either says
        assert (target.order, target.option.replicas) == (Order.MAKE_BEFORE_BREAK, 3)


@pytest.mark.parametrize("told", ["new", "old", ""], ids=["told", "not told yet", "no status at all"])
def test_a_replacement_share_by_share_whose_first_new_replica_is_still_to_come_goes_on(told: str) -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    new = replace(sizer.options_for(needs, None).options[0], replicas=8)
    old = replace(new, model="old")
    memory = WorkloadMemory(target=Target(new if told == "new" else old), choice=CHOICE)
    children = [
        Child("w-old", "v", Placement.of(old), "old", 7, 7, {}),
        Child("w-new", "u", Placement.of(new), "new", 0, 0, {}, promised_replicas=8),
    ]
    target = _recovered(workload_status(FACTS, memory, {}, NOW) if told else {}, needs, children, sizer).target
    assert target is not None
    assert target.option is not None
    assert (target.option.model, target.option.replicas, target.order) == ("small", 8, Order.ROLLING)


@pytest.mark.parametrize("told", ["new", "old", ""], ids=["told", "not told yet", "no status at all"])
def test_a_successor_knows_where_a_replacement_share_by_share_began_and_its_batch_limit(told: str) -> None:
    """The status tells of the batch limit that the old placement had; begun anew, too many old replicas would go."""
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    new = replace(sizer.options_for(needs, None).options[0], replicas=3, batch_limit=1)
    old = replace(new, model="old", batch_limit=8)
    memory = WorkloadMemory(target=Target(new if told == "new" else old), choice=CHOICE)
    children = [
        Child("w-old", "v", Placement.of(old), "old", 2, 2, {}),
        Child("w-new", "u", Placement.of(new), "new", 0, 0, {}, promised_replicas=3, shares=Shares(Roll(3), 1)),
    ]
    target = _recovered(workload_status(FACTS, memory, {}, NOW) if told else {}, needs, children, sizer).target
    assert target is not None
    assert target.option is not None
    assert (target.option.setting, target.order, target.roll) == (new.setting, Order.ROLLING, Roll(3))


def test_a_smaller_batch_limit_that_is_told_and_not_written_yet_holds_for_a_successor() -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    shed = replace(sizer.options_for(needs, None).options[0], replicas=3, batch_limit=1)
    written = workload_status(FACTS, WorkloadMemory(target=Target(shed), choice=CHOICE), {}, NOW)
    children = [
        Child("w-old", "v", replace(Placement.of(shed), model="old"), "old", 2, 2, {}),
        Child("w-new", "u", Placement.of(shed), "new", 1, 1, {}, promised_replicas=3, shares=Shares(Roll(3), 8)),
    ]
    target = _recovered(written, needs, children, sizer).target
    assert target is not None
    assert target.option is not None
    assert target.option.batch_limit == 1


@pytest.mark.parametrize(
    "edited",
    [
        "",
        "{",
        "3",
        '{"batchLimit":8,"newReplicas":0}',
        '{"batchLimit":8,"newReplicas":0,"oldReplicas":0}',
        '{"batchLimit":8,"newReplicas":-1,"oldReplicas":3}',
        '{"batchLimit":true,"newReplicas":0,"oldReplicas":3}',
        '{"batchLimit":8,"newReplicas":0,"oldReplicas":1e9}',
        '{"batchLimit":8,"newReplicas":0,"oldReplicas":100000}',
        '{"batchLimit":8,"boardLimitWatts":-1,"newReplicas":0,"oldReplicas":3}',
        '{"batchLimit":8,"boardLimitWatts":"490","newReplicas":0,"oldReplicas":3}',
        "[" * 5_000,
    ],
)
def test_where_a_replacement_began_is_worked_out_anew_where_somebody_edited_it(edited: str) -> None:
    metadata = {"name": "w-x", "uid": "u", "annotations": {labels.SHARES: edited}}
    assert child_of({"metadata": metadata, "spec": {"replicas": 2}}).shares is None


def test_what_a_status_does_not_tell_of_yet_is_read_from_the_deployment_that_grows() -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    new = sizer.options_for(needs, None).options[0]
    old = replace(new, model="old")
    written = workload_status(FACTS, WorkloadMemory(target=Target(old), choice=CHOICE), {}, NOW)
    children = [
        Child("w-old", "v", Placement.of(old), "old", 2, 2, {}),
        Child("w-new", "u", Placement.of(new), "new", 1, 1, {}, promised_replicas=3),
    ]
    target = _recovered(written, needs, children, sizer).target
    assert target is not None
    assert target.option is not None
    assert (target.option.model, target.option.replicas, target.order) == ("small", 3, Order.ROLLING)


def test_of_two_that_grew_when_a_replacement_was_turned_round_the_one_that_the_status_names_goes_on() -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    wanted = replace(sizer.options_for(needs, None).options[0], replicas=8)
    written = workload_status(FACTS, WorkloadMemory(target=Target(wanted), choice=CHOICE), {}, NOW)
    children = [
        Child("w-a", "v", replace(Placement.of(wanted), model="left"), "a", 3, 3, {}, promised_replicas=8),
        Child("w-b", "u", Placement.of(wanted), "b", 5, 5, {}, promised_replicas=8),
    ]
    target = _recovered(written, needs, children, sizer).target
    assert target is not None
    assert target.option is not None
    assert (target.option.model, target.option.replicas, target.order) == ("small", 8, Order.ROLLING)


@pytest.mark.parametrize(("annotation", "decided"), [("8", 8), ("1", 2), ("", 2), ("many", 2), ("9" * 50, 2), ("٢", 2)])
def test_a_count_that_somebody_wrote_into_the_annotation_is_no_harm(annotation: str, decided: int) -> None:
    metadata = {"name": "w-x", "uid": "u", "annotations": {labels.DECIDED_REPLICAS: annotation}}
    assert child_of({"metadata": metadata, "spec": {"replicas": 2}}).decided_replicas == decided


def test_a_workload_that_a_cap_paused_is_still_paused_for_a_successor_and_asks_the_gate() -> None:
    needs = workload("w").rate(5).build()
    dimming = Dimming("Pause", NOW, reasons.PAUSED, "c", "d-1", 50_000, 0)
    paused = WorkloadMemory(target=Target(None, dimmed_by="c"), choice=CHOICE, dimming=dimming)
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10))), stock(gpu=8))

    read = _recovered(workload_status(FACTS, paused, {}, NOW), needs, [], sizer)

    assert read.target == Target(None, dimmed_by="c")


def test_a_dimmed_workload_whose_floor_was_raised_beyond_what_runs_is_not_paused_for_a_successor() -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    running = sizer.options_for(needs, None).options[0]
    dimming = Dimming("Batch", NOW, reasons.DIMMED, "c", "d-1", 50_000, 0)
    written = workload_status(FACTS, WorkloadMemory(target=Target(running), choice=CHOICE, dimming=dimming), {}, NOW)
    child = Child("w-x", "u", Placement.of(running), "x", 1, 1, {})

    read = _recovered(written, replace(needs, floor_centi=10_000), [child], sizer)

    assert read.target is None, "what runs stays until the plan has something in its place"


def test_a_successor_believes_the_deployments_where_the_status_was_not_written_yet() -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(30).build()
    running = max(sizer.options_for(needs, None).options, key=lambda option: option.replicas)
    assert running.replicas > 1
    written = workload_status(FACTS, WorkloadMemory(target=Target(running), choice=CHOICE), {}, NOW)
    child = Child("w-x", "u", Placement.of(running), "x", 1, 1, {})  # one replica: the shed was written, then the kill

    read = _recovered(written, needs, [child], sizer)

    assert read.target is not None
    assert read.target.option is not None
    assert read.target.option.replicas == 1


def test_a_decision_that_no_status_tells_of_is_read_from_its_deployment() -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(30).build()
    decided = max(sizer.options_for(needs, None).options, key=lambda option: option.replicas)
    child = Child("w-x", "u", Placement.of(decided), "x", decided.replicas, 0, {})

    read = _recovered({}, needs, [child], sizer)

    assert read.target is not None
    assert read.target.option is not None
    assert read.target.option.setting == decided.setting
    assert (read.target.order, read.waiting_for) == (Order.IN_PLACE, "")


def test_of_two_deployments_that_no_status_tells_of_the_one_that_serves_counts_and_both_stay() -> None:
    catalogue = catalogue_of(model("small").on("gpu", (1, 50, 5, 10)).on("other", (1, 50, 5, 10)))
    sizer = Sizer(catalogue, stock(gpu=8, other=8))
    needs = workload("w").rate(5).build()
    options = sizer.options_for(needs, None).options
    one, two = (next(it for it in options if it.accelerator_class == name) for name in ("gpu", "other"))
    children = [
        Child("w-z", "u", Placement.of(one), "z", one.replicas, 0, {}),
        Child("w-a", "v", Placement.of(two), "a", two.replicas, two.replicas, {}),
    ]

    read = _recovered({}, needs, children, sizer)

    assert read.target is not None
    assert read.target.option is not None
    assert (read.target.option.accelerator_class, read.target.order) == ("other", Order.MAKE_BEFORE_BREAK)


@pytest.mark.parametrize("placement", ["edited", "no longer allowed", "gone from the catalogue"])
def test_a_deployment_that_no_option_could_have_made_is_decided_anew(placement: str) -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    made = Placement.of(sizer.options_for(needs, None).options[0])
    if placement == "no longer allowed":
        needs = replace(needs, floor_centi=10_000)
    shown = {"edited": None, "gone from the catalogue": replace(made, model="old")}.get(placement, made)

    assert _recovered({}, needs, [Child("w-x", "u", shown, "x", 1, 1, {})], sizer).target is None


def test_a_deployment_that_somebody_scaled_to_zero_is_not_taken_for_a_decision() -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    made = sizer.options_for(needs, None).options[0]

    read = _recovered({}, needs, [Child("w-x", "u", Placement.of(made), "x", 0, 0, {})], sizer)

    assert read.target is not None
    assert read.target.option is not None
    assert read.target.option.replicas == made.replicas


def test_a_fleet_that_no_status_tells_of_runs_on_and_its_history_begins() -> None:
    workloads = (iw("acted-on"), iw("advised", mode="Advise"))
    bare = Objects(workloads=workloads, nodes=(node("n1"),))
    world = build_world(bare, TODAY, Parser())
    sizer = sizer_for(snapshot_of(world))
    running = {key: sizer.options_for(needs).options[0] for key, needs in world.requirements.items()}
    unused: Any = None
    executor = Executor(unused, unused, OperatorSettings("tests"), no_agents())
    made = [executor.manifest(world, key, option, option.replicas) for key, option in running.items()]
    for deployment in made:
        deployment["metadata"]["uid"] = f"uid-{deployment['metadata']['name']}"

    fleet = recover_fleet(build_world(replace(bare, deployments=tuple(made)), TODAY, Parser()), sizer, NOW)

    assert {key: option.setting for key, option in fleet.options().items() if option} == {
        key: option.setting for key, option in running.items()
    }
    told = fleet.of(("team", "acted-on"))
    assert told.decision is not None
    assert (told.decision.action, told.decision.message) == (reasons.SELECTED, option_text(running["team", "acted-on"]))
    assert told.history == (told.decision,)
    assert fleet.of(("team", "advised")).history == ()


def test_an_untold_decision_follows_what_the_history_says_already() -> None:
    earlier = {"time": "2026-11-21T08:00:00Z", "decisionId": "d-1", "action": "Replaced", "message": "scaled to zero"}
    raw = {**iw("w"), "status": {"observedGeneration": 1, "history": [earlier]}}
    bare = Objects(workloads=(raw,), nodes=(node("n1"),))
    world = build_world(bare, TODAY, Parser())
    sizer = sizer_for(snapshot_of(world))
    option = sizer.options_for(world.requirements["team", "w"]).options[0]
    child = Child("w-x", "u", Placement.of(option), "x", option.replicas, 0, {})

    read = recover_fleet(replace(world, children={("team", "w"): [child]}), sizer, NOW).of(("team", "w"))

    assert read.decision is not None
    assert [entry.action for entry in read.history] == [reasons.SELECTED, "Replaced"]


def test_what_was_decided_without_caps_is_recovered_as_it_was() -> None:
    """Also its batch limit, which changes in place and is in no Deployment."""
    snapshot = unlimited(40)
    sizer, choices = sizer_for(snapshot), plan(snapshot, explain=False).choices
    needs = {state.requirements.key: state.requirements for state in snapshot.workloads}
    decided = {choice.key: choice.option for choice in choices if choice.option is not None}
    assert len({option.batch_limit for option in decided.values()}) > 3
    for key, option in decided.items():
        child = Child("w-x", "u", Placement.of(option), "x", option.replicas, 0, {})
        read = _recovered({}, needs[key], [child], sizer)
        assert read.target is not None
        assert read.target.option is not None
        assert read.target.option.setting == option.setting
        assert read.planned_generation == 0, "no spec is known to be answered"


def test_a_deployment_that_somebody_scaled_is_recovered_with_the_replicas_that_it_has() -> None:
    sizer = Sizer(catalogue_of(model("small").on("gpu", (1, 50, 5, 10), (8, 100, 10, 20))), stock(gpu=8))
    needs = workload("w").rate(5).build()
    made = sizer.options_for(needs, None).options[0]
    read = _recovered({}, needs, [Child("w-x", "u", Placement.of(made), "x", made.replicas + 2, 0, {})], sizer)
    assert read.target is not None
    assert read.target.option is not None
    assert read.target.option.replicas == made.replicas + 2


H100 = Inventory("", "h100", 16, 8, board_limits=True)
"""Nodes whose agents set power limits."""


def _limited_on_h100(sizer: Sizer) -> tuple[Requirements, Option]:
    facts = sizer.catalogue.tasks["text-generation"]
    it = workload("w").task("text-generation").tokens(500, 400).rate(60).within(None, 3000, 100)
    needs = it.only(benchmark=facts.benchmark, pinned_model="qwen3-4b-instruct-2507").build()
    found = [o for o in sizer.options_for(needs).options if o.board_limit_watts]
    return needs, max(found, key=lambda o: o.replicas)


def _written(option: Option) -> dict[str, Any]:
    dimming = Dimming("PowerLimit", NOW, reasons.DIMMED, "c", "d-1", 50_000, 0)
    return workload_status(FACTS, WorkloadMemory(target=Target(option), choice=CHOICE, dimming=dimming), {}, NOW)


def _child(option: Option, **told: Any) -> Child:
    return Child("w-x", "u", Placement.of(option), "x", option.replicas, option.replicas, {}, **told)


def test_a_successor_finds_the_power_limit_that_the_status_tells_of() -> None:
    sizer = Sizer(load_builtin(), [H100])
    needs, limited = _limited_on_h100(sizer)
    written = _written(limited)
    assert written["selected"]["boardLimitWatts"] == limited.board_limit_watts
    memory = _recovered(written, needs, [_child(limited)], sizer)
    assert memory.target is not None
    assert memory.target.option == replace(limited, **_figures(sizer, needs, limited))
    assert (memory.target.order, memory.target.dimmed_by) == (Order.IN_PLACE, "c")


def _figures(sizer: Sizer, needs: Requirements, option: Option) -> dict[str, Any]:
    running = sizer.options_for(needs, option).running
    assert running is not None
    return {"expected_milliwatts": running.expected_milliwatts}


def test_a_successor_takes_no_power_limit_that_the_status_does_not_tell_of() -> None:
    sizer = Sizer(load_builtin(), [H100])
    needs, limited = _limited_on_h100(sizer)
    plain = replace(limited, board_limit_watts=0)
    assert "boardLimitWatts" not in _written(plain)["selected"]
    other = replace(limited, model="another")  # decided, and its successor stands already
    for status in ({}, _written(plain), _written(other)):
        target = _recovered(status, needs, [_child(limited)], sizer).target
        assert target is not None
        assert target.option is not None
        assert (target.option.placement_key, target.option.board_limit_watts) == (plain.placement_key, 0)


@pytest.mark.parametrize("told", ["new", "old", ""], ids=["told", "not told yet", "no status at all"])
def test_a_replacement_share_by_share_goes_on_under_the_power_limit_that_was_decided(told: str) -> None:
    sizer = Sizer(load_builtin(), [H100])
    needs, new = _limited_on_h100(sizer)
    old = replace(new, model="old", board_limit_watts=0)
    shares = Shares(Roll(3), new.batch_limit, new.board_limit_watts)
    children = [
        replace(_child(old), name="w-old", placement_digest="old"),
        replace(_child(new, shares=shares, promised_replicas=new.replicas), replicas=0, ready_replicas=0),
    ]
    target = _recovered(_written(new if told == "new" else old) if told else {}, needs, children, sizer).target
    assert target is not None
    assert target.option is not None
    assert (target.option.setting, target.order, target.roll) == (new.setting, Order.ROLLING, Roll(3))


def test_where_no_agent_answers_what_runs_keeps_its_place_without_a_limit_and_stays_dimmed() -> None:
    sizer = Sizer(load_builtin(), [H100])
    needs, limited = _limited_on_h100(sizer)
    deaf = sizer.with_inventory([replace(H100, board_limits=False)])
    target = _recovered(_written(limited), needs, [_child(limited)], deaf).target
    assert target is not None
    assert target.option is not None
    assert target.option.setting == replace(limited, board_limit_watts=0).setting
    assert target.dimmed_by == "c"
    assert target.option.worst_case_milliwatts >= limited.worst_case_milliwatts
