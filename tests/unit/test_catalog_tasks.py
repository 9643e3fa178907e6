"""Tasks: what is assumed about each, and that every target is the knee that the figures give."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.catalog import load_builtin
from lowbeam.catalog.engines import NATIVE
from lowbeam.catalog.facts import Basis, Catalogue, EnergyProfile, ProfilePoint, Reasoning, TaskFacts
from lowbeam.catalog.knee import KneePoint, farthest_above_the_chord, knee_of, with_targets
from lowbeam.catalog.tasks import TASKS
from lowbeam_worker.options import Task

HUGGING_FACE_PIPELINES = {
    "automatic-speech-recognition",
    "feature-extraction",
    "image-classification",
    "image-text-to-text",
    "image-to-text",
    "object-detection",
    "question-answering",
    "summarization",
    "text-classification",
    "text-generation",
    "text-ranking",
    "text-to-image",
    "text-to-video",
    "token-classification",
    "translation",
    "video-text-to-text",
}


def test_tasks_are_pipeline_tags_and_code_completion() -> None:
    assert set(TASKS) == HUGGING_FACE_PIPELINES | {"code-completion"}


@pytest.mark.parametrize("task", load_builtin().tasks.values(), ids=lambda task: task.name)
def test_a_task_has_a_latency_target_of_one_kind_and_thinks_only_when_asked(task: TaskFacts) -> None:
    per_token = task.time_to_first_token_ms is not None and task.inter_token_ms is not None
    assert (task.end_to_end_ms is not None) is not per_token
    assert task.generative or not per_token
    assert (task.default_output_tokens > 1) is task.generative
    assert 0 < task.floor_centi <= task.target_centi
    assert task.default_reasoning is Reasoning.OFF
    assert task.benchmark in load_builtin().benchmarks


def test_only_tasks_that_answer_in_text_take_models_that_generate_text_without_an_opt_in() -> None:
    judged = {"text-classification", "feature-extraction", "question-answering", "text-ranking", "token-classification"}
    assert not any(TASKS[name].generative for name in judged)
    assert TASKS["summarization"].generative


def test_the_tasks_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        TASKS["text-generation"] = TASKS["code-completion"]  # type: ignore[index]


def test_what_planning_holds_for_native_is_what_the_worker_serves_and_the_catalogue_knows_it() -> None:
    assert {task.value for task in Task} == NATIVE.tasks
    # Zero-shot classification costs one pass per label: no figure per request says anything.
    assert NATIVE.tasks - set(TASKS) == {"zero-shot-classification"}


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", load_builtin().tasks.values(), ids=lambda task: task.name)
def test_a_target_is_the_knee_recomputed_or_the_floor(task: TaskFacts) -> None:
    knee = knee_of(task, load_builtin())
    if knee is None:
        assert (task.target_centi, task.target_from) == (task.floor_centi, "")
        return
    frontier = [point for point in knee.points if point.on_frontier]
    assert task.target_centi == knee.at.score_centi
    assert knee.at in frontier
    assert knee.at.model in task.target_from
    # No point of the frontier lies farther above the line from the cheapest to the best.
    first, last = frontier[0], frontier[-1]
    if len(frontier) > 2:
        slope = (last.score_centi - first.score_centi) / log(last.millijoules / first.millijoules)
        height = {
            p: p.score_centi - first.score_centi - slope * log(p.millijoules / first.millijoules) for p in frontier
        }
        assert height[knee.at] == max(height.values())
    for dominated in set(knee.points) - set(frontier):
        assert any(
            other.millijoules <= dominated.millijoules and other.score_centi >= dominated.score_centi
            for other in frontier
        )


def test_the_knee_of_chat_is_published_and_far_cheaper_than_the_best() -> None:
    knee = knee_of(load_builtin().tasks["text-generation"], load_builtin())
    assert knee is not None
    best = max(knee.points, key=lambda point: point.score_centi)
    assert knee.basis is Basis.PUBLISHED
    assert best.millijoules > 2 * knee.at.millijoules
    # Half of the way from the least that serves to the best on one accelerator costs next to nothing.
    cheapest = knee.points[0]
    assert knee.at.millijoules < 2 * cheapest.millijoules
    assert knee.at.score_centi - cheapest.score_centi > (best.score_centi - cheapest.score_centi) / 2


def points(*figures: tuple[int, int]) -> list[KneePoint]:
    return [KneePoint(f"m{i}", "bf16", score, joules, True) for i, (joules, score) in enumerate(figures)]


@pytest.mark.parametrize(
    ("frontier", "knee"),
    [
        (points((10, 50)), "m0"),
        (points((10, 50), (1000, 90)), "m0"),
        (points((10, 50), (20, 80), (1000, 90)), "m1"),
        (points((10, 50), (500, 52), (1000, 90)), "m0"),
        # On a logarithmic axis twice the joules is one step wherever it is taken.
        (points((10, 50), (100, 75), (1000, 90)), "m1"),
        (points((10, 50), (100, 70), (1000, 90)), "m0"),
    ],
)
def test_the_knee_lies_above_the_chord_or_is_the_cheapest(frontier: list[KneePoint], knee: str) -> None:
    assert farthest_above_the_chord(frontier).model == knee


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**4)), min_size=1, max_size=12), st.integers(2, 50))
def test_the_unit_of_energy_does_not_move_the_knee(figures: list[tuple[int, int]], factor: int) -> None:
    joules, scores = sorted({j for j, _ in figures}), sorted({s for _, s in figures})
    rising = list(zip(joules, scores, strict=False))
    scaled = [(j * factor, s) for j, s in rising]
    one, other = farthest_above_the_chord(points(*rising)), farthest_above_the_chord(points(*scaled))
    spread = log(joules[len(rising) - 1] / joules[0]) if len(rising) > 1 else 1.0
    slope = (rising[-1][1] - rising[0][1]) / spread

    def above(point: KneePoint, first: int) -> float:
        return point.score_centi - rising[0][1] - slope * log(point.millijoules / first)

    # Equal heights may be told apart by rounding; the height itself may not differ.
    assert above(one, rising[0][0]) == pytest.approx(above(other, scaled[0][0]), abs=1e-6)


# --- which figures are compared --------------------------------------------------------------------------------------


def small_catalogue(*profiles: EnergyProfile) -> Catalogue:
    return replace(load_builtin(), profiles=profiles, reference_profiles=())


def profile_of(model: str, joules: int, **changes: object) -> EnergyProfile:
    template = next(p for p in load_builtin().profiles if p.model == "distilbert-sst2" and p.accelerator_class == "l4")
    curve = (ProfilePoint(8, 1000 * joules, 1000, 10, 14),)
    fields = {"name": f"{model}-{changes}", "model": model, "precision": "bf16", "points": curve} | changes
    return replace(template, **fields)  # type: ignore[arg-type]


TASK = load_builtin().tasks["text-classification"]
THREE = ("distilbert-sst2", "roberta-base-sst2", "roberta-large-sst2")


def test_two_models_have_no_knee_and_the_floor_stays_the_target() -> None:
    catalogue = small_catalogue(*(profile_of(model, 50) for model in THREE[:2]))
    assert knee_of(TASK, catalogue) is None
    assert with_targets(replace(catalogue, tasks=dict(TASKS))).tasks[TASK.name].target_centi == TASK.floor_centi


def test_a_model_on_several_accelerators_moves_nobodys_target() -> None:
    ours = [profile_of(model, 10 * number + 10) for number, model in enumerate(THREE)]
    huge = profile_of("albert-xxlarge-sst2", 5000, accelerators=8)
    assert knee_of(TASK, small_catalogue(*ours, huge)) == knee_of(TASK, small_catalogue(*ours))


def test_classes_are_never_mixed_and_published_figures_come_before_modelled_ones() -> None:
    modelled = [profile_of(m, 10 * i + 10, accelerator_class="a100") for i, m in enumerate(THREE)]
    published = [
        profile_of(m, 10 * i + 20, basis=Basis.PUBLISHED, uncertainty_percent=0, accelerator_class="h100")
        for i, m in enumerate(THREE)
    ]
    knee = knee_of(TASK, small_catalogue(*modelled, *published))
    assert knee is not None
    assert (knee.accelerator_class, knee.basis) == ("h100", Basis.PUBLISHED)
    assert len(knee.points) == 3
    knee = knee_of(TASK, small_catalogue(*modelled, *published[:2]))
    assert knee is not None
    assert (knee.accelerator_class, knee.basis) == ("a100", Basis.MODELLED)


def test_series_are_never_mixed() -> None:
    profiles = [profile_of(m, 10, series=f"series-{i}") for i, m in enumerate(THREE)]
    assert knee_of(TASK, small_catalogue(*profiles)) is None


def test_a_model_below_the_floor_is_not_aimed_at() -> None:
    cheap = profile_of("bert-tiny-sst2", 1)
    knee = knee_of(TASK, small_catalogue(cheap, *(profile_of(m, 50 + i) for i, m in enumerate(THREE))))
    assert knee is not None
    assert "bert-tiny-sst2" not in {point.model for point in knee.points}


def test_a_batch_that_misses_the_default_latency_does_not_count() -> None:
    fast, slow = ProfilePoint(1, 80_000, 1000, 10, 14), ProfilePoint(64, 20_000, 9000, 10, 900)
    profiles = [profile_of(model, 50 + i) for i, model in enumerate(THREE[1:])]
    profiles.append(profile_of(THREE[0], 1, points=(fast, slow)))
    knee = knee_of(TASK, small_catalogue(*profiles))
    assert knee is not None
    (point,) = [point for point in knee.points if point.model == THREE[0]]
    assert point.millijoules == 80_000


def test_a_variant_that_thinks_is_no_point() -> None:
    task = load_builtin().tasks["text-generation"]
    knee = knee_of(task, load_builtin())
    assert knee is not None
    assert not {"gpt-oss-20b", "deepseek-r1-0528"} & {point.model for point in knee.points}
