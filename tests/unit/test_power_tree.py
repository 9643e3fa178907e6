"""The cap tree: who limits whom, and what a cap in trouble still does."""

from __future__ import annotations

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.errors import BadInput
from lowbeam.power.caps import Cap
from lowbeam.power.tree import build_cap_tree, kept_out, overlaps, pool_of_node, strongest_first


def a_cap(name: str, watts: int = 1000, parent: str = "", **changes: object) -> Cap:
    fields: dict[str, object] = {
        "name": name,
        "uid": name,
        "parent": parent,
        "watts": watts,
        "meter_tolerance_percent": 0,
        "overhead_watts": 0,
        "levers": ("Batch", "Replicas", "Model"),
        "enforce": True,
        "pause_lowest": False,
    }
    return Cap(**{**fields, **changes})  # type: ignore[arg-type]


def test_usable_is_watts_less_tolerance_less_overhead() -> None:
    tree = build_cap_tree([a_cap("cluster", 12_000, meter_tolerance_percent=5, overhead_watts=400)])
    assert tree.usable("cluster") == 11_000_000


def test_the_smallest_cap_on_the_path_wins_and_is_named() -> None:
    tree = build_cap_tree(
        [a_cap("rack", 900, parent="row"), a_cap("cluster", 500), a_cap("row", 800, parent="cluster")]
    )
    assert dict(zip([c.name for c in tree.caps], tree.limited_by, strict=True)) == {
        "cluster": "cluster",
        "rack": "cluster",
        "row": "cluster",
    }
    assert tree.usable("rack") == 500_000


def test_children_may_add_up_to_more_than_their_parent() -> None:
    tree = build_cap_tree([a_cap("cluster", 1000), a_cap("a", 800, "cluster"), a_cap("b", 800, "cluster")])
    assert (tree.usable("a"), tree.usable("b")) == (800_000, 800_000)


def test_a_cap_with_a_missing_parent_keeps_its_own_watts_in_force() -> None:
    tree = build_cap_tree([a_cap("rack", 900, parent="gone"), a_cap("shelf", 2000, parent="rack")])
    assert tree.usable("rack") == 900_000
    assert tree.usable("shelf") == 900_000
    (problem,) = tree.problems
    assert (problem.cap, problem.reason) == ("rack", "CapParentMissing")
    assert '"gone"' in problem.message


def test_every_cap_of_a_cycle_is_named_and_keeps_its_own_watts() -> None:
    tree = build_cap_tree(
        [
            a_cap("a", 900, "b"),
            a_cap("b", 700, "c"),
            a_cap("c", 800, "a"),
            a_cap("below", 5000, "a"),
            a_cap("other", 100),
        ]
    )
    assert {p.cap for p in tree.problems} == {"a", "b", "c"}
    assert {p.reason for p in tree.problems} == {"CapCycle"}
    assert [tree.usable(n) for n in ("a", "b", "c")] == [900_000, 700_000, 800_000]
    assert tree.usable("below") == 900_000


def test_a_cap_that_is_its_own_parent_is_a_cycle() -> None:
    (problem,) = build_cap_tree([a_cap("a", parent="a")]).problems
    assert problem.reason == "CapCycle"


def test_an_observing_cap_does_not_limit_an_enforcing_one_below_it() -> None:
    tree = build_cap_tree([a_cap("cluster", 100, enforce=False), a_cap("team", 500, "cluster")])
    assert tree.usable("team") == 500_000
    assert tree.usable("cluster") == 100_000


def test_overhead_above_the_watts_is_reported_and_leaves_nothing() -> None:
    tree = build_cap_tree([a_cap("cluster", 100, overhead_watts=200)])
    assert tree.usable("cluster") == 0
    assert [p.reason for p in tree.problems] == ["CapNothingUsable"]


def test_two_caps_of_one_name_are_refused() -> None:
    with pytest.raises(BadInput, match="row"):
        build_cap_tree([a_cap("row"), a_cap("row", 5)])


ROW_AND_RACK = {"row": {"row": "1"}, "rack": {"rack": "7"}}


def test_the_deepest_pool_of_a_node_wins_and_its_row_counts_it_too() -> None:
    tree = build_cap_tree([a_cap("row", pool="row"), a_cap("rack", parent="row", pool="rack")])
    pools = strongest_first(ROW_AND_RACK.items(), tree)
    match = pool_of_node({"row": "1", "rack": "7"}, pools, tree)
    assert (match.pool, match.overlapping) == ("rack", ())
    assert {c.name for c, _ in tree.enforced_over("any", "rack")} == {"row", "rack"}
    assert {c.name for c, _ in tree.enforced_over("any", "row")} == {"row"}
    out = kept_out(pools, tree, [])
    assert out["row"] == ({"rack": "7"},), "the row's pods stay off the rack"
    assert (out["rack"], out[""]) == ((), ({"rack": "7"}, {"row": "1"}))


def test_pools_that_share_no_node_need_no_distance() -> None:
    tree = build_cap_tree([a_cap("a", pool="a"), a_cap("b", pool="b", enforce=False)])
    pools = strongest_first([("a", {"zone": "a"}), ("b", {"row": "1"})], tree)
    apart = [pool_of_node(node, pools, tree) for node in ({"zone": "a"}, {"row": "1"})]
    assert kept_out(pools, tree, apart) == {"a": (), "b": (), "": ({"zone": "a"}, {"row": "1"})}
    both = pool_of_node({"zone": "a", "row": "1"}, pools, tree)
    assert kept_out(pools, tree, [*apart, both])["b"] == ({"zone": "a"},)


def test_pools_that_overlap_outside_the_tree_are_reported() -> None:
    tree = build_cap_tree([a_cap("h100", pool="h100"), a_cap("zone", pool="zone")])
    pools = strongest_first([("zone", {"zone": "a"}), ("h100", {"gpu": "h100", "zone": "a"})], tree)
    match = pool_of_node({"gpu": "h100", "zone": "a"}, pools, tree)
    assert (match.pool, match.overlapping) == ("h100", ("zone",))
    (problem,) = overlaps({"n2": match, "n1": match, "n3": pool_of_node({"zone": "a"}, pools, tree)})
    assert (problem.cap, problem.reason) == ("zone", reasons.CAP_OVERLAPS)
    assert "2 of its nodes (the first: n1)" in problem.message


def test_a_cap_that_only_observes_takes_no_node_from_one_that_enforces() -> None:
    tree = build_cap_tree([a_cap("looks", pool="looks", enforce=False), a_cap("zone", pool="zone")])
    pools = strongest_first([("looks", {"gpu": "h100", "zone": "a"}), ("zone", {"zone": "a"})], tree)
    assert pool_of_node({"gpu": "h100", "zone": "a"}, pools, tree).pool == "zone"


def test_a_node_that_no_selector_fits_is_in_no_pool() -> None:
    tree = build_cap_tree([])
    match = pool_of_node({"zone": "b"}, strongest_first([("a", {"zone": "a"}), ("empty", {})], tree), tree)
    assert match.pool is None
