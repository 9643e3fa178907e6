"""What a platform engineer expects of a plan: right-sized without caps, strict priorities under them, and reasons."""

from __future__ import annotations

import dataclasses
import importlib

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning import Snapshot, explained, plan
from lowbeam.planning.feasibility import violations
from lowbeam.planning.optimise import Answer
from tests.builders import cap, catalogue_of, model, option, snapshot, stock, workload
from tests.plans import CATALOGUE, LARGE, ROOM, SMALL, chosen, planned, worst_watts


def test_an_empty_cluster_has_an_empty_plan() -> None:
    assert planned(caps=(cap("cluster", 10),)).choices == ()


def test_without_caps_everybody_gets_the_cheapest_that_is_good_enough() -> None:
    made = planned(workload("plain").rate(2), workload("picky").rate(2).floor("90"))
    assert chosen(made, "plain").model == "small"
    assert chosen(made, "picky").model == "large"
    assert all(c.reason == reasons.SELECTED and c.option == c.desired and not c.binding_cap for c in made.choices)


def test_a_cap_that_does_not_bind_changes_nothing_and_costs_nothing() -> None:
    free, capped = planned(workload("a").rate(2)), planned(workload("a").rate(2), caps=(cap("cluster", 10_000),))
    assert capped.choices == free.choices
    assert capped.cap_price == {"cluster": 0.0}


def test_only_the_least_important_is_dimmed() -> None:
    team = [workload(f"w{p}").rate(15).priority(p).floor("90") for p in (100, 500, 900)]
    free = planned(*team)
    capped = planned(*team, caps=(cap("cluster", worst_watts(free) - 100),))
    assert [c.name for c in capped.choices if c.option != c.desired] == ["w100"]
    dimmed = capped.choice("team", "w100")
    assert dimmed is not None
    assert (dimmed.reason, dimmed.binding_cap) == (reasons.DIMMED, "cluster")
    assert '"cluster" allows' in dimmed.message
    assert capped.cap_price["cluster"] > 0


def test_burst_headroom_goes_before_anything_that_somebody_would_notice() -> None:
    it = workload("a").rate(6)
    free = planned(it)
    assert chosen(free, "a").batch_limit == 8
    capped = planned(it, caps=(cap("cluster", worst_watts(free) - 10),))
    assert chosen(capped, "a").batch_limit == 1
    assert chosen(capped, "a").unserved_millirps == 0
    choice = capped.choice("team", "a")
    assert choice is not None
    assert (choice.reason, choice.binding_cap) == (reasons.SELECTED, "")
    assert '"cluster" trims what nobody uses now: batch limit 8 -> 1' in choice.message


@pytest.mark.parametrize("watts_short", [0, 10])
def test_replicas_that_were_asked_for_and_a_cap_trims_are_a_shortage(watts_short: int) -> None:
    it = workload("a").rate(6).replicas(fixed=4)
    free = planned(it)
    choice = planned(it, caps=(cap("cluster", worst_watts(free) - watts_short),)).choice("team", "a")
    assert choice is not None
    assert choice.option is not None
    assert choice.reason == reasons.SELECTED
    says = f'{choice.option.replicas} of the 4 replicas asked for: PowerCap "cluster" leaves no more'
    assert choice.shortage == (says if choice.option.replicas < 4 else "")
    assert (choice.option.replicas < 4) is bool(watts_short)


@pytest.mark.parametrize(("rate", "served"), [(6, ""), (500, "serves 102 of 500 req/s, ")])
def test_replicas_that_were_asked_for_and_have_no_accelerators_are_a_shortage(rate: int, served: str) -> None:
    choice = planned(workload("a").rate(rate).replicas(fixed=5), inventory=stock(gpu=3)).choice("team", "a")
    assert choice is not None
    ending = "3 of the 5 replicas asked for: no more accelerators are free; add nodes, or raise spec.priority"
    assert choice.shortage == served + ending
    assert choice.message.endswith(choice.shortage), "explain says what the status says"


def test_demand_beyond_the_accelerators_is_a_shortage_with_its_reason() -> None:
    choice = planned(workload("a").rate(500), inventory=stock(gpu=1)).choice("team", "a")
    assert choice is not None
    assert choice.shortage.startswith("serves ")
    assert choice.shortage.endswith("of 500 req/s: no more accelerators are free; add nodes, or raise spec.priority")
    assert choice.message.endswith(choice.shortage)


def test_quality_gives_way_before_demand_and_never_below_the_floor() -> None:
    it = workload("a").rate(10).floor("70").target("95")
    assert chosen(planned(it), "a").model == "large"
    tight = planned(it, caps=(cap("cluster", 200),))
    assert chosen(tight, "a").model == "small"
    assert chosen(tight, "a").unserved_millirps == 0


def test_below_the_floor_only_under_a_cap_and_with_consent() -> None:
    firm, kind = workload("a").rate(10).floor("90"), workload("a").rate(10).floor("90", consent=True)
    assert chosen(planned(kind), "a").model == "large"
    capped = planned(kind, caps=(cap("cluster", 200),))
    assert chosen(capped, "a").below_floor
    refused = planned(firm, caps=(cap("cluster", 200),)).choice("team", "a")
    assert refused is not None
    assert refused.option is None
    assert refused.reason == reasons.CAP_UNSATISFIABLE
    assert ": it does not run." in refused.message


@pytest.mark.parametrize(
    ("levers", "model_name", "served"),
    [(("Batch", "Replicas", "Model"), "small", True), (("Batch", "Replicas"), "large", False)],
)
def test_a_cap_uses_only_its_levers(levers: tuple[str, ...], model_name: str, served: bool) -> None:
    it = workload("a").rate(50).floor("70").target("95")
    free = planned(it)
    made = planned(it, caps=(cap("cluster", worst_watts(free) - 600, levers=levers),))
    assert chosen(made, "a").model == model_name
    assert (chosen(made, "a").unserved_millirps == 0) is served


def test_a_cap_on_another_namespace_or_pool_touches_nobody_else() -> None:
    caps = (cap("theirs", 10, namespaces=["other"]), cap("rack", 10, pool="elsewhere"))
    made = planned(workload("a").rate(10), caps=caps)
    assert made.choices == planned(workload("a").rate(10)).choices


def test_a_capped_pool_is_left_for_one_with_room() -> None:
    shelves = (*stock("a", gpu=4), *stock("b", gpu=4))
    made = planned(workload("w").rate(10), caps=(cap("rack", 50, pool="a"),), inventory=shelves)
    assert chosen(made, "w").pool == "b"
    assert chosen(made, "w").unserved_millirps == 0


def test_the_tightest_of_nested_caps_holds() -> None:
    team = [workload(n).in_namespace(ns).rate(15).floor("90") for n, ns in (("a", "x"), ("b", "x"), ("c", "y"))]
    caps = (cap("cluster", 2000), cap("tenant", 700, parent="cluster", namespaces=["x"]))
    shot = snapshot(team, CATALOGUE, ROOM, *caps)
    made = plan(shot)
    assert violations(shot, made.choices) == ()
    assert made.cap_milliwatts["tenant"] <= 700_000
    free = made.choice("y", "c")
    assert free is not None
    assert free.option == free.desired


def test_a_cap_that_observes_dims_nobody_and_still_shows_what_is_committed() -> None:
    made = planned(workload("a").rate(10), caps=(cap("cluster", 1, enforce=False),))
    assert chosen(made, "a").unserved_millirps == 0
    assert made.cap_milliwatts["cluster"] > 1000


def test_a_cap_below_the_minimum_is_reported_and_the_important_ones_run_at_their_least() -> None:
    team = [workload(f"w{p}").rate(15).priority(p).floor("90") for p in (100, 500, 900)]
    made = planned(*team, caps=(cap("cluster", 700),))
    assert '"cluster"' in made.unsatisfiable_caps["cluster"]
    assert "Raise spec.watts" in made.unsatisfiable_caps["cluster"]
    assert "held at their least, and the lowest priorities do not run" in made.unsatisfiable_caps["cluster"]
    assert [c.name for c in made.choices if c.option] == ["w500", "w900"]
    assert chosen(made, "w900").batch_limit == 1
    out = made.choice("team", "w100")
    assert out is not None
    assert out.reason == reasons.CAP_UNSATISFIABLE


def test_pausing_the_lowest_leaves_the_rest_of_the_watts_to_the_others() -> None:
    team = [workload(f"w{p}").rate(15).priority(p).floor("90") for p in (100, 500, 900)]
    made = planned(*team, caps=(cap("cluster", 850, pause_lowest=True),))
    assert [c.name for c in made.choices if c.option] == ["w500", "w900"]
    assert chosen(made, "w900").batch_limit == 8
    paused = made.choice("team", "w100")
    assert paused is not None
    assert paused.reason == reasons.PAUSED


def test_scarce_accelerators_go_to_the_important_and_the_others_are_told() -> None:
    team = [workload("low").priority(1), workload("high").priority(999)]
    made = planned(*team, inventory=stock(gpu=1))
    assert chosen(made, "high")
    low = made.choice("team", "low")
    assert low is not None
    assert low.option is None
    assert low.reason == reasons.NO_ACCELERATOR_OF_CLASS
    assert not low.binding_cap


def test_what_runs_is_kept_for_small_savings_and_replaced_for_large_ones() -> None:
    twin = model("twin").quality("80").on("gpu", (1, 58, 10, 100), (8, 98, 40, 180))
    catalogue = catalogue_of(SMALL, LARGE, twin)
    alone = plan(snapshot([workload("a").rate(5)], catalogue_of(SMALL), ROOM)).choices[0].option
    kept = plan(snapshot([workload("a").rate(5).running(alone)], catalogue, ROOM)).choices[0].option
    assert kept is not None
    assert kept.model == "small"
    fresh = plan(snapshot([workload("a").rate(5)], catalogue, ROOM)).choices[0].option
    assert fresh is not None
    assert fresh.model == "twin"
    costly = plan(snapshot([workload("a").rate(5)], catalogue_of(LARGE), ROOM)).choices[0].option
    moved = plan(snapshot([workload("a").rate(5).running(costly)], catalogue, ROOM)).choices[0].option
    assert moved is not None
    assert moved.model == "twin"


def test_a_dimmed_workload_gets_its_headroom_back_when_the_cap_lifts() -> None:
    it = workload("a").rate(6)
    dim = chosen(planned(it, caps=(cap("cluster", 70),)), "a")
    assert dim.batch_limit == 1
    assert chosen(planned(it.running(dim)), "a").batch_limit == 8


def test_who_runs_stays_when_equals_compete_for_the_last_watts() -> None:
    first, second = workload("a").rate(15).floor("90"), workload("b").rate(15).floor("90")
    caps = (cap("cluster", 500),)
    alone = chosen(planned(second, caps=caps), "b")
    made = planned(first, second.running(alone), caps=caps)
    assert sum(c.option is not None for c in made.choices) == 1


def test_a_pinned_workload_keeps_its_setting_until_safety_needs_it() -> None:
    pinned_at = chosen(planned(workload("a").rate(30), caps=(cap("cluster", 300),)), "a")
    calm = planned(workload("a").rate(2).running(pinned_at, held=True), caps=(cap("cluster", 300),))
    assert chosen(calm, "a").setting == pinned_at.setting
    cut = planned(workload("a").rate(2).running(pinned_at, held=True), caps=(cap("cluster", 70),))
    assert chosen(cut, "a").worst_case_milliwatts <= 70_000


def test_an_autoscaler_gets_its_count_unless_a_cap_lowers_it() -> None:
    it = workload("a").rate(5).replicas(fixed=4)
    assert chosen(planned(it), "a").replicas == 4
    assert chosen(planned(it, caps=(cap("cluster", 150),)), "a").replicas < 4


def test_a_workload_without_options_says_why_and_stops_nobody() -> None:
    made = planned(workload("bad").floor("99"), workload("good"))
    bad = made.choice("team", "bad")
    assert bad is not None
    assert (bad.option, bad.reason) == (None, reasons.NO_MODEL_MEETS_FLOOR)
    assert "99 -> 95" in bad.message
    assert chosen(made, "good")


def test_no_accelerator_of_an_allowed_class_is_its_own_reason() -> None:
    made = planned(workload("a"), inventory=stock(other=4)).choice("team", "a")
    assert made is not None
    assert made.reason == reasons.NO_ACCELERATOR_OF_CLASS
    assert "gpu" in made.message


def test_a_choice_shows_what_lost_and_what_would_save() -> None:
    made = planned(workload("a").rate(5).floor("90")).choices[0]
    below = [lost for lost in made.alternatives if lost.reason == reasons.BELOW_FLOOR]
    assert below[0].option.model == "small"
    assert "80 < 90" in below[0].message
    assert any(advice.change == "spec.quality.floor 90 -> 80" for advice in made.recommendations)
    priced = planned(workload("a").rate(5)).choices[0].alternatives
    assert priced[0].reason == reasons.MORE_ENERGY
    assert priced[0].message.startswith("+")


def test_without_explanations_the_answer_is_the_same() -> None:
    shot = snapshot([workload(f"w{i}").rate(9).priority(i) for i in range(5)], CATALOGUE, ROOM, cap("cluster", 300))
    full, bare = plan(shot), plan(shot, explain=False)
    assert [c.option for c in full.choices] == [c.option for c in bare.choices]
    assert all(not c.alternatives and not c.recommendations for c in bare.choices)
    assert explained(shot, bare.choices, known=True) == full.choices, "remembered from the first"
    elsewhere = dataclasses.replace(shot, inventory=stock(gpu=7))
    choices = plan(elsewhere, explain=False).choices
    assert explained(elsewhere, choices, known=True) == choices
    assert explained(elsewhere, choices) == plan(elsewhere).choices != choices


def test_the_independent_check_sees_every_kind_of_violation() -> None:
    shot: Snapshot = snapshot([workload("a").floor("95").replicas(most=2)], CATALOGUE, stock(gpu=1), cap("cluster", 50))
    made = plan(shot).choices[0]
    broken = type(made)("team", "a", option("small", watts=60, replicas=3, accelerator_class="gpu"), "r", "m")
    lines = "\n".join(violations(shot, [broken]))
    for part in ('cap "cluster"', "3 gpu planned, 1 there", "below the floor", "3 replicas, at most 2"):
        assert part in lines


def test_an_infeasible_answer_of_the_solver_never_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("lowbeam.planning.plan")
    monkeypatch.setattr(module, "solve", lambda problem, allowed: Answer(problem.best_alone(allowed), exact=True))
    team = [workload(f"w{p}").rate(15).priority(p).floor("90") for p in (100, 500, 900)]
    made = planned(*team, caps=(cap("cluster", 1150),))
    assert made.cap_milliwatts["cluster"] <= 1_150_000
    assert chosen(made, "w900").unserved_millirps < chosen(made, "w100").unserved_millirps
