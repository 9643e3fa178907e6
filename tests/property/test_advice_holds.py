"""What Lowbeam advises works: applying a change gives an option, and a saving is never promised that is not there."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import Reasoning
from lowbeam.sizing import Inventory, Requirements, Sizer
from lowbeam.sizing.relax import pair_of_relaxations, relaxations
from lowbeam.sizing.savings import WORTH_PERCENT, savings
from lowbeam.sizing.wishes import changed
from tests.builders import workload

CATALOGUE = load_builtin()
TASKS = sorted({profile.task for profile in CATALOGUE.profiles} & set(CATALOGUE.tasks))
NODES = tuple(
    Inventory("", name, 8, 8, board_limits=name == "h100")
    for name in ("cpu", "h100", "l4")
    if name in CATALOGUE.accelerator_classes
)
SIZER = Sizer(CATALOGUE, NODES)


@st.composite
def mean_wishes(draw: st.DrawFn) -> Requirements:
    """Wishes that often cannot be met."""
    facts = CATALOGUE.tasks[draw(st.sampled_from(TASKS))]
    scale = draw(st.sampled_from([0.01, 0.2, 1, 4]))
    limit = lambda ms: None if ms is None else max(1, round(ms * scale))  # noqa: E731
    output = draw(st.sampled_from([50, 400, 3000])) if facts.generative else 1
    it = (
        workload("w")
        .task(facts.name)
        .rate(draw(st.sampled_from([0.1, 5, 200])))
        .tokens(draw(st.sampled_from([50, 900, 40_000])), output)
        .within(limit(facts.end_to_end_ms), limit(facts.time_to_first_token_ms), limit(facts.inter_token_ms))
        .only(
            benchmark=facts.benchmark,
            floor_centi=draw(st.sampled_from([0, facts.floor_centi, 8000, 9700, 9999])),
            reasoning=draw(st.sampled_from([Reasoning.OFF, Reasoning.HIGH])),
            licences=draw(st.sampled_from([(), ("mit",), ("no-such-licence",)])),
            accelerator_classes=draw(st.sampled_from([(), ("l4",), ("a100",), ("b200", "cpu")])),
            max_millijoules_per_request=draw(st.sampled_from([None, 10, 20_000])),
            max_milliwatts=draw(st.sampled_from([None, 5000, 400_000])),
            own_engine=draw(st.booleans()),
        )
    )
    needs = it.build()
    return replace(needs, target_centi=max(needs.floor_centi, facts.target_centi))


@settings(max_examples=60, deadline=None)
@given(mean_wishes())
def test_each_single_change_gives_an_option_to_a_workload_without_one(needs: Requirements) -> None:
    if any(not o.below_floor for o in SIZER.options_for(needs).options):
        return
    for advice in relaxations(SIZER, needs):
        if advice.field == "nodes":
            node = Inventory("", advice.option.accelerator_class, *[max(1, advice.option.accelerators_per_replica)] * 2)
            assert SIZER.with_inventory((*NODES, node)).options_for(needs).options, advice.change
        else:
            assert SIZER.options_for(changed(needs, advice.changes)).options, advice.change


@settings(max_examples=25, deadline=None)
@given(mean_wishes())
def test_two_changes_together_give_an_option_where_one_does_not(needs: Requirements) -> None:
    if SIZER.cheapest(needs) is not None or relaxations(SIZER, needs):
        return
    pair = pair_of_relaxations(SIZER, needs)
    if pair is not None:
        assert SIZER.options_for(changed(needs, *(it.changes for it in pair))).options


@settings(max_examples=40, deadline=None)
@given(mean_wishes())
def test_a_saving_is_there_when_the_wish_is_loosened(needs: Requirements) -> None:
    chosen = SIZER.cheapest(needs)
    if chosen is None:
        return
    for advice in savings(SIZER, needs, chosen):
        found = SIZER.cheapest(changed(needs, advice.changes), most_unserved_millirps=chosen.unserved_millirps)
        assert found is not None
        assert advice.saved_percent >= WORTH_PERCENT
        assert found.expected_milliwatts <= advice.option.expected_milliwatts < chosen.expected_milliwatts
