"""Meters that lie, stop, or speak in other units."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lowbeam.power.trust import MeterHistory, MeterLimits, Quality, Reason, Sample, Verdict, judge

LIMITS = MeterLimits(max_milliwatts=700_000, idle_milliwatts=100_000, enforced_milliwatts=500_000)


def history(*samples: Sample) -> MeterHistory:
    result = MeterHistory()
    for sample in samples:
        result = result.append(sample)
    return result


def steady(seconds: int, watts: float, counted_watts: float, *, busy: bool = True) -> list[Sample]:
    return [Sample(t * 1000, watts, 1000 + t * counted_watts, busy) for t in range(seconds + 1)]


def judged(*samples: Sample, limits: MeterLimits = LIMITS, now_ms: int | None = None) -> Verdict:
    now = samples[-1].at_ms if now_ms is None else now_ms
    return judge(samples[-1], history(*samples[:-1]), limits, now)


def test_a_plausible_fresh_sample_counts_as_it_is() -> None:
    verdict = judged(Sample(0, 321.4))
    assert (verdict.milliwatts, verdict.quality, verdict.reason) == (321_400, Quality.FRESH, Reason.TRUSTED)


@pytest.mark.parametrize(
    ("watts", "reason"),
    [
        (math.nan, Reason.NOT_FINITE),
        (math.inf, Reason.NOT_FINITE),
        (-5.0, Reason.NEGATIVE),
        (0.0, Reason.TOO_LOW),
        (49.0, Reason.TOO_LOW),
        (911.0, Reason.TOO_HIGH),
        (3.69e12, Reason.TOO_HIGH),
        (321_400.0, Reason.UNIT),
        (0.3214, Reason.UNIT),
        (None, Reason.MISSING),
    ],
)
def test_an_impossible_sample_counts_at_the_enforced_limit(watts: float | None, reason: Reason) -> None:
    verdict = judged(Sample(0, watts))
    assert (verdict.milliwatts, verdict.quality, verdict.reason) == (500_000, Quality.STALE, reason)
    assert verdict.message


def test_without_a_known_limit_the_worst_case_is_the_maximum_of_the_class() -> None:
    verdict = judge(None, MeterHistory(), MeterLimits(700_000, 100_000), 0)
    assert (verdict.milliwatts, verdict.reason) == (700_000, Reason.MISSING)


def test_an_overshoot_is_clamped_to_the_limit_plus_five_percent() -> None:
    verdict = judged(Sample(0, 680.0))
    assert (verdict.milliwatts, verdict.quality, verdict.reason) == (525_000, Quality.FRESH, Reason.CLAMPED)


def test_no_meter_is_told_apart_from_a_silent_one() -> None:
    none = judged(Sample(0, None, metered=False))
    silent = judge(None, MeterHistory(), LIMITS, 0)
    assert none.milliwatts == silent.milliwatts == 500_000
    assert (none.metered, silent.metered) == (False, True)


def test_age_makes_a_sample_late_then_stale() -> None:
    late = judged(Sample(0, 300.0), now_ms=5_001)
    stale = judged(Sample(0, 300.0), now_ms=15_001)
    assert (late.milliwatts, late.quality) == (330_000, Quality.LATE)
    assert (stale.milliwatts, stale.quality) == (500_000, Quality.STALE)


def test_a_counter_that_goes_back_is_rejected_once_and_then_believed_again() -> None:
    back = Sample(2000, 300.0, 10.0)
    before = history(Sample(0, 300.0, 5000.0), Sample(1000, 300.0, 5300.0))
    assert judge(back, before, LIMITS, 2000).reason is Reason.COUNTER_BACK
    assert judge(Sample(3000, 300.0, 310.0), before.append(back), LIMITS, 3000).reason is Reason.TRUSTED


@pytest.mark.parametrize("gap_seconds", [6, 10, 20])
def test_what_was_drawn_while_nobody_looked_contradicts_nobody(gap_seconds: int) -> None:
    """100 W from the last reading before the gap on: a line between the readings would tell of more than was drawn."""
    before = steady(40, 600.0, 600.0)
    counted, gap_ms = before[-1].joules_total or 0, gap_seconds * 1000
    after = [
        Sample(40_000 + gap_ms + t * 1000, 100.0, counted + gap_seconds * 100 + t * 100, busy=True) for t in range(40)
    ]
    known, limits = history(*before), MeterLimits(700_000, 100_000)
    for sample in after:
        assert judge(sample, known, limits, sample.at_ms).reason is Reason.TRUSTED
        known = known.append(sample)


def test_a_meter_that_is_silent_for_a_third_of_the_time_is_found_out_all_the_same() -> None:
    heard = [it for it in steady(70, 150.0, 300.0) if it.at_ms // 1000 % 30 < 20]
    assert judged(*heard).reason is Reason.DISAGREES


def test_a_reading_without_all_boards_is_no_evidence_against_later_ones() -> None:
    samples = steady(60, 300.0, 300.0)
    samples[30] = replace(samples[30], watts=150.0, joules_total=500.0, missing_boards=1)
    known = MeterHistory()
    for sample in samples:
        wanted = Reason.MISSING if sample.missing_boards else Reason.TRUSTED
        verdict = judge(sample, known, LIMITS, sample.at_ms)
        known = known.append(sample)
        if sample.at_ms != 31_000:  # the next one has a counter that seems to have come back
            assert verdict.reason is wanted


def test_half_of_the_power_is_found_by_the_energy_counter_within_30_s() -> None:
    assert judged(*steady(29, 150.0, 300.0)).reason is Reason.TRUSTED
    assert judged(*steady(30, 150.0, 300.0)).reason is Reason.DISAGREES


def test_a_difference_of_twenty_percent_is_believed() -> None:
    assert judged(*steady(40, 300.0, 360.0)).reason is Reason.TRUSTED


def test_a_frozen_counter_is_rejected_only_while_busy() -> None:
    assert judged(*steady(10, 300.0, 0.0)).reason is Reason.TRUSTED
    assert judged(*steady(11, 300.0, 0.0)).reason is Reason.COUNTER_FROZEN
    assert judged(*steady(11, 120.0, 0.0, busy=False)).reason is Reason.TRUSTED


def test_one_glitch_does_not_make_the_next_half_minute_disagree() -> None:
    samples = steady(60, 300.0, 300.0)
    samples[30] = Sample(30_000, 3.69e12, 1000 + 30 * 300.0, busy=True)
    assert judged(*samples[:31]).reason is Reason.TOO_HIGH
    assert judged(*samples[:32]).reason is Reason.TRUSTED


def test_the_history_keeps_little_more_than_it_compares() -> None:
    assert len(history(*steady(600, 300.0, 300.0)).samples) <= 33
