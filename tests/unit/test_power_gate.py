"""What lets watts return, and what holds them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.power.caps import Cap, RestoreRules
from lowbeam.power.gate import CapView, GateState, Hold, Permit, jitter_ms, permit
from lowbeam.power.pins import Direction, MoveHistory
from lowbeam.power.windows import PowerWindow

RULES = RestoreRules(jitter_seconds=0)
CAP = Cap("cluster", "1", "", 1000, 0, 0, (), enforce=True, pause_lowest=False, restore=RULES)
KEY = ("a", "w")
NOW = 1_000_000


def history(watts: int, seconds: int = 62, end_ms: int = NOW) -> PowerWindow:
    result = PowerWindow()
    for at_ms in range(end_ms - seconds * 1000, end_ms + 1, 2000):
        result = result.append(at_ms, watts * 1000)
    return result


VIEW = CapView(CAP, 1_000_000, history(500), 100)


def ask(
    state: GateState | None = None,
    view: CapView | None = VIEW,
    extra: int = 40_000,
    committed: int = 500_000,
    now_ms: int = NOW,
    *,
    paused: bool = False,
) -> Permit | Hold:
    return permit(
        state or GateState(),
        KEY,
        uid="u",
        extra_milliwatts={"cluster": extra},
        committed_milliwatts={"cluster": committed},
        views={} if view is None else {"cluster": view},
        now_ms=now_ms,
        paused=paused,
    )


def reason(answer: Permit | Hold) -> str:
    return answer.reason if isinstance(answer, Hold) else "Permit"


def test_with_room_fresh_data_and_patience_the_watts_return() -> None:
    assert ask() == Permit()


@pytest.mark.parametrize(
    ("view", "committed", "expected"),
    [
        (replace(VIEW, window=history(880)), 500_000, "MeasuredAboveGate"),
        (replace(VIEW, window=history(879)), 500_000, "Permit"),
        (VIEW, 900_001, "CommittedAboveGate"),
        (VIEW, 900_000, "Permit"),
        (replace(VIEW, coverage_percent=94), 500_000, "CoverageTooLow"),
        (replace(VIEW, growth_allowed=False), 500_000, "GrowthFrozen"),
        (replace(VIEW, window=history(500, 40)), 500_000, "NotEnoughHistory"),
        (replace(VIEW, window=PowerWindow()), 500_000, "NotEnoughHistory"),
    ],
)
def test_each_rule_holds_by_its_name(view: CapView, committed: int, expected: str) -> None:
    assert reason(ask(view=view, committed=committed)) == expected


def test_a_paused_workload_starts_again_as_soon_as_it_fits() -> None:
    assert ask(committed=960_000, paused=True) == Permit()
    assert reason(ask(committed=960_001, paused=True)) == "CommittedAboveGate"
    assert reason(ask(view=replace(VIEW, window=history(880)), paused=True)) == "MeasuredAboveGate"


def test_one_peak_in_the_window_holds_for_the_whole_window() -> None:
    window = history(500, end_ms=NOW - 30_000).append(NOW - 28_000, 900_000)
    for at_ms in range(NOW - 26_000, NOW + 1, 2_000):
        window = window.append(at_ms, 500_000)
    assert reason(ask(view=replace(VIEW, window=window))) == "MeasuredAboveGate"


def test_nothing_returns_within_the_dwell_time_of_a_shed_under_the_cap() -> None:
    state = GateState().shed(("b", "other"), "cluster", NOW - 119_000)
    answer = ask(state)
    assert isinstance(answer, Hold)
    assert (answer.reason, answer.retry_at_ms) == ("DwellTime", NOW + 1_000)
    assert ask(GateState().shed(("b", "other"), "cluster", NOW - 120_000)) == Permit()


def test_a_hold_says_the_same_at_each_look_while_nothing_changes() -> None:
    state = GateState().shed(("b", "other"), "cluster", NOW - 50_000)
    assert {
        answer.message for now_ms in (NOW, NOW + 2_000) if isinstance(answer := ask(state, now_ms=now_ms), Hold)
    } == {'PowerCap "cluster" shed less than 120 s ago'}
    high = [ask(view=replace(VIEW, window=history(watts))) for watts in (901, 955)]
    assert {answer.message for answer in high if isinstance(answer, Hold)} == {
        'PowerCap "cluster": what was drawn in the last 60 s must stay below 88 % of usable'
    }


def test_the_dwell_time_differs_per_workload_and_is_always_the_same_for_one() -> None:
    waits = {jitter_ms(f"uid-{i}", 30) for i in range(50)}
    assert len(waits) > 40
    assert all(0 <= wait <= 30_000 for wait in waits)
    assert jitter_ms("uid-1", 30) == jitter_ms("uid-1", 30)
    assert jitter_ms("uid-1", 0) == 0


def test_only_one_workload_returns_in_a_step_time() -> None:
    state = GateState().restored(("b", "other"), {"cluster": 10_000}, {"cluster": VIEW}, NOW - 29_000)
    assert reason(ask(state, extra=10_000)) == "StepTime"
    state = GateState().restored(("b", "other"), {"cluster": 10_000}, {"cluster": VIEW}, NOW - 30_000)
    assert ask(state, extra=10_000) == Permit()


def test_at_most_five_percent_of_the_cap_return_in_a_minute() -> None:
    state = GateState().restored(("b", "other"), {"cluster": 40_000}, {"cluster": VIEW}, NOW - 30_000)
    answer = ask(state, extra=40_000)  # 15 of 50 W are left to spend
    assert isinstance(answer, Hold)
    assert (answer.reason, answer.retry_at_ms) == ("RampLimit", NOW + 6_000)
    assert ask(state, extra=35_000) == Permit()


def test_a_move_larger_than_a_minute_s_share_passes_and_is_paid_back_first() -> None:
    assert ask(extra=200_000) == Permit()
    state = GateState().restored(("b", "other"), {"cluster": 200_000}, {"cluster": VIEW}, NOW - 180_000)
    assert reason(ask(state, extra=10_000)) == "RampLimit"
    state = GateState().restored(("b", "other"), {"cluster": 200_000}, {"cluster": VIEW}, NOW - 192_000)
    assert ask(state, extra=10_000) == Permit()


def test_a_cap_that_is_not_raised_is_not_asked() -> None:
    assert ask(view=replace(VIEW, coverage_percent=0), extra=0) == Permit()


def test_of_a_deleted_cap_dwell_and_step_time_still_pace_the_return() -> None:
    slow = replace(VIEW, cap=replace(CAP, restore=replace(RULES, dwell_seconds=200, step_seconds=60)))
    state = GateState().shed(("b", "other"), "cluster", NOW - 10_000, slow)
    assert reason(ask(state, view=None, now_ms=NOW + 189_000)) == "DwellTime"
    later = state.restored(("b", "other"), {"cluster": 100_000}, {}, NOW + 190_000)
    assert reason(ask(later, view=None, now_ms=NOW + 249_000)) == "StepTime"
    assert ask(later, view=None, now_ms=NOW + 250_000) == Permit()


def test_the_few_watts_of_a_deleted_cap_do_not_ration_the_return_and_the_caps_that_remain_do() -> None:
    typo = CapView(replace(CAP, name="typo", watts=500), 500_000, history(400), 100)
    state = GateState().shed(("b", "other"), "typo", NOW - 200_000, typo)
    state = state.restored(("b", "other"), {"typo": 400_000, "cluster": 400_000}, {"cluster": VIEW}, NOW - 30_000)

    def back(cluster_milliwatts: int) -> Permit | Hold:
        extra = {"typo": 400_000, "cluster": cluster_milliwatts}
        committed = {"cluster": 100_000}
        return permit(
            state,
            KEY,
            uid="u",
            extra_milliwatts=extra,
            committed_milliwatts=committed,
            views={"cluster": VIEW},
            now_ms=NOW,
        )

    assert back(0) == Permit()
    answer = back(400_000)
    assert isinstance(answer, Hold)
    assert (answer.reason, answer.message) == ("RampLimit", 'PowerCap "cluster" gives back 50 W per minute')
    assert answer.retry_at_ms == NOW - 30_000 + 8 * 60_000


def test_a_cap_that_comes_back_is_owed_nothing_of_what_returned_without_it() -> None:
    state = GateState().restored(("b", "other"), {"cluster": 400_000}, {"cluster": VIEW}, NOW - 90_000)
    assert reason(ask(state)) == "RampLimit"
    assert ask(state.restored(("b", "other"), {"cluster": 400_000}, {}, NOW - 60_000)) == Permit()


def test_memory_of_what_is_gone_is_dropped() -> None:
    state = GateState().shed(KEY, "cluster", NOW).shed(("a", "gone"), "old", NOW)
    pruned = state.pruned(frozenset({KEY}), frozenset({"cluster"}))
    assert (set(pruned.caps), set(pruned.workloads)) == ({"cluster"}, {KEY})


def test_the_second_reversal_in_ten_minutes_pins_the_workload() -> None:
    moves = MoveHistory()
    for direction, at_ms in ((Direction.DOWN, 0), (Direction.UP, 60_000), (Direction.DOWN, 120_000)):
        moves = moves.moved(direction, at_ms)
    assert moves.pinned(719_999)
    assert moves.may_rise_at(130_000) == 720_000
    assert not moves.pinned(720_000)


def test_a_pin_doubles_up_to_an_hour_and_is_forgotten_after_an_hour_of_calm() -> None:
    moves, at_ms, lengths = MoveHistory().moved(Direction.DOWN, 0), 0, []
    for _ in range(5):
        at_ms = moves.may_rise_at(at_ms)
        moves = moves.moved(Direction.UP, at_ms).moved(Direction.DOWN, at_ms + 1000)
        at_ms += 1000
        lengths.append((moves.pinned_until_ms - at_ms) // 60_000)
    assert lengths == [10, 20, 40, 60, 60]
    calm = moves.pinned_until_ms + 3_600_001
    moves = moves.moved(Direction.UP, calm).moved(Direction.DOWN, calm + 1000)
    assert (moves.pinned_until_ms - calm - 1000) // 60_000 == 10


def test_a_pinned_workload_is_held_with_the_time_that_is_left() -> None:
    state = GateState().shed(KEY, "cluster", NOW - 400_000)
    state = state.restored(KEY, {"cluster": 1_000}, {"cluster": VIEW}, NOW - 300_000)
    state = state.shed(KEY, "cluster", NOW - 200_000)
    answer = ask(state)
    assert isinstance(answer, Hold)
    assert (answer.reason, answer.retry_at_ms) == ("PinnedByAntiFlap", NOW + 400_000)
    assert "7 min" in answer.message
