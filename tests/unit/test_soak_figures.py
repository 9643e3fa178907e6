"""The soak's figures of memory: growth is told from weights that come and go."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tools.soak.watch import Memory, Watch

WEIGHTS_MIB = {"int8": 0.0, "bf16": 60.0, "fp32": 200.0}


def watched(minutes: float, mib_per_hour: float) -> Watch:
    """Samples every 2 s, whose precision changes every ten seconds, after a start that fills caches."""
    profile = SimpleNamespace(precision="fp32")
    watch = Watch(cast(Any, SimpleNamespace(telemetry=lambda: SimpleNamespace(profile=profile))))
    chance = np.random.default_rng(3)
    for second in range(0, int(minutes * 60), 2):
        if second % 10 == 0:
            precision = str(chance.choice(list(WEIGHTS_MIB)))
        mib = 1000 * min(1.0, second / 480) + WEIGHTS_MIB[precision] + float(chance.normal(0, 20))
        watch.memory.append(Memory(1000.0 + second, mib + mib_per_hour * second / 3600, precision))
    return watch


def test_weights_that_come_and_go_are_no_growth() -> None:
    watch = watched(30, 0)
    slope, error = watch.slope_mib_per_hour()
    assert abs(slope) < 3 * error
    assert 1 < error < 20
    assert abs(watch.growth_mib()) < 5


@pytest.mark.parametrize("mib_per_hour", [600.0, -600.0])
def test_growth_is_seen_above_its_error(mib_per_hour: float) -> None:
    watch = watched(60, mib_per_hour)
    slope, error = watch.slope_mib_per_hour()
    assert slope == pytest.approx(mib_per_hour, abs=3 * error)
    assert abs(slope) > 5 * error
    assert watch.growth_mib() == pytest.approx(mib_per_hour / 3, abs=10)


def test_a_run_of_two_minutes_says_nothing_about_growth() -> None:
    assert watched(2, 0).slope_mib_per_hour() == (0.0, math.inf)
    assert math.isnan(watched(0, 0).growth_mib())
