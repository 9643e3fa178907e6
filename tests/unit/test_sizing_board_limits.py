"""Ways under power limits of boards: only where agents set them, never above them, none that is of no use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog import load_builtin
from lowbeam.catalog.board_limits import limited as under
from lowbeam.catalog.board_limits import limits_of
from lowbeam.catalog.facts import Basis
from lowbeam.catalog.stars import stars
from lowbeam.sizing import Inventory, Option, OptionSet, Requirements, Sizer
from lowbeam.sizing.correction import Correction, digest_of, key_of
from lowbeam.sizing.sieve import Stocks
from lowbeam.sizing.worst_case import worst_case_at, worst_cases
from tests.builders import workload

CATALOGUE = load_builtin()
MODEL = "qwen3-4b-instruct-2507"
OPEN = Inventory("open", "h100", 16, 8, board_limits=True)
CLOSED = Inventory("closed", "h100", 16, 8)
PROFILES = [p for p in CATALOGUE.profiles_of(MODEL, "text-generation") if p.accelerator_class == "h100"]


def chat(**wishes: object) -> Requirements:
    facts = CATALOGUE.tasks["text-generation"]
    it = workload("chat").task("text-generation").tokens(500, 400).rate(60).within(None, 3000, 100)
    return it.only(benchmark=facts.benchmark, pinned_model=MODEL, **wishes).build()


def options(*rows: Inventory, running: Option | None = None, **wishes: object) -> OptionSet:
    return Sizer(CATALOGUE, rows).options_for(chat(**wishes), running)


def limited(found: OptionSet) -> list[Option]:
    return [option for option in found.options if option.board_limit_watts]


def busy(limit_watts: int = 0) -> Option:
    """What runs: as many replicas as serve, none of them idle."""
    found = options(OPEN).options
    fits = (
        o for o in found if o.board_limit_watts == limit_watts and o.accelerators_per_replica == 1 and o.replicas > 1
    )
    return min(fits, key=lambda o: (o.unserved_millirps, o.expected_milliwatts))


def felt_limits(option: Option) -> list[int]:
    """Those that change what its profile says."""
    h100 = CATALOGUE.accelerator_classes["h100"]
    profile = next(p for p in PROFILES if (p.precision, p.accelerators) == (option.precision, 1))
    found = [watts for watts in limits_of(h100) if under(profile, h100, watts) is not None]
    assert found
    return found


def test_a_power_limit_alone_takes_no_stars_away() -> None:
    task = "text-generation"
    published = Sizer(CATALOGUE, (OPEN,)).options_for(replace(chat(), pinned_model="qwen3-8b"))
    rated = limited(published)
    assert rated
    for option in rated:
        most = -(-option.millijoules_per_request * (100 + option.uncertainty_percent) // 100)
        assert (option.basis, option.unlimited_basis) == (Basis.MODELLED, Basis.PUBLISHED)
        assert option.rating(task) == stars(task, option.reasoning, most, Basis.PUBLISHED)
        assert option.rating(task) is not None
    for option in published.options:
        if not option.board_limit_watts:
            assert option.rating(task) == stars(task, option.reasoning, option.millijoules_per_request, option.basis)
    assert {option.rating(task) for option in limited(options(OPEN))} == {None}, "modelled without a limit, too"


def test_without_agents_nothing_is_limited_and_limits_are_not_even_worked_out() -> None:
    assert not limited(options(CLOSED))
    stocks = Stocks(CATALOGUE)
    assert stocks.of([CLOSED]) is stocks.of([replace(CLOSED, accelerators=1)])
    assert not stocks.of([CLOSED]).limited
    assert stocks.of([CLOSED, OPEN]).limited


def test_a_limit_is_one_that_the_class_takes_and_the_worst_case_is_never_above_it() -> None:
    found = limited(options(OPEN))
    assert found
    for option in found:
        assert option.board_limit_watts in limits_of(CATALOGUE.accelerator_classes["h100"])
        assert option.worst_case_milliwatts <= option.board_limit_watts * 1000 * option.accelerators
        assert option.id.endswith(f"/w{option.board_limit_watts}")
        assert option.placement_key == replace(option, board_limit_watts=0).placement_key
        assert option.setting != replace(option, board_limit_watts=0).setting


def test_the_worst_case_is_that_without_a_limit_cut_off_at_it_as_boards_that_confirm_it_are_charged() -> None:
    sizer, h100 = Sizer(CATALOGUE, [OPEN]), CATALOGUE.accelerator_classes["h100"]
    sifted, ways = sizer.ways(chat())
    profiles = [it.profile for it in sifted.passed]
    seen = 0
    for row, batch, replicas, worst in zip(ways.profile, ways.batch, ways.replicas, ways.worst, strict=True):
        profile = profiles[row]
        base = next(p for p in profiles if key_of(p) == key_of(profile) and not p.board_limit_watts)
        limit = (profile.board_limit_watts * 1000 or h100.max_milliwatts) * profile.accelerators
        idle = h100.idle_milliwatts * profile.accelerators
        each = worst_cases(base, limit_milliwatts=h100.max_milliwatts * profile.accelerators, idle_milliwatts=idle)
        assert worst == min(limit, worst_case_at(base, each, int(batch))) * replicas
        seen += profile.board_limit_watts > 0
    assert seen


def test_whatever_runs_without_limits_has_its_equal_among_the_options_with_them() -> None:
    with_limits = options(OPEN).options
    for plain in options(replace(OPEN, board_limits=False)).options:
        assert any(
            all(mine <= theirs for mine, theirs in zip(costs(it), costs(plain), strict=True)) for it in with_limits
        )


def costs(option: Option) -> tuple[int, ...]:
    watts = (option.expected_milliwatts, option.worst_case_milliwatts)
    return (option.unserved_millirps, *watts, option.accelerators)


def at_rate(per_second: float) -> Requirements:
    needs = chat()
    return replace(needs, demand=replace(needs.demand, requests_per_second_milli=round(per_second * 1000)))


def test_in_every_pool_boards_without_a_limit_stay_on_offer() -> None:
    found = Sizer(CATALOGUE, [OPEN, replace(OPEN, pool="other")]).options_for(at_rate(0.01)).options
    assert {o.pool for o in found if not o.board_limit_watts} == {"open", "other"}


def test_who_has_nothing_to_gain_from_a_limit_runs_without() -> None:
    idle = Sizer(CATALOGUE, [OPEN]).cheapest(at_rate(0.01))
    assert idle is not None
    assert idle.board_limit_watts == 0


def test_only_pools_whose_agents_set_limits_are_offered_with_one() -> None:
    found = options(OPEN, CLOSED)
    assert {o.pool for o in found.options} == {"open", "closed"}
    assert {o.pool for o in limited(found)} == {"open"}
    assert all(o.replicas <= 2 for o in limited(options(replace(OPEN, accelerators=2), CLOSED)))
    sizer = Sizer(CATALOGUE, [replace(OPEN, accelerators=8), CLOSED])
    cheapest = [it for rate in range(10, 90, 10) if (it := sizer.cheapest(at_rate(rate)))]
    assert {bool(it.board_limit_watts) for it in cheapest} == {True, False}
    assert all(it.pool == ("open" if it.board_limit_watts else "closed") for it in cheapest)


@pytest.mark.parametrize("reaches_agents", [True, False])
def test_the_nodes_that_a_workload_may_use_decide(reaches_agents: bool) -> None:
    reachable = (replace(OPEN, accelerators=4, board_limits=reaches_agents),)
    assert bool(limited(options(OPEN, reachable=reachable, reach_limits="labels"))) is reaches_agents


def test_other_limits_are_steps_of_what_runs_without_a_new_pod() -> None:
    now = busy()
    found = options(OPEN, running=now)
    assert found.running is not None
    hot = [o for o in found.options if (o.placement_key, o.replicas) == (now.placement_key, now.replicas)]
    assert {o.board_limit_watts for o in hot} == {0, *felt_limits(now)}


def test_a_count_that_nobody_needs_is_kept_under_every_limit() -> None:
    now = replace(busy(), replicas=13)
    found = options(OPEN, running=now)
    assert {o.board_limit_watts for o in found.options if o.replicas == 13} == {0, *felt_limits(now)}


def test_where_agents_are_gone_what_runs_has_its_steps_without_a_limit() -> None:
    now = replace(busy(felt_limits(busy())[-1]), replicas=11)
    lost = options(replace(OPEN, board_limits=False), running=now)
    assert lost.running is None
    assert any((o.placement_key, o.replicas) == (now.placement_key, 11) for o in lost.options)
    assert not limited(lost)
    elsewhere = options(replace(OPEN, board_limits=False), replace(OPEN, pool="other"), running=now)
    assert elsewhere.running is None
    assert {o.pool for o in limited(elsewhere)} == {"other"}


@pytest.mark.parametrize("percent", [60, 140])
def test_a_profile_that_live_watts_contradict_is_not_limited(percent: int) -> None:
    corrections = tuple(Correction(key_of(p), digest_of(p), percent) for p in PROFILES)
    found = options(OPEN, corrections=corrections)
    assert found.options
    assert not limited(found)


def test_a_limit_adds_no_second_sentence_about_what_cannot_run() -> None:
    plain, with_limits = (options(row, inter_token_ms=1) for row in (replace(OPEN, board_limits=False), OPEN))
    assert not plain.options
    assert {it.reason for it in plain.rejections} >= {reasons.TOO_SLOW}
    assert with_limits.rejections == plain.rejections


def test_what_runs_only_under_a_limit_is_no_miss() -> None:
    least = min(o.worst_case_milliwatts for o in options(OPEN).options if not o.board_limit_watts)
    lower = [o for o in limited(options(OPEN)) if o.worst_case_milliwatts < least]
    if not lower:
        return  # the catalogue's smallest batches draw less than any limit
    found = options(OPEN, max_milliwatts=least - 1)
    assert found.options
    assert reasons.TOO_MANY_WATTS not in {it.reason for it in found.rejections if it.subject.startswith(MODEL)}


def test_alternatives_are_other_models_and_boards_not_other_limits() -> None:
    ways = Sizer(CATALOGUE, [OPEN]).best_of_each_profile(replace(chat(), pinned_model=""))
    named = [(o.model, o.precision, o.reasoning, o.accelerator_class, o.accelerators_per_replica) for o in ways]
    assert len(named) == len(set(named))


def test_an_operating_point_is_that_under_the_limit() -> None:
    sizer, needs = Sizer(CATALOGUE, [OPEN]), chat()
    option = next(o for o in limited(options(OPEN)) if not o.unserved_millirps)
    point = sizer.operating_point(needs, option)
    assert point is not None
    assert point.milliwatts <= option.board_limit_watts * 1000 * option.accelerators_per_replica
    assert abs(round(point.end_to_end.p95_ms) - option.latency_p95_ms) <= 1
