"""Explanations: which alternatives are shown and why they lost, and that they cost nothing while nothing changes."""

from __future__ import annotations

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning import Choice, advice, plan
from lowbeam.planning.snapshot import Snapshot
from tests.builders import WorkloadBuilder, cap, catalogue_of, model, snapshot, stock, workload

SMALL = model("small").quality("80").on("gpu", (1, 60, 10, 100), (8, 100, 40, 180))
MIDDLE = model("middle").quality("90").on("gpu", (1, 150, 8, 120), (8, 250, 30, 250))
LARGE = model("large").quality("95").on("gpu", (1, 300, 5, 200), (8, 500, 20, 400))
CATALOGUE = catalogue_of(SMALL, MIDDLE, LARGE)


def chosen(it: WorkloadBuilder, *caps: int) -> Choice:
    limits = [cap("cluster", watts) for watts in caps]
    return plan(snapshot([it], CATALOGUE, stock(gpu=16), *limits)).choices[0]


def lost(choice: Choice) -> dict[str, tuple[str, str]]:
    return {it.option.model: (it.reason, it.message) for it in choice.alternatives}


def test_each_other_way_is_shown_once_at_its_best_with_what_it_costs_more() -> None:
    shown = lost(chosen(workload("a").rate(5)))
    assert list(shown) == ["middle", "large"]
    reason, message = shown["large"]
    assert reason == reasons.MORE_ENERGY
    assert message.startswith("+")
    assert message.endswith(" W more")


def test_the_cheaper_model_that_the_floor_keeps_out_is_shown_last_with_what_it_would_save() -> None:
    choice = chosen(workload("a").rate(5).floor("90"))
    shown = lost(choice)
    assert list(shown)[-1] == "small"
    reason, message = shown["small"]
    assert reason == reasons.BELOW_FLOOR
    assert message.startswith("bench 80 < 90 (floor); it would save ")


def test_a_way_that_serves_less_says_how_much_and_what_bounds_it() -> None:
    choice = chosen(workload("a").rate(90).replicas(most=4))
    assert choice.option is not None
    assert choice.option.model == "small"
    reason, message = lost(choice)["large"]
    assert reason == reasons.SERVES_LESS
    assert message.endswith("of 90 req/s even with 4 replicas (spec.scaling.maxReplicas)")


def test_a_way_below_the_target_says_so() -> None:
    reason, message = lost(chosen(workload("a").rate(5).target("95")))["middle"]
    assert reason == reasons.BELOW_TARGET
    assert message.startswith("bench 90 < 95 (target)")


def test_what_would_run_without_the_cap_comes_first() -> None:
    choice = chosen(workload("a").rate(60), 120)
    assert choice.binding_cap == "cluster"
    first = choice.alternatives[0]
    assert (first.option, first.reason) == (choice.desired, reasons.DIMMED)
    assert len(choice.alternatives) <= 3


def test_a_workload_without_options_shows_what_one_change_would_let_run() -> None:
    choice = chosen(workload("a").floor("99"))
    (way_out,) = choice.alternatives
    assert (way_out.option.model, way_out.reason) == ("large", reasons.BELOW_FLOOR)
    assert way_out.message == "spec.quality.floor 99 -> 95 would allow it"
    assert "One change would do: spec.quality.floor 99 -> 95 (large bf16" in choice.message


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that savings were worked out against."""
    calls: list[str] = []
    real = advice.savings

    def counted(sizer, needs, option):  # type: ignore[no-untyped-def]
        calls.append(option.model)
        return real(sizer, needs, option)

    monkeypatch.setattr(advice, "savings", counted)
    return calls


def fleet(*rates: float) -> Snapshot:
    return snapshot([workload(f"w{i}").rate(r) for i, r in enumerate(rates)], CATALOGUE, ROOM)


ROOM = stock(gpu=64)


def test_only_choices_that_changed_are_explained_again(asked: list[str]) -> None:
    first = plan(fleet(1, 2, 3))
    asked.clear()
    assert plan(fleet(1, 2, 3)) == first
    assert asked == []
    plan(fleet(1, 2, 4))
    assert len(asked) == 1


def test_two_workloads_that_ask_for_the_same_are_explained_once(asked: list[str]) -> None:
    plan(fleet(7, 7))
    assert len(asked) == 1


def test_workloads_planned_alone_do_not_cost_the_fleet_its_explanations(asked: list[str]) -> None:
    plan(fleet(1, 2, 3))
    for rate in (11, 12, 13):
        plan(fleet(rate))
    asked.clear()
    plan(fleet(1, 2, 3))
    assert asked == []
