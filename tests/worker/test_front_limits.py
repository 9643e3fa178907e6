"""Admission: how many requests a second come in, and when the rest may come again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam_worker.limits import Admission, AnswerLimits


def test_without_a_limit_everybody_comes_in() -> None:
    admission = Admission()
    assert all(admission.seconds_to_wait(0.0) is None for _ in range(1000))


@given(
    rate=st.floats(0.05, 500),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=300),
)
def test_never_more_than_the_rate_and_one_seconds_worth(rate: float, gaps: list[float]) -> None:
    admission, now, came = Admission(), 100.0, 0
    admission.limit_rate(rate)
    for gap in gaps:
        now += gap
        came += admission.seconds_to_wait(now) is None
    assert came <= rate * (now - 100.0 - gaps[0]) + max(1.0, rate) + 1e-6


@given(rate=st.floats(0.05, 50), tries=st.integers(1, 200))
def test_who_waits_as_told_comes_in(rate: float, tries: int) -> None:
    admission, now = Admission(), 5.0
    admission.limit_rate(rate)
    for _ in range(tries):
        wait = admission.seconds_to_wait(now)
        if wait is not None:
            assert admission.seconds_to_wait(now + wait + 1e-6) is None
            now += wait + 1e-6


def test_a_lower_rate_counts_at_once() -> None:
    admission = Admission()
    admission.limit_rate(100)
    assert admission.seconds_to_wait(0.0) is None
    admission.limit_rate(1)
    assert admission.seconds_to_wait(0.0) is None
    assert admission.seconds_to_wait(0.0) == 1
    admission.limit_rate(None)
    assert admission.seconds_to_wait(0.0) is None


@pytest.mark.parametrize(
    ("usual", "most", "asked", "granted"),
    [
        (None, None, None, None),
        (None, None, 9, 9),
        (4, None, None, 4),
        (4, 6, 9, 6),
        (9, 6, None, 6),
        (None, 6, None, 6),
    ],
)
def test_thinking_is_what_is_asked_or_usual_and_never_above_the_ceiling(
    usual: int | None, most: int | None, asked: int | None, granted: int | None
) -> None:
    assert AnswerLimits(10, 10, most, usual).thinking(asked) == granted
