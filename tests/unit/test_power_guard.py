"""When the guard sheds, how much, and what it does when it cannot see."""

from __future__ import annotations

from lowbeam.api.v1alpha1.powercap import CapState
from lowbeam.power.caps import Cap
from lowbeam.power.guard import Assessment, GuardMemory, Urgency, assess
from lowbeam.power.ledger import Measured
from lowbeam.power.progress import Promise, check, outstanding
from lowbeam.power.windows import PowerWindow

CAP = Cap("cluster", "1", "", 1000, 0, 0, (), enforce=True, pause_lowest=False)
USABLE = 1_000_000
SEEN = Measured(0, 100, fresh=10)


def window(*watts: int, every_ms: int = 2_000, end_ms: int = 100_000) -> PowerWindow:
    result = PowerWindow()
    for index, value in enumerate(watts):
        result = result.append(end_ms - (len(watts) - 1 - index) * every_ms, value * 1000)
    return result


def look(
    history: PowerWindow,
    *,
    cap: Cap = CAP,
    measured: Measured = SEEN,
    memory: GuardMemory | None = None,
    now_ms: int = 100_000,
    committed: int = 900_000,
    owed: int = 0,
    unsatisfiable: str = "",
    restoring: bool = False,
    decided: int | None = None,
) -> Assessment:
    return assess(
        cap,
        USABLE,
        committed_milliwatts=committed,
        measured=measured,
        window=history,
        now_ms=now_ms,
        memory=memory,
        outstanding_milliwatts=owed,
        unsatisfiable=unsatisfiable,
        restoring=restoring,
        decided_milliwatts=decided,
    )


def test_a_mean_of_ten_seconds_at_97_percent_is_a_soft_shed_down_to_94() -> None:
    result = look(window(*[975] * 6))
    assert (result.urgency, result.milliwatts_to_free, result.act) == (Urgency.SOFT, 35_000, True)
    assert result.state is CapState.SHEDDING
    assert "35 W must go" in result.message


def test_a_spike_shorter_than_the_soft_window_sheds_nothing() -> None:
    assert look(window(900, 900, 900, 900, 900, 985)).urgency is Urgency.NONE


def test_two_seconds_at_the_cap_are_a_hard_shed_in_the_same_tick() -> None:
    result = look(window(900, 900, 900, 900, 900, 1010))
    assert (result.urgency, result.milliwatts_to_free) == (Urgency.HARD, 70_000)


def test_105_percent_is_an_emergency_the_second_time_and_110_at_once() -> None:
    first = look(window(900, 1060))
    assert first.urgency is Urgency.HARD
    second = look(window(900, 1060, 1060), memory=first.memory)
    assert second.urgency is Urgency.EMERGENCY
    assert look(window(1100)).urgency is Urgency.EMERGENCY


def test_one_reading_below_resets_the_count_of_emergencies() -> None:
    first = look(window(900, 1060))
    calm = look(window(900, 1060, 900), memory=first.memory)
    assert look(window(900, 900, 1060), memory=calm.memory).urgency is Urgency.HARD


def test_no_second_shed_is_decided_on_data_from_before_the_first() -> None:
    history = window(*[1020] * 6).restarted(99_000)
    assert look(history).urgency is Urgency.NONE


def test_a_mean_that_is_high_only_because_of_the_settling_sheds_nothing() -> None:
    assert look(window(1090, 1090, 1090, 960, 960, 960)).urgency is Urgency.NONE


def test_what_running_moves_still_owe_is_not_asked_for_again() -> None:
    result = look(window(*[1020] * 6), owed=80_000)
    assert (result.urgency, result.milliwatts_to_free) == (Urgency.NONE, 0)
    assert (result.state, result.growth_allowed) == (CapState.SHEDDING, False)
    assert look(window(*[1020] * 6), owed=30_000).milliwatts_to_free == 50_000


def test_moves_made_for_another_cap_do_not_make_this_one_shed() -> None:
    result = look(window(*[500] * 6), owed=80_000)
    assert (result.state, result.growth_allowed) == (CapState.WITHIN_CAP, True)


def test_an_observing_cap_tells_what_it_would_do_and_acts_not() -> None:
    observer = Cap("cluster", "1", "", 1000, 0, 0, (), enforce=False, pause_lowest=False)
    result = look(window(*[1020] * 6), cap=observer)
    assert (result.state, result.milliwatts_to_free, result.act) == (CapState.SHEDDING, 80_000, False)


def test_silence_for_thirty_seconds_is_blind_mode_and_frees_committed_watts() -> None:
    silent = Measured(2_000_000, 0, stale=10)
    history = window(2000)
    first = look(history, measured=silent, now_ms=0)
    assert (first.urgency, first.growth_allowed) == (Urgency.NONE, False)
    later = look(history, measured=silent, now_ms=30_000, memory=first.memory, committed=950_000)
    assert (later.state, later.urgency, later.milliwatts_to_free) == (CapState.BLIND, Urgency.BLIND, 50_000)


def test_a_draw_above_usable_that_is_not_shed_yet_is_not_within_the_cap() -> None:
    assert look(window(1000)).state is CapState.WITHIN_CAP
    brief = look(window(1001))
    assert (brief.state, brief.reason, brief.urgency) == (CapState.OVER_CAP, "OverCap", Urgency.NONE)
    silent = look(window(1100), measured=Measured(1_100_000, 20, fresh=2, stale=8), restoring=True)
    assert (silent.state, silent.milliwatts_to_free) == (CapState.OVER_CAP, 0)
    assert "only 20 % of the accelerators report" in silent.message


def test_blind_mode_asks_for_no_watts_twice_while_pods_end() -> None:
    silent = Measured(2_000_000, 0, stale=10)
    memory = GuardMemory(unheard_since_ms=0, blind=True)
    result = look(window(2000), measured=silent, memory=memory, committed=950_000, decided=890_000)
    assert (result.state, result.act) == (CapState.BLIND, False)


def test_blind_mode_ends_after_sixty_seconds_of_sight() -> None:
    memory = GuardMemory(blind=True)
    history = window(*[500] * 6)
    memory = look(history, memory=memory, now_ms=100_000).memory
    assert look(history, memory=memory, now_ms=159_000).state is CapState.BLIND
    assert look(history, memory=memory, now_ms=160_000).state is CapState.WITHIN_CAP


def test_below_eighty_percent_heard_nothing_grows() -> None:
    assert not look(window(500), measured=Measured(0, 70, fresh=7, stale=3)).growth_allowed
    assert look(window(500), measured=Measured(0, 70, fresh=7, late=1, stale=2)).growth_allowed


def test_workers_without_meters_are_no_reason_to_go_blind() -> None:
    unmetered = Measured(500_000, 100, unmetered=10)
    memory = GuardMemory()
    for now_ms in range(0, 120_000, 2_000):
        result = look(window(500), measured=unmetered, memory=memory, now_ms=now_ms)
        memory = result.memory
    assert result.state is CapState.WITHIN_CAP


def test_a_cap_that_cannot_be_satisfied_says_the_planner_s_sentence() -> None:
    result = look(window(900), unsatisfiable="cap needs 2 kW")
    assert (result.state, result.reason, result.message) == (CapState.INFEASIBLE, "CapUnsatisfiable", "cap needs 2 kW")


def test_a_maximum_looks_across_actions_and_needs_the_whole_window() -> None:
    history = window(*[900] * 31).restarted(90_000)
    assert history.maximum(60, 100_000) == 900_000
    assert window(*[900] * 20).maximum(60, 100_000) is None


def test_samples_that_stopped_give_no_figure() -> None:
    history = window(*[900] * 31)
    assert history.mean(10, 200_000) is None
    assert history.maximum(60, 200_000) is None


def test_a_move_that_gives_less_than_half_in_its_time_is_ineffective() -> None:
    promise = Promise("a", "w", "", 500_000, 200_000, decided_ms=0, settle_ms=10_000)
    place = ("a", "w", "")
    assert check([promise], {place: 450_000}, 9_999).running == (promise,)
    assert check([promise], {place: 401_000}, 10_000).ineffective == (promise,)
    assert check([promise], {place: 399_000}, 10_000).ineffective == ()
    assert check([promise], {place: 310_000}, 1_000).running == ()


def test_a_move_owes_only_what_cannot_be_seen_yet() -> None:
    promise = Promise("a", "w", "", 500_000, 200_000, decided_ms=0, settle_ms=10_000)
    assert outstanding(CAP, [promise], {("a", "w", ""): 420_000}) == 120_000
    assert outstanding(CAP, [promise], {("a", "w", ""): 900_000}) == 200_000
