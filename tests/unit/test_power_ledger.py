"""What replicas may draw and what they draw."""

from __future__ import annotations

from lowbeam.power.caps import Cap
from lowbeam.power.ledger import Reading, ReplicaCharge, ReplicaState, committed, measured, over
from lowbeam.power.tree import build_cap_tree

CLUSTER = Cap("cluster", "1", "", 1000, 0, 0, (), enforce=True, pause_lowest=False)
TEAM = Cap("team", "2", "cluster", 600, 0, 0, (), enforce=True, pause_lowest=False, namespaces=frozenset({"a"}))
TREE = build_cap_tree([CLUSTER, TEAM])


def charge(namespace: str = "a", state: ReplicaState = ReplicaState.LIVE, **changes: int | None) -> ReplicaCharge:
    limits = {"limit_milliwatts": 400_000, "worst_case_milliwatts": 300_000, "highest_observed_milliwatts": None}
    return ReplicaCharge(namespace=namespace, workload="w", pool="", pod_uid="", state=state, **{**limits, **changes})  # type: ignore[arg-type]


def reading(milliwatts: int | None, age_ms: int = 0, *, metered: bool = True, accelerators: int = 1) -> Reading:
    return Reading("a", "w", "", "u", accelerators, milliwatts, 100_000 - age_ms, 400_000, metered)


def test_a_replica_is_charged_at_its_worst_case_or_what_it_was_seen_to_draw_never_above_its_limit() -> None:
    assert charge().milliwatts == 300_000
    assert charge(highest_observed_milliwatts=350_000).milliwatts == 350_000
    assert charge(highest_observed_milliwatts=450_000).milliwatts == 400_000
    assert charge(limit_milliwatts=None, highest_observed_milliwatts=450_000).milliwatts == 450_000


def test_pending_terminating_and_assumed_replicas_are_charged_like_live_ones() -> None:
    charges = [charge(state=state) for state in ReplicaState]
    assert committed(TREE, charges) == {"cluster": 1_200_000, "team": 1_200_000}


def test_a_replica_counts_in_every_cap_that_covers_it() -> None:
    assert committed(TREE, [charge("a"), charge("b")]) == {"cluster": 600_000, "team": 300_000}


def test_a_cap_that_is_over_already_blocks_only_what_raises_it() -> None:
    totals = {"cluster": 2_000_000, "team": 0}
    assert over(TREE, totals, {"cluster": 0, "team": 100_000}) == ()
    assert over(TREE, totals, {"cluster": 1, "team": 600_001}) == ("cluster", "team")


def test_a_late_reading_counts_ten_percent_more() -> None:
    result = measured(TREE, [reading(200_000, age_ms=6_000)], 100_000)["cluster"]
    assert (result.milliwatts, result.late, result.coverage_percent, result.heard_percent) == (220_000, 1, 0, 100)


def test_a_stale_a_missing_and_a_rejected_reading_count_at_the_worst_case() -> None:
    result = measured(TREE, [reading(200_000, age_ms=16_000), reading(None)], 100_000)["cluster"]
    assert (result.milliwatts, result.stale, result.coverage_percent) == (800_000, 2, 0)


def test_each_cap_ages_readings_by_its_own_limits() -> None:
    patient = Cap(
        "cluster", "1", "", 1000, 0, 0, (), enforce=True, pause_lowest=False, late_seconds=60, stale_seconds=90
    )
    result = measured(build_cap_tree([patient]), [reading(200_000, age_ms=16_000)], 100_000)["cluster"]
    assert (result.milliwatts, result.fresh) == (200_000, 1)


def test_a_worker_without_a_meter_counts_at_worst_case_but_does_not_lower_the_coverage() -> None:
    result = measured(TREE, [reading(100_000), reading(None, metered=False, accelerators=4)], 100_000)["cluster"]
    assert result.milliwatts == 500_000
    assert (result.coverage_percent, result.unmetered, result.stale) == (100, 4, 0)


def test_coverage_counts_accelerators_not_workers() -> None:
    result = measured(TREE, [reading(100_000, accelerators=1), reading(None, accelerators=3)], 100_000)["cluster"]
    assert result.coverage_percent == 25


def test_nothing_running_is_full_coverage() -> None:
    assert measured(TREE, [], 0)["cluster"].coverage_percent == 100
