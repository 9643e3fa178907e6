"""What may be said of repeated figures: intervals, tails, steadiness."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbeam_worker.calibration.figures import (
    LEAST_REPEATS,
    MOST_REPEATS,
    interval,
    is_steady,
    quantile,
    spread,
)

figures = st.floats(0.001, 1e6)
repeats = st.lists(figures, min_size=LEAST_REPEATS, max_size=MOST_REPEATS)
counted = st.lists(st.tuples(st.integers(0, 50).map(float), st.integers(1, 40)), max_size=30)


def student_cdf(t: float, freedom: int, steps: int = 4000) -> float:
    """By Simpson's rule over the density, apart from the table under test."""
    factor = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)

    def density(x: float) -> float:
        return factor * (1 + x * x / freedom) ** (-(freedom + 1) / 2)

    width = t / steps
    inner = sum((4 if step % 2 else 2) * density(step * width) for step in range(1, steps))
    return 0.5 + width / 3 * (density(0) + inner + density(t))


@pytest.mark.parametrize("count", range(LEAST_REPEATS, MOST_REPEATS + 1))
def test_the_half_width_leaves_a_fortieth_on_either_side(count: int) -> None:
    values = [float(value) for value in range(count)]
    mean = sum(values) / count
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    assert student_cdf(interval(values).half_width / error, count - 1) == pytest.approx(0.975, abs=1e-4)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    chance = random.Random(5)
    found = [interval([chance.gauss(100, 7) for _ in range(5)]) for _ in range(4000)]
    assert sum(abs(it.mean - 100) <= it.half_width for it in found) / 4000 == pytest.approx(0.95, abs=0.015)


@settings(deadline=None)
@given(repeats, st.floats(0.01, 100))
def test_an_interval_does_not_depend_on_the_order_nor_its_share_on_the_unit(values: list[float], unit: float) -> None:
    found, turned = interval(values), interval(values[::-1])
    assert (found.mean, found.half_width) == pytest.approx((turned.mean, turned.half_width), rel=1e-9, abs=1e-12)
    assert interval([unit * value for value in values]).share == pytest.approx(found.share, rel=1e-6, abs=1e-9)
    assert min(values) * (1 - 1e-12) <= found.mean <= max(values) * (1 + 1e-12)


@settings(deadline=None)
@given(figures, st.integers(LEAST_REPEATS, MOST_REPEATS))
def test_figures_that_agree_are_sure(value: float, count: int) -> None:
    assert interval([value] * count).share == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [0, 1, LEAST_REPEATS - 1, MOST_REPEATS + 1])
def test_too_few_or_too_many_repeats_give_no_interval(count: int) -> None:
    with pytest.raises(ValueError, match="repeats are outside"):
        interval([1.0] * count)


def test_a_mean_of_nothing_is_never_sure() -> None:
    assert interval([0.0, 0.0, 0.0]).share == math.inf
    assert spread([0.0, 0.0]) == math.inf


@settings(deadline=None)
@given(counted, st.sampled_from([500, 950, 990]))
def test_a_quantile_is_the_nearest_rank_of_all_values(values: list[tuple[float, int]], thousandths: int) -> None:
    flat = sorted(value for value, count in values for _ in range(count))
    if len(flat) * (1000 - thousandths) < 1000:
        assert quantile(values, thousandths) is None
    else:
        assert quantile(values, thousandths) == flat[math.ceil(len(flat) * thousandths / 1000) - 1]


@pytest.mark.parametrize(("count", "told"), [(19, False), (20, True)])
def test_twenty_values_tell_a_ninety_fifth_percentile_and_nineteen_do_not(count: int, told: bool) -> None:
    assert (quantile([(1.0, count)], 950) is not None) == told


@settings(deadline=None)
@given(repeats)
def test_steady_means_that_the_last_three_agree_whatever_came_before(values: list[float]) -> None:
    assert is_steady([*values, 10.0, 10.4, 10.2], 0.1)
    assert not is_steady([*values, 10.0, 12.0, 10.0], 0.1)


def test_two_windows_are_never_steady() -> None:
    assert not is_steady([10.0, 10.0], 0.1)
