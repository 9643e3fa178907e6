"""The soak's figures of memory: growth is told from weights that come and go."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tools.soak.watch import Watch


def watched(minutes: float, mib_per_hour: float) -> Watch:
    """Samples every 2 s, whose weights jump by up to 200 MiB every ten seconds, after a start that fills caches."""
    watch = Watch(cast(Any, SimpleNamespace()))
    chance = np.random.default_rng(3)
    weights = 0.0
    for second in range(0, int(minutes * 60), 2):
        if second % 10 == 0:
            weights = float(chance.choice([0.0, 60.0, 200.0]))
        filled = min(1.0, second / 480)
        watch.memory.append((1000.0 + second, 1000 * filled + weights + mib_per_hour * second / 3600))
    return watch


def test_weights_that_come_and_go_are_no_growth() -> None:
    slope, error = watched(30, 0).slope_mib_per_hour()
    assert abs(slope) < 3 * error
    assert 10 < error < 200


@pytest.mark.parametrize("mib_per_hour", [600.0, -600.0])
def test_growth_is_seen_above_its_error(mib_per_hour: float) -> None:
    watch = watched(60, mib_per_hour)
    slope, error = watch.slope_mib_per_hour()
    assert slope == pytest.approx(mib_per_hour, abs=3 * error)
    assert abs(slope) > 5 * error
    assert watch.growth_mib() == pytest.approx(mib_per_hour / 3, abs=60)


def test_a_run_of_two_minutes_says_nothing_about_growth() -> None:
    assert watched(2, 0).slope_mib_per_hour() == (0.0, math.inf)
