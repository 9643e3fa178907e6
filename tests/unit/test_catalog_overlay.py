"""Objects of the cluster on top of the built-in catalogue: what they change, and how bad ones are refused."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue_objects import accelerator, card, only, point, profile
from lowbeam.api.v1alpha1.modelcard import ModelCard
from lowbeam.catalog import CatalogueReason, load_builtin, overlay
from lowbeam.catalog.facts import Basis, Catalogue, Reasoning


def test_a_new_model_with_a_new_class_and_a_measured_profile_is_added() -> None:
    catalogue, problems = overlay(
        load_builtin(), [card()], [accelerator()], [profile(model="our-model", acceleratorClass="l40s")]
    )
    assert problems == ()
    assert catalogue.models["our-model"].variants[0].quality_centi("sst2") == 9510
    assert catalogue.accelerator_classes["l40s"].idle_milliwatts == 102_100
    assert catalogue.accelerator_classes["l40s"].compute_capability == 89
    (added,) = catalogue.profiles_of("our-model", "text-classification")
    assert (added.basis, added.points[0].milliwatts, added.uncertainty_percent) == (Basis.MEASURED, 40_500, 0)
    assert len(catalogue.profiles) == len(load_builtin().profiles) + 1


def test_a_measurement_replaces_the_modelled_profile_of_the_same_thing_whatever_its_name() -> None:
    catalogue, problems = overlay(load_builtin(), profiles=[profile("zz-our-own")])
    assert problems == ()
    same = [p for p in catalogue.profiles if p.model == "distilbert-sst2" and p.accelerator_class == "l4"]
    assert [p.name for p in same] == ["zz-our-own"]
    assert len(catalogue.profiles) == len(load_builtin().profiles)


def test_a_card_replaces_the_built_in_model_of_its_name_and_profiles_of_variants_it_lacks_leave() -> None:
    catalogue, problems = overlay(load_builtin(), [card("distilbert-sst2")])
    assert problems == ()
    assert catalogue.models["distilbert-sst2"].model_path == "/models/our-model"
    left = {p.precision for p in catalogue.profiles if p.model == "distilbert-sst2"}
    assert left == {"bf16"}, "the card has no fp32 variant"


def test_overlaying_nothing_changes_nothing() -> None:
    assert overlay(load_builtin()) == (load_builtin(), ())


def test_a_parsed_object_counts_like_a_raw_one() -> None:
    parsed = ModelCard.from_cluster(card())
    assert overlay(load_builtin(), [parsed]) == overlay(load_builtin(), [card()])


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"points": [point(1, "-40", "300")]}, "spec.points[0].watts"),
        ({"points": [point(1, "NaN", "300")]}, "spec.points[0].watts"),
        ({"points": [point(1, "0", "300")]}, "spec.points[0].watts"),
        ({"points": [{k: v for k, v in point(1, "40", "300").items() if k != "watts"}]}, "spec.points[0].watts"),
        ({"points": [point(1, "40", "0")]}, "spec.points[0].requestsPerSecond"),
        ({"points": [point(1, "40", "9", latencyP95Milliseconds=3)]}, "spec.points[0].latencyP95Milliseconds"),
        ({"points": [point(1, "40", "9", interTokenP50Microseconds=3)]}, "spec.points[0].interTokenP95Microseconds"),
        ({"points": []}, "spec.points"),
        ({"basis": "Modelled"}, "spec.uncertaintyPercent"),
        ({"basis": "Guessed"}, "spec.basis"),
        ({"accelerators": 0}, "spec.accelerators"),
    ],
)
def test_an_unreadable_profile_is_refused_with_the_field_and_the_rest_stays(bad: dict[str, Any], field: str) -> None:
    catalogue, problems = overlay(load_builtin(), profiles=[profile(**bad), profile("good", acceleratorClass="a100")])
    problem = only(problems)
    assert (problem.kind, problem.name, problem.field) == ("EnergyProfile", "our-profile", field)
    assert problem.reason is CatalogueReason.INVALID_FIELD
    assert problem.message
    assert "good" in [p.name for p in catalogue.profiles]


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        ({"model": "no-such"}, "spec.model", CatalogueReason.UNKNOWN_MODEL),
        ({"acceleratorClass": "h900"}, "spec.acceleratorClass", CatalogueReason.UNKNOWN_ACCELERATOR_CLASS),
        ({"task": "text-generation"}, "spec.task", CatalogueReason.UNKNOWN_TASK),
        ({"reasoning": "High"}, "spec.precision", CatalogueReason.UNKNOWN_VARIANT),
        (
            {"points": [point(8, "60", "99"), point(1, "40", "300")]},
            "spec.points[1].batch",
            CatalogueReason.BATCHES_NOT_ASCENDING,
        ),
        (
            {"points": [point(1, "40", "300"), point(8, "60", "300")]},
            "spec.points[1].requestsPerSecond",
            CatalogueReason.THROUGHPUT_NOT_RISING,
        ),
        ({"points": [point(1, "400", "300")]}, "spec.points[0].watts", CatalogueReason.ABOVE_POWER_LIMIT),
        ({"points": [point(1, "40", "0.0001")]}, "spec.points[0].requestsPerSecond", CatalogueReason.INVALID_FIELD),
    ],
)
def test_a_profile_that_does_not_fit_the_catalogue_is_refused_and_the_built_in_one_stays(
    bad: dict[str, Any], field: str, reason: CatalogueReason
) -> None:
    catalogue, problems = overlay(load_builtin(), profiles=[profile(**bad)])
    problem = only(problems)
    assert (problem.field, problem.reason) == (field, reason)
    assert catalogue == load_builtin()


def test_a_precision_that_the_class_cannot_run_is_refused() -> None:
    fp8 = {"precision": "fp8", "weightsMebibytes": 70}
    both = [*card()["spec"]["variants"], fp8]
    _, problems = overlay(
        load_builtin(),
        [card(variants=both)],
        profiles=[profile(model="our-model", precision="fp8", acceleratorClass="a100")],
    )
    assert only(problems).reason is CatalogueReason.PRECISION_NOT_SUPPORTED


def test_weights_larger_than_the_memory_are_refused() -> None:
    huge = [{"precision": "bf16", "weightsMebibytes": 30_000}]
    _, problems = overlay(load_builtin(), [card(variants=huge)], profiles=[profile(model="our-model")])
    problem = only(problems)
    assert problem.reason is CatalogueReason.WEIGHTS_DO_NOT_FIT
    assert "30000 MiB" in problem.message


def test_a_card_for_unknown_tasks_only_is_refused_and_names_the_known_ones() -> None:
    catalogue, problems = overlay(load_builtin(), [card(tasks=["mind-reading"])])
    problem = only(problems)
    assert (problem.field, problem.reason) == ("spec.tasks", CatalogueReason.UNKNOWN_TASK)
    assert "text-generation" in problem.message
    assert "our-model" not in catalogue.models


def test_a_variant_a_benchmark_or_a_batch_listed_twice_is_refused() -> None:
    variant = card()["spec"]["variants"][0]
    _, problems = overlay(load_builtin(), [card(variants=[variant, variant])])
    assert only(problems).field == "spec.variants[1]"
    twice = variant | {"quality": variant["quality"] * 2}
    _, problems = overlay(load_builtin(), [card(variants=[twice])])
    assert only(problems).field == "spec.variants[0].quality[1]"
    _, problems = overlay(load_builtin(), profiles=[profile(points=[point(8, "60", "99"), point(8, "61", "300")])])
    assert only(problems).field == "spec.points[1]"


def test_two_classes_cannot_claim_the_same_nodes() -> None:
    catalogue, problems = overlay(load_builtin(), classes=[accelerator("mine", productLabels=["NVIDIA-L4"])])
    problem = only(problems)
    assert (problem.name, problem.field) == ("mine", "spec.productLabels")
    assert "l4" in problem.message
    assert "mine" not in catalogue.accelerator_classes


def test_a_class_whose_idle_is_above_its_limit_is_refused() -> None:
    _, problems = overlay(load_builtin(), classes=[accelerator(idleWatts="400")])
    assert only(problems).field == "spec.maxWatts"


def test_of_two_objects_about_the_same_thing_the_first_name_counts_and_the_other_is_told() -> None:
    for order in itertools.permutations([profile("b-second"), profile("a-first")]):
        catalogue, problems = overlay(load_builtin(), profiles=order)
        problem = only(problems)
        assert (problem.name, problem.reason) == ("b-second", CatalogueReason.DUPLICATE_ENTRY)
        assert "a-first" in [p.name for p in catalogue.profiles]


def test_an_object_without_metadata_is_a_problem_and_no_crash() -> None:
    for broken in ({}, {"metadata": None}, {"metadata": {"name": "x"}, "spec": 3}, {"kind": "EnergyProfile"}):
        catalogue, problems = overlay(load_builtin(), profiles=[broken])
        assert problems
        assert catalogue == load_builtin()


def test_a_problem_reads_as_object_field_and_sentence() -> None:
    _, problems = overlay(load_builtin(), profiles=[profile(model="no-such")])
    assert str(problems[0]) == (
        "EnergyProfile/our-profile: spec.model: no-such is not in the catalogue; add a ModelCard"
    )


def test_what_is_on_top_of_an_empty_catalogue_needs_its_references() -> None:
    _, problems = overlay(Catalogue(), profiles=[profile()])
    assert only(problems).reason is CatalogueReason.UNKNOWN_MODEL


@given(st.data())
def test_whatever_the_points_say_the_profiles_in_force_are_ascending_and_within_the_limit(data: st.DataObject) -> None:
    numbers = st.sampled_from(
        ["-1", "NaN", "Infinity", "0", "0.0004", "1", "40.25", "72", "75.6", "75.7", "1e3", "999"]
    )
    points = data.draw(
        st.lists(st.builds(point, st.integers(-1, 5), numbers, numbers), min_size=0, max_size=4), label="points"
    )
    catalogue, problems = overlay(load_builtin(), profiles=[profile(points=points)])
    (in_force,) = [p for p in catalogue.profiles if p.model == "distilbert-sst2" and p.accelerator_class == "l4"]
    assert (in_force.name == "our-profile") == (problems == ())
    batches = [p.batch for p in in_force.points]
    rates = [p.requests_per_second_milli for p in in_force.points]
    assert batches == sorted(set(batches))
    assert rates == sorted(set(rates))
    assert all(0 < p.milliwatts <= 75_600 for p in in_force.points)
    assert all(p.requests_per_second_milli > 0 for p in in_force.points)


def test_refusing_leaves_the_objects_and_the_catalogue_untouched() -> None:
    before = load_builtin()
    given_object = profile(model="no-such")
    copied = copy.deepcopy(given_object)
    overlay(before, profiles=[given_object])
    assert given_object == copied
    assert before.profiles == load_builtin().profiles
    assert Reasoning.OFF in {p.reasoning for p in before.profiles}
