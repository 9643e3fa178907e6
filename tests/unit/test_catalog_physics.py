"""The physical model behind modelled profiles: it finds known constants, and behaves as hardware does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.catalog.plausibility import HOPPER, OWN
from tools.catalog.accelerators import accelerator_classes
from tools.catalog.decoders import decoder_profiles
from tools.catalog.energy import energy_profiles
from tools.catalog.fits import decoders, fitted
from tools.catalog.mixtures import transfer_errors
from tools.catalog.models import weights_mebibytes
from tools.catalog.physics import Board, Observation, PhysicalModel, Step, fit, joules_errors, leave_one_model_out
from tools.catalog.references import reference_profiles
from tools.catalog.thinning import thinned

BOARD = Board(3e12, 1e15, 100.0, 700.0)
TRUTH = PhysicalModel(time=(2e-3, 1.25, 2.5, 20e-6, 40e-6), power=(0.3, 0.25, 0.6))


def step(gigabytes: float, teraflops: float, boards: int = 1, layers: int = 32, requests: float = 1.0) -> Step:
    return Step(BOARD, boards, gigabytes * 1e9, teraflops * 1e12, layers, requests)


def observed(group: str, work: Step) -> Observation:
    return Observation(group, work, TRUTH.seconds(work), TRUTH.watts(work))


OBSERVATIONS = [
    observed(f"model-{size}", step(size + batch / 10, size * batch / 500, boards, 20 + size, batch))
    for size in (8, 16, 32)
    for batch in (8, 32, 64)
    for boards in (1, 2)
]


def test_the_fit_finds_the_constants_that_made_the_data() -> None:
    model = fit(OBSERVATIONS)
    assert model.time == pytest.approx(TRUTH.time, rel=1e-6)
    assert model.power == pytest.approx(TRUTH.power, rel=1e-6)
    assert max(abs(joules_errors(model, OBSERVATIONS))) < 1e-9
    assert leave_one_model_out(OBSERVATIONS).p90_percent < 1e-6


def test_no_work_is_ever_fitted_to_take_negative_time() -> None:
    faster_with_every_request = [replace(o, seconds=o.seconds - 60e-6 * o.step.requests) for o in OBSERVATIONS]
    model = fit([o for o in faster_with_every_request if o.seconds > 0])
    assert min(model.time) == 0.0
    assert model.seconds(step(0.1, 0.001)) > 0


def test_an_outlier_shows_in_the_error_of_the_model_that_has_it() -> None:
    odd = [replace(o, seconds=2 * o.seconds) if o.group == "model-8" else o for o in OBSERVATIONS]
    assert leave_one_model_out(odd).p90_percent > 30


@given(st.floats(0.1, 100), st.floats(0.001, 100), st.integers(1, 8))
def test_watts_stay_between_idle_and_the_limit(gigabytes: float, teraflops: float, boards: int) -> None:
    work = step(gigabytes, teraflops, boards)
    assert boards * 100 <= TRUTH.watts(work) <= boards * 700
    seconds, watts = TRUTH.encoder_step(work, host_seconds=0.005)
    assert seconds >= 0.005
    assert 100 <= watts <= 700


@given(st.floats(0.1, 100), st.floats(0.001, 10))
def test_more_work_never_takes_less_time_and_a_faster_board_never_more(gigabytes: float, teraflops: float) -> None:
    work = step(gigabytes, teraflops)
    assert TRUTH.seconds(replace(work, bytes_read=work.bytes_read * 1.1)) > TRUTH.seconds(work)
    faster = replace(BOARD, bandwidth_bytes_per_second=BOARD.bandwidth_bytes_per_second * 2)
    assert TRUTH.seconds(replace(work, board=faster)) < TRUTH.seconds(work)


def test_a_board_starved_of_watts_takes_longer_and_saves_nothing() -> None:
    work = step(0.02, 5.0)
    seconds, watts = TRUTH.encoder_step(work, host_seconds=0.0)
    starved = replace(TRUTH, power=(0.6, 0.5, 1.2))
    longer, at_limit = starved.encoder_step(work, host_seconds=0.0)
    assert watts < at_limit == BOARD.limit_watts
    assert longer > seconds


def test_a_board_that_waits_for_the_host_draws_little_more_than_idle() -> None:
    work = step(0.02, 0.001)
    _, busy = TRUTH.encoder_step(work, host_seconds=0.0)
    _, waiting = TRUTH.encoder_step(work, host_seconds=1.0)
    assert busy > 200
    assert waiting < 101


# --- the fit that ships ----------------------------------------------------------------------------------------------


def test_what_a_class_was_not_measured_for_is_more_uncertain() -> None:
    physics = fitted()
    of_14b = {name: physics.uncertainty_percent(name, 14_000) for name in ("h100", "b200", "a100", "l4", "h200")}
    assert of_14b["h100"] < of_14b["a100"] < of_14b["l4"], "measured, checked, unchecked"
    assert of_14b["b200"] < of_14b["a100"]
    assert physics.uncertainty_percent("h100", 600) == of_14b["l4"], "smaller than any model of the fit"


def test_the_model_describes_the_boards_that_it_is_fitted_to_and_the_step_to_another_generation() -> None:
    physics = fitted()
    for errors in (*physics.left_out.values(), physics.generation):
        assert errors.median_percent < 10
        assert abs(errors.bias_percent) < 5
    assert physics.other_class.p90_percent < 35
    assert physics.single_request_watts.p90_percent < 35
    assert physics.encoder_throughput.p90_percent < 30


def test_the_error_of_a_figure_is_never_below_that_of_its_check() -> None:
    physics = fitted()
    unseen = max(physics.other_class.p90_percent, physics.single_request_watts.p90_percent)
    for profile in energy_profiles(physics):
        spec = profile["spec"]
        if spec["basis"] != "Modelled" or spec["acceleratorClass"] in {"h100", "b200", "a100", "a100-40", "h200"}:
            continue
        assert spec["uncertaintyPercent"] >= round(unseen), profile["metadata"]["name"]


def test_the_rough_model_of_verify_has_the_fitted_constants() -> None:
    physics = fitted()
    for name, rough in {"h100": HOPPER, **OWN}.items():
        c0, c1, c2, _, c4 = physics.models[name].time
        wanted = (c0, c1, c2, c4)
        assert (
            rough.step_seconds,
            rough.bandwidth_factor,
            rough.compute_factor,
            rough.request_seconds,
        ) == pytest.approx(wanted, rel=0.05)


# --- which profiles are made -----------------------------------------------------------------------------------------


def test_no_precision_is_modelled_that_was_not_measured() -> None:
    profiles = energy_profiles(fitted())
    published = {
        (p["spec"]["acceleratorClass"], p["spec"]["precision"]) for p in profiles if p["spec"]["basis"] == "Published"
    }
    modelled = [p["spec"] for p in profiles if p["spec"]["basis"] == "Modelled"]
    assert {spec["precision"] for spec in modelled if spec["outputTokens"] > 1} == {"bf16", "fp8", "mxfp4"}
    for spec in modelled:
        if spec["precision"] in {"fp8", "mxfp4"}:
            assert ("h100", spec["precision"]) in published
            assert spec["acceleratorClass"] == "h200", "copied from the H100's own measurement"
    supported = {c["metadata"]["name"]: c["spec"]["precisions"] for c in accelerator_classes()}
    assert all(spec["precision"] in supported[spec["acceleratorClass"]] for spec in modelled)


def test_v2_is_a_series_of_its_own_on_the_boards_that_it_ran_on() -> None:
    references = list(reference_profiles())
    assert {p["spec"]["acceleratorClass"] for p in references} == {"a100-40", "h100"}
    assert all(p["spec"]["series"] == "ml-energy-v2" and p["metadata"]["name"].endswith("-v2") for p in references)
    others = [p for p in energy_profiles(fitted()) if "series" not in p["spec"]]
    assert all("leaderboard-v2" not in p["spec"]["source"]["citation"] for p in others)


def test_a_published_curve_on_h100_is_an_upper_bound_on_h200() -> None:
    by_name = {p["metadata"]["name"]: p["spec"] for p in energy_profiles(fitted())}
    original, copy = by_name["gpt-oss-120b-mxfp4-medium-h100-x2"], by_name["gpt-oss-120b-mxfp4-medium-h200-x2"]
    assert copy["points"] == original["points"]
    assert copy["basis"] == "Modelled"
    assert copy["uncertaintyPercent"] == 30, "3350 of 4800 GB/s"


def test_a_mixture_of_experts_is_the_published_curve_slower_on_a_slower_board() -> None:
    manifests = energy_profiles(fitted())
    check = round(transfer_errors(fitted(), manifests).p90_percent)
    profiles = {p["metadata"]["name"]: p["spec"] for p in manifests}
    original = profiles["qwen3-30b-a3b-instruct-2507-bf16-h100-x1"]
    slower, faster = (profiles[f"qwen3-30b-a3b-instruct-2507-bf16-{name}-x1"] for name in ("a100", "h200"))
    published = {point["batch"]: point for point in original["points"]}
    for spec, sign in ((slower, 1), (faster, -1)):
        assert spec["basis"] == "Modelled"
        assert spec["uncertaintyPercent"] >= check
        for point in spec["points"]:
            of_the_h100 = published[point["batch"]]["interTokenP50Microseconds"]
            assert sign * point["interTokenP50Microseconds"] > sign * of_the_h100


def test_weights_leave_room_for_requests_wherever_a_decoder_is_modelled() -> None:
    memory = {c["metadata"]["name"]: c["spec"]["memoryMebibytes"] for c in accelerator_classes()}
    weights = {row["name"]: weights_mebibytes(row, "bf16") for row in decoders().values()}
    for profile in decoder_profiles(fitted(), []):
        spec = profile["spec"]
        assert weights[spec["model"]] < 0.9 * memory[spec["acceleratorClass"]] * spec["accelerators"]
        assert spec["points"][-1]["batch"] >= 8


# --- thinning --------------------------------------------------------------------------------------------------------


def curve(*joules: float) -> list[dict[str, Any]]:
    return [
        {
            "batch": 2**place,
            "watts": f"{value:.3f}",
            "requestsPerSecond": "1",
            "latencyP95Milliseconds": 10 + place,
        }
        for place, value in enumerate(joules)
    ]


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=20), st.integers(3, 8))
def test_thinning_keeps_the_ends_and_the_cheapest_point(joules: list[float], most: int) -> None:
    points = curve(*joules)
    kept = thinned(points, most)
    assert len(kept) == min(most, len(points))
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert min(float(p["watts"]) for p in kept) == min(float(p["watts"]) for p in points)
    assert kept == [p for p in points if p in kept]


def test_thinning_keeps_a_knee_and_drops_what_lies_on_a_line() -> None:
    points = curve(512, 256, 128, 64, 64, 64, 64)
    assert [p["batch"] for p in thinned(points, 3)] == [1, 8, 64]
