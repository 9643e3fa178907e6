"""Invariants of the cap tree, the two ledgers and the judgement of meters."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lowbeam.power.caps import Cap
from lowbeam.power.ledger import Reading, ReplicaCharge, ReplicaState, committed, measured
from lowbeam.power.tree import build_cap_tree, usable_milliwatts
from lowbeam.power.trust import MeterHistory, MeterLimits, Quality, Sample, judge

NAMES = ("a", "b", "c", "d", "e")
WATTS = st.one_of(
    st.none(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(min_value=0, max_value=2000),
)
JOULES = st.one_of(st.none(), st.floats(min_value=0, max_value=1e7), st.just(math.nan))


@st.composite
def caps(draw: st.DrawFn) -> list[Cap]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
    return [
        Cap(
            name=name,
            uid=name,
            parent=draw(st.sampled_from(("", "gone", *NAMES))),
            watts=draw(st.integers(1, 5000)),
            meter_tolerance_percent=draw(st.integers(0, 50)),
            overhead_watts=draw(st.integers(0, 3000)),
            levers=(),
            enforce=draw(st.booleans()),
            pause_lowest=False,
            pool=draw(st.sampled_from((None, name))),
            namespaces=draw(st.sampled_from((None, frozenset({"x"}), frozenset({"x", "y"})))),
        )
        for name in names
    ]


@st.composite
def charges(draw: st.DrawFn) -> list[ReplicaCharge]:
    return [
        ReplicaCharge(
            namespace=draw(st.sampled_from(("x", "y"))),
            workload="w",
            pool=draw(st.sampled_from(("", *NAMES))),
            pod_uid=str(index),
            limit_milliwatts=draw(st.one_of(st.none(), st.integers(0, 900_000))),
            worst_case_milliwatts=draw(st.integers(0, 900_000)),
            highest_observed_milliwatts=draw(st.one_of(st.none(), st.integers(0, 900_000))),
            state=draw(st.sampled_from(ReplicaState)),
        )
        for index in range(draw(st.integers(0, 6)))
    ]


@given(caps(), st.randoms())
def test_the_tree_does_not_depend_on_the_order_of_the_caps(given_caps: list[Cap], random: object) -> None:
    shuffled = list(given_caps)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert build_cap_tree(shuffled) == build_cap_tree(given_caps)


@given(caps())
def test_no_cap_is_lost_or_raised_whatever_its_parents_are(given_caps: list[Cap]) -> None:
    tree = build_cap_tree(given_caps)
    assert [cap.name for cap in tree.caps] == sorted(cap.name for cap in given_caps)
    for cap, usable, by in zip(tree.caps, tree.usable_milliwatts, tree.limited_by, strict=True):
        assert usable <= usable_milliwatts(cap)
        limiting = next(c for c in tree.caps if c.name == by)
        assert usable == usable_milliwatts(limiting)
        assert not cap.enforce or limiting.enforce


@given(caps())
def test_a_valid_parent_is_never_below_its_child(given_caps: list[Cap]) -> None:
    tree = build_cap_tree(given_caps)
    in_trouble = {problem.cap for problem in tree.problems if problem.reason == "CapCycle"}
    for cap in tree.caps:
        parent = next((c for c in tree.caps if c.name == cap.parent), None)
        if parent is not None and parent.enforce and cap.name not in in_trouble:
            assert (tree.usable(cap.name) or 0) <= (tree.usable(parent.name) or 0)


@given(caps(), charges(), charges())
def test_another_charge_never_lowers_the_committed_watts(
    given_caps: list[Cap], some: list[ReplicaCharge], more: list[ReplicaCharge]
) -> None:
    tree = build_cap_tree(given_caps)
    before, after = committed(tree, some), committed(tree, [*some, *more])
    assert all(after[name] >= before[name] for name in before)


@given(st.integers(0, 900_000), st.integers(0, 60_000), st.integers(1, 900_000), st.booleans())
def test_losing_a_reading_never_lowers_what_is_measured_below_its_ceiling(
    milliwatts: int, age_ms: int, worst: int, metered: bool
) -> None:
    tree = build_cap_tree([Cap("c", "c", "", 1000, 0, 0, (), enforce=True, pause_lowest=False)])
    known = Reading("x", "w", "", "u", 1, milliwatts, 100_000 - age_ms, worst, metered)
    lost = replace(known, milliwatts=None)
    assert measured(tree, [lost], 100_000)["c"].milliwatts == worst
    assert measured(tree, [known], 100_000)["c"].milliwatts <= worst * 105 // 100
    if age_ms > 15_000:
        assert measured(tree, [known], 100_000)["c"].milliwatts == worst


@given(
    st.lists(st.tuples(WATTS, JOULES, st.booleans()), min_size=1, max_size=45),
    st.integers(0, 60_000),
    st.one_of(st.none(), st.integers(100_000, 700_000)),
)
def test_no_meter_moves_more_than_its_own_share_and_none_becomes_nothing(
    claims: list[tuple[float | None, float | None, bool]], age_ms: int, enforced: int | None
) -> None:
    limits = MeterLimits(max_milliwatts=700_000, idle_milliwatts=100_000, enforced_milliwatts=enforced)
    history = MeterHistory()
    for second, (watts, joules, busy) in enumerate(claims):
        sample = Sample(second * 1000, watts, joules, busy)
        verdict = judge(sample, history, limits, second * 1000 + age_ms)
        history = history.append(sample)
        assert limits.idle_milliwatts // 2 <= verdict.milliwatts <= limits.worst_case_milliwatts * 105 // 100
        if verdict.believed_milliwatts is None:
            assert verdict.quality is Quality.STALE
        if verdict.quality is Quality.STALE:
            assert verdict.milliwatts == limits.worst_case_milliwatts


@given(st.floats(min_value=100, max_value=700))
def test_a_wrong_unit_is_never_believed(watts: float) -> None:
    limits = MeterLimits(max_milliwatts=700_000, idle_milliwatts=100_000)
    for factor in (1000, 1 / 1000):
        verdict = judge(Sample(0, watts * factor), MeterHistory(), limits, 0)
        assert (verdict.quality, verdict.reason.value) == (Quality.STALE, "UnitError")
