"""A point of a curve under a load and a counter of which everything is known; no clock but the counter's."""

from __future__ import annotations

import itertools

import pytest

from lowbeam_worker.calibration.device import CannotCalibrateError
from lowbeam_worker.calibration.options import Rules
from lowbeam_worker.calibration.point import LeftOutError, TooMuchError, idle_watts, measure
from tests.worker.calibration_scene import Scripted

RULES = Rules(windows=4, window_seconds=0.002, tolerance=0.05)


async def test_joules_per_request_are_those_of_the_counter_idle_draw_included() -> None:
    scene = Scripted((400.0, 20.0))
    point = await measure(8, scene, scene, RULES)
    assert (point.batch, point.watts.mean, point.requests_per_second.mean) == (8, 400.0, 20.0)
    assert point.joules_per_request.mean == pytest.approx(20.0)
    assert (point.watts.repeats, point.seconds, point.together) == (4, 40.0, 8.0)
    assert point.latency.p95 == pytest.approx(0.025)
    assert scene.stopped


async def test_nothing_counts_before_three_windows_agree() -> None:
    scene = Scripted((900.0, 5.0), (500.0, 12.0), (450.0, 16.0), (400.0, 20.0))
    point = await measure(1, scene, scene, RULES)
    assert (point.watts.mean, point.watts.half_width) == (400.0, 0.0)
    assert scene.windows_read == 6 + RULES.windows


async def test_watts_that_drift_are_no_rest_though_throughput_stands_still() -> None:
    scene = Scripted(*((200.0 * 1.1**step, 20.0) for step in range(30)))
    with pytest.raises(LeftOutError, match=r"did not come to rest within 200 s; use longer windows"):
        await measure(1, scene, scene, RULES)
    assert scene.stopped


async def test_a_figure_that_is_not_sure_enough_is_left_out_with_its_width_and_what_to_do() -> None:
    steady = [(400.0, 20.0)] * 3
    scene = Scripted(*steady, (400.0, 20.0), (400.0, 17.0), (400.0, 23.0), (400.0, 20.0))
    with pytest.raises(LeftOutError, match=r"J per request is sure to 19\.8% only, 5\.0% are asked for; use longer"):
        await measure(1, scene, scene, RULES)


async def test_a_batch_that_the_engine_cannot_keep_together_has_no_point() -> None:
    scene = Scripted((400.0, 20.0), together=0.6)
    with pytest.raises(LeftOutError, match=r"only 9\.6 ran together"):
        await measure(16, scene, scene, RULES)


async def test_an_engine_that_dies_under_the_load_is_too_much_of_it() -> None:
    scene = Scripted((400.0, 20.0))
    scene.dies_from_check = 30
    with pytest.raises(TooMuchError, match="did not bear it: OutOfMemoryError"):
        await measure(64, scene, scene, RULES)
    assert scene.stopped


async def test_a_window_waits_for_requests_to_end_and_not_for_ever() -> None:
    scene = Scripted((400.0, 20.0), per_window=0)
    with pytest.raises(LeftOutError, match=r"0 requests ended within .* s, 1 are needed; use longer windows"):
        await measure(1, scene, scene, RULES)


@pytest.mark.parametrize("window", [1, 5, 7])
async def test_somebody_else_in_any_window_of_a_point_ends_the_calibration(window: int) -> None:
    scene = Scripted((400.0, 20.0))
    scene.stranger_from_look = window
    with pytest.raises(CannotCalibrateError, match="somebody else"):
        await measure(1, scene, scene, RULES)
    assert scene.windows_read == window
    assert scene.stopped


async def test_idle_watts_are_those_of_the_first_three_windows_that_agree() -> None:
    assert await idle_watts(Scripted((140.0, 0.0), (120.0, 0.0), (116.0, 0.0), (115.0, 0.0)), RULES) == pytest.approx(
        (120 + 116 + 115) / 3
    )


async def test_idle_watts_that_never_stand_still_are_somebody_elses_work() -> None:
    scene = Scripted(*itertools.islice(itertools.cycle([(80.0, 0.0), (300.0, 0.0)]), 40))
    with pytest.raises(CannotCalibrateError, match=r"between 80\.0 and 300\.0 W: something else uses it"):
        await idle_watts(scene, RULES)


async def test_after_work_it_waits_until_the_board_has_cooled_down() -> None:
    cooling = Scripted((131.0, 0.0), (130.0, 0.0), (129.0, 0.0), (110.0, 0.0), (107.0, 0.0), (106.0, 0.0))
    assert await idle_watts(cooling, RULES, 100.0) == pytest.approx((110 + 107 + 106) / 3)


@pytest.mark.parametrize("after", [60.0, 180.0])
async def test_a_board_that_does_not_come_back_to_its_idle_watts_was_not_ours_alone(after: float) -> None:
    with pytest.raises(CannotCalibrateError, match=r"drew 100\.0 W before it was measured: something else"):
        await idle_watts(Scripted((after, 0.0)), RULES, 100.0)
