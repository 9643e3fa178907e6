"""From counters to windows: resets, replicas that come and go, gaps, saturation, burstiness."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbeam.api.wire import LARGEST_COUNT
from lowbeam.sizing.demand import Window
from lowbeam.sizing.demand_windows import LONGEST_MS, OpenWindow, Reading, close, look, surged

WINDOW_MS = 600_000
LOOK_MS = 10_000


def reading(uid: str, at_ms: int, received: int | None, **told: Any) -> Reading:
    return replace(Reading(uid, at_ms, received), **told)


def played(looks: Iterable[tuple[list[Reading], int]], *, held: bool = False) -> OpenWindow:
    """A window of looks: (readings, ready replicas), ten seconds apart."""
    window = OpenWindow(0, 0)
    for number, (readings, ready) in enumerate(looks, start=1):
        window, _ = look(window, readings, ready=ready, held=held, now_ms=number * LOOK_MS)
    return window


def closed(window: OpenWindow) -> Window | None:
    return close(window, WINDOW_MS)[0]


def counted(*replicas: list[int | None], first: int = 1) -> list[tuple[list[Reading], int]]:
    """One list of counter values per replica, None = silent; all of them ready all the time."""
    return [
        (
            [
                reading(f"pod-{which}", (number + first) * LOOK_MS, values[number])
                for which, values in enumerate(replicas)
                if values[number] is not None
            ],
            len(replicas),
        )
        for number in range(len(replicas[0]))
    ]


def rising(per_look: int, looks: int = 61, start: int = 0) -> list[int | None]:
    return [start + per_look * number for number in range(looks)]


def millirps(window: OpenWindow) -> int:
    found = closed(window)
    assert found is not None
    return found.millirps


def test_the_rate_is_what_all_replicas_got_together() -> None:
    assert millirps(played(counted(rising(20), rising(40)))) == pytest.approx(6000, rel=0.01)


def test_a_counter_that_starts_anew_is_neither_zero_nor_a_jump() -> None:
    restarted = [*rising(20, 30, start=5_000_000), *rising(20, 31)]
    assert millirps(played(counted(restarted))) == pytest.approx(2000, rel=0.02)


@pytest.mark.parametrize("counter", ["received", "completed", "input_tokens", "output_tokens"])
def test_a_counter_that_jumps_beyond_any_load_is_not_believed_and_the_rest_goes_on(counter: str) -> None:
    looks = counted(rising(20), rising(20))
    at = LARGEST_COUNT - 10_000
    for number in range(30, 61):
        liar, honest = looks[number][0]
        looks[number] = ([replace(liar, **{counter: at + 20 * number}), honest], 2)
    looks = [([replace(it, **{counter: getattr(it, counter) or 0}) for it in many], ready) for many, ready in looks]
    window = played(looks)
    assert millirps(window) == pytest.approx(4000, rel=0.02)
    seen = surged(window, WINDOW_MS)
    assert seen is not None
    assert seen[0] * 1000 / seen[1] == pytest.approx(4, rel=0.02)
    assert max(window.completed, window.input_tokens, window.output_tokens) < 10_000


def test_a_replica_whose_counter_always_jumps_makes_no_window() -> None:
    assert closed(played(counted([number * 10**12 for number in range(61)]))) is None


def test_a_silent_replica_is_thought_to_get_what_the_others_get() -> None:
    assert millirps(played(counted(rising(20), rising(20), [None] * 61))) > 5800


def test_replicas_that_come_and_go_change_nothing_about_the_sum() -> None:
    looks = counted(rising(40, 31))
    for number in range(31, 61):  # a second one takes half
        ms = (number + 1) * LOOK_MS
        half = 40 * 30 + 20 * (number - 30)
        looks.append(([reading("pod-0", ms, half), reading("pod-9", ms, 20 * (number - 30))], 2))
    assert millirps(played(looks)) == pytest.approx(4000, rel=0.05)


def test_a_count_of_replicas_that_falls_under_the_same_load_is_no_rise() -> None:
    looks, totals = [], [0] * 10
    for number in range(1, 62):  # ten replicas at first, one of them in the end, 60 requests a look all the time
        alive = 10 if number < 10 else 1
        for which in range(alive):
            totals[which] += 60 // alive
        looks.append(([reading(f"pod-{which}", number * LOOK_MS, totals[which]) for which in range(alive)], alive))
    assert millirps(played(looks)) == pytest.approx(6000, rel=0.005)
    seen = surged(played(looks[:20]), WINDOW_MS)
    assert seen is not None
    assert seen[0] * 1000 / seen[1] == pytest.approx(6, rel=0.005)


def test_a_window_that_was_hardly_seen_is_none() -> None:
    mostly_silent = [*rising(20, 20), *[None] * 41]
    assert closed(played(counted(mostly_silent))) is None
    assert closed(OpenWindow(0, WINDOW_MS)) is None


def test_no_requests_at_ready_replicas_are_a_rate_of_zero_and_silence_is_not() -> None:
    assert millirps(played(counted([7] * 61))) == 0
    assert closed(played(counted([None] * 61))) is None


def test_a_reading_that_is_not_new_says_nothing() -> None:
    window = OpenWindow(0, 0)
    for now_ms, at_ms in ((LOOK_MS, 5_000), (2 * LOOK_MS, 5_000), (3 * LOOK_MS, 4_000)):
        window, intervals = look(window, [reading("pod", at_ms, now_ms)], ready=1, held=False, now_ms=now_ms)
        assert not intervals
    assert window.requests == 0


def test_what_happened_during_a_long_silence_is_left_out() -> None:
    window, _ = look(OpenWindow(0, 0), [reading("pod", LOOK_MS, 10)], ready=1, held=False, now_ms=LOOK_MS)
    late_ms = LOOK_MS + LONGEST_MS + 1
    window, intervals = look(window, [reading("pod", late_ms, 100_000)], ready=1, held=False, now_ms=late_ms)
    assert not intervals
    assert window.requests == 0


def test_an_operator_that_slept_through_a_window_makes_none_of_it() -> None:
    window = played(counted(rising(20, 121)))
    assert window.looked_ms - window.began_ms > 2 * WINDOW_MS
    assert closed(window) is None


def test_full_queues_and_refusals_say_that_more_is_offered_than_served() -> None:
    def at(number: int, **told: int) -> Reading:
        return reading("pod", number * LOOK_MS, 100 * number, completed=100 * number, running=0, **told)

    calm = played([([at(n, waiting=0, batch_limit=8)], 1) for n in range(1, 61)])
    queued = played([([at(n, waiting=9, batch_limit=8)], 1) for n in range(1, 61)])
    refused = played(
        [
            ([reading("pod", n * LOOK_MS, 100 * n, completed=90 * n, running=0, waiting=0, batch_limit=8)], 1)
            for n in range(1, 61)
        ]
    )
    assert [w is not None and w.held for w in map(closed, (calm, queued, refused))] == [False, True, True]
    assert millirps(refused) == pytest.approx(10_000, rel=0.02)  # offered, not served


def test_a_window_is_held_when_it_was_so_at_any_moment() -> None:
    window = played(counted(rising(20, 30)), held=True)
    window, _ = look(window, [], ready=1, held=False, now_ms=window.looked_ms + LOOK_MS)
    assert window.held


def test_a_dimmed_replica_that_tells_of_no_queue_gets_all_that_is_offered() -> None:
    def at(number: int) -> Reading:
        count = 100 * number
        return reading("pod", number * LOOK_MS, count, completed=count, running=1, waiting=0, batch_limit=8)

    assert not played([([at(n)], 1) for n in range(1, 61)], held=True).held


def test_mean_lengths_come_from_completed_requests() -> None:
    looks = [
        (
            [reading("pod", n * LOOK_MS, 10 * n, completed=10 * n, input_tokens=3000 * n, output_tokens=700 * n)],
            1,
        )
        for n in range(1, 61)
    ]
    found = closed(played(looks))
    assert found is not None
    assert (found.input_tokens, found.output_tokens) == (300, 70)
    without = closed(played(counted(rising(10))))
    assert without is not None
    assert (without.input_tokens, without.output_tokens) == (None, None)


def test_burstiness_is_one_for_poisson_and_more_for_batches() -> None:
    source = random.Random(7)

    def arrivals(size: int) -> list[int | None]:
        total, values = 0, [0]
        for _ in range(400):
            total += size * sum(source.random() < 0.5 for _ in range(80 // size))
            values.append(total)
        return values  # type: ignore[return-value]

    poisson = closed(played(counted(arrivals(1))[:120]))
    batches = closed(played(counted(arrivals(20))[:120]))
    assert poisson is not None
    assert poisson.cv_percent is not None
    assert batches is not None
    assert batches.cv_percent is not None
    assert poisson.cv_percent < 100  # binomial counts are smoother than Poisson
    assert batches.cv_percent > 250
    rare = closed(played(counted([*[0] * 30, *[1] * 31])))
    assert rare is not None
    assert rare.cv_percent is None


def test_a_rise_within_a_window_is_told_after_a_share_of_it() -> None:
    early, later = played(counted(rising(100, 5))), played(counted(rising(100, 8)))
    assert surged(early, WINDOW_MS) is None
    seen = surged(later, WINDOW_MS)
    assert seen is not None
    assert seen[0] * 1000 / seen[1] == pytest.approx(10, rel=0.01)
    assert surged(played(counted([None] * 8)), WINDOW_MS) is None


@given(st.lists(st.lists(st.integers(0, 50), min_size=61, max_size=61), min_size=1, max_size=4), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_replicas_changes_nothing(steps: list[list[int]], shuffle: random.Random) -> None:
    replicas: list[list[int | None]] = [[sum(each[: n + 1]) for n in range(61)] for each in steps]
    looks = counted(*replicas)
    shuffled = [(shuffle.sample(readings, len(readings)), ready) for readings, ready in looks]
    assert closed(played(looks)) == closed(played(shuffled))


@given(
    st.integers(1, 50), st.sets(st.integers(0, 60), max_size=25), st.lists(st.integers(1, 60), max_size=3, unique=True)
)
@settings(max_examples=60, deadline=None)
def test_gaps_and_restarts_never_make_a_rate_of_their_own(per_look: int, gaps: set[int], restarts: list[int]) -> None:
    values, total = [], 0
    for number in range(61):
        total = per_look // 2 if number in restarts else total + per_look
        values.append(None if number in gaps else total)
    found = closed(played(counted(values)))
    if found is not None:
        assert per_look * 60 <= found.millirps <= per_look * 101
