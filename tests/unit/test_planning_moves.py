"""A move is named by its heaviest lever and says what it frees, what it needs and how long it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.catalog.facts import Reasoning
from lowbeam.planning import Lever, move_between
from lowbeam.planning.moves import allowed_by, levers_between
from lowbeam.sizing import Option
from tests.builders import ALL_LEVERS, option

NOW = option("large", watts=400, replicas=2, batch=16, capacity=20)

STEPS = [
    ("the same setting at another demand", replace(NOW, expected_milliwatts=1), Lever.STAY, True, 0),
    ("a smaller batch", option("large", watts=300, replicas=2, batch=8, capacity=15), Lever.BATCH, True, 10_000),
    ("a power limit", replace(NOW, board_limit_watts=300), Lever.POWER_LIMIT, True, 5_000),
    ("a smaller batch and one", replace(NOW, batch_limit=8, board_limit_watts=300), Lever.POWER_LIMIT, True, 10_000),
    ("one and fewer replicas", replace(NOW, replicas=1, board_limit_watts=300), Lever.REPLICAS, False, 45_000),
    ("another model under one", replace(NOW, model="small", board_limit_watts=300), Lever.MODEL, False, 180_000),
    ("fewer replicas", option("large", watts=200, replicas=1, batch=16), Lever.REPLICAS, False, 45_000),
    ("both", option("large", watts=150, replicas=1, batch=8), Lever.REPLICAS, False, 45_000),
    (
        "another precision",
        replace(NOW, precision="int8", worst_case_milliwatts=300_000),
        Lever.PRECISION,
        False,
        180_000,
    ),
    ("another class", replace(NOW, accelerator_class="l4"), Lever.PLACEMENT, False, 180_000),
    ("another pool", replace(NOW, pool="b"), Lever.PLACEMENT, False, 180_000),
    ("less reasoning", replace(NOW, reasoning=Reasoning.LOW), Lever.REASONING, False, 180_000),
    ("another model", replace(NOW, model="small", precision="int8"), Lever.MODEL, False, 180_000),
    ("nothing", None, Lever.PAUSE, False, 45_000),
]


@pytest.mark.parametrize(("what", "after", "lever", "hot", "settle_ms"), STEPS, ids=[row[0] for row in STEPS])
def test_the_heaviest_lever_names_the_move(
    what: str, after: Option | None, lever: Lever, hot: bool, settle_ms: int
) -> None:
    move = move_between(NOW, after)
    assert (move.lever, move.hot, move.settle_ms) == (lever, hot, settle_ms), what


def test_watts_are_worst_case_and_negative_when_taken() -> None:
    small = option("large", watts=300, replicas=2, batch=8)
    assert move_between(NOW, small).freed_milliwatts == 100_000
    assert move_between(small, NOW).freed_milliwatts == -100_000
    assert move_between(NOW, None).freed_milliwatts == 400_000


def test_a_replacement_needs_room_for_the_new_beside_the_old() -> None:
    small = option("small", watts=100)
    assert move_between(NOW, small).surge_milliwatts == 100_000
    assert move_between(NOW, option("large", watts=300, replicas=2)).surge_milliwatts == 0
    assert move_between(small, replace(small, replicas=3, worst_case_milliwatts=300_000)).surge_milliwatts == 200_000


def test_who_comes_back_is_told_from_who_starts() -> None:
    assert move_between(None, NOW).lever is Lever.START
    assert move_between(None, NOW, was_paused=True).lever is Lever.RESUME
    assert move_between(None, None).lever is Lever.STAY


def test_a_smaller_model_on_fewer_boards_at_the_same_capacity_cuts_no_replicas() -> None:
    small = option("small", replicas=1, capacity=20)
    assert levers_between(NOW, small) == {Lever.MODEL}
    assert levers_between(NOW, replace(small, capacity_millirps=1)) == {Lever.MODEL, Lever.REPLICAS}


def test_a_cap_must_allow_every_lever_of_a_step() -> None:
    step = levers_between(NOW, option("small", capacity=1))
    assert allowed_by(step, ALL_LEVERS)
    assert not allowed_by(step, ("Batch", "Model", "Pause"))
    assert allowed_by(levers_between(NOW, replace(NOW, pool="b")), ("Model",))
    assert not allowed_by(levers_between(NOW, replace(NOW, pool="b")), ("Batch", "Replicas", "Precision"))
    assert allowed_by(frozenset(), ())


@pytest.mark.parametrize("after", [NOW, replace(NOW, model="small"), replace(NOW, batch_limit=8, engine="TEI")])
def test_a_cap_that_may_not_limit_boards_does_so_in_no_company(after: Option) -> None:
    others = tuple(it for it in ALL_LEVERS if it != Lever.POWER_LIMIT)
    assert allowed_by(levers_between(NOW, after), others)
    assert not allowed_by(levers_between(NOW, replace(after, board_limit_watts=300)), others)
    assert allowed_by(levers_between(NOW, replace(after, board_limit_watts=300)), ALL_LEVERS)


def test_a_limit_that_is_lifted_beside_another_lever_is_none_of_its_own() -> None:
    limited, fewer = replace(NOW, board_limit_watts=300), replace(NOW, replicas=NOW.replicas - 1)
    assert levers_between(limited, fewer) == {Lever.REPLICAS}
    assert levers_between(limited, replace(fewer, board_limit_watts=400)) == {Lever.REPLICAS}
    assert levers_between(limited, replace(fewer, board_limit_watts=200)) == {Lever.REPLICAS, Lever.POWER_LIMIT}
    assert levers_between(limited, NOW) == {Lever.POWER_LIMIT}, "alone it names the step"


def test_a_replacement_that_keeps_or_lifts_the_limit_is_no_new_one() -> None:
    limited = replace(NOW, board_limit_watts=300)
    assert levers_between(limited, replace(NOW, model="small", board_limit_watts=400)) == {Lever.MODEL}
    assert levers_between(limited, replace(limited, model="small")) == {Lever.MODEL}
    assert levers_between(limited, replace(NOW, model="small")) == {Lever.MODEL}
