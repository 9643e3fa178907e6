"""The models that ship: which there are, what is known about each, how families hang together, how they think."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import Benchmark, Confidence, Model, Reasoning
from lowbeam.catalog.families import cycles, with_successors
from tools.catalog import models as builder

SOURCES = Path(__file__).parents[2] / "tools/catalog/sources"
V3_FILES = ("gpqa", "lm-arena-chat", "sourcegraph-fim", "image-chat", "video-chat", "text-to-image", "text-to-video")
NAMES_SINCE = {
    "meta-llama/Meta-Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Meta-Llama-3.1-70B-Instruct": "meta-llama/Llama-3.1-70B-Instruct",
    "meta-llama/Meta-Llama-3.1-405B-Instruct": "meta-llama/Llama-3.1-405B-Instruct",
}
UNCLEAR = ("", "other", "unknown", "check", "tbd")
"""What a licence must not be."""


def rows(path: str) -> list[dict[str, str]]:
    with (SOURCES / path).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def paths_and_precisions() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for model in load_builtin().models.values():
        for variant in model.variants:
            found.setdefault(model.path_for(variant.precision), set()).add(variant.precision)
    return found


def test_every_model_of_ml_energy_v3_is_there_in_the_precision_that_was_measured() -> None:
    precisions = {"bfloat16": "bf16", "fp8": "fp8", "mxfp4": "mxfp4"}
    measured = {
        (row["model_id"], precisions[row["weight_precision"]])
        for file in V3_FILES
        for row in json.loads((SOURCES / f"ml-energy-v3/{file}.json").read_text())["configurations"]
    }
    known = paths_and_precisions()
    assert len({model for model, _ in measured}) == 46
    assert {(model, precision) for model, precision in measured if precision not in known.get(model, ())} == set()


@pytest.mark.parametrize("file", ["llm_text_generation-chat", "llm_text_generation-code"])
def test_every_language_model_of_ml_energy_v2_is_there(file: str) -> None:
    measured = {row["Model"] for row in json.loads((SOURCES / f"ml-energy-v2/{file}.json").read_text())}
    known = paths_and_precisions()
    assert {model for model in measured if NAMES_SINCE.get(model, model) not in known} == set()


def test_every_task_has_models_and_every_small_task_a_family_of_several_sizes() -> None:
    catalogue = load_builtin()
    for task in catalogue.tasks:
        models = [model for model in catalogue.models.values() if task in model.tasks]
        assert len(models) >= 3, task
        assert any(model.predecessors for model in models), task


def test_no_model_ships_whose_licence_is_not_known() -> None:
    for model in load_builtin().models.values():
        assert model.licence not in UNCLEAR, model.name
        assert "agpl" not in model.licence, model.name
        assert "(" not in model.licence, model.name


def test_a_model_uses_no_more_parameters_than_it_has_and_its_weights_are_that_large() -> None:
    for model in load_builtin().models.values():
        assert 0 < model.active_parameters_millions <= model.total_parameters_millions, model.name
        for variant in model.variants:
            bits = variant.weights_mib * 2**20 * 8 / (model.total_parameters_millions * 1e6)
            # Rounded to a million parameters, the smallest models are off by an eighth.
            low, high = {"fp32": (28, 37), "bf16": (15, 19), "fp16": (15, 19), "fp8": (7, 9), "mxfp4": (4, 6)}[
                variant.precision
            ]
            assert low <= bits <= high, (model.name, variant.precision, bits)


def test_every_carried_score_belongs_to_a_model_and_reaches_its_card() -> None:
    known = {row["quality_id"] for row in builder.model_rows()}
    for name in builder.QUALITY_FILES:
        assert {row["hf_id"] for row in rows(name)} <= known
    catalogue = load_builtin()
    for row in (row for name in builder.QUALITY_FILES for row in rows(name)):
        models = {r["name"] for r in builder.model_rows() if r["quality_id"] == row["hf_id"]}
        modes = {mode for mode, words in builder.MODES_OF_REASONING.items() if row["mode"] in words}
        found = [
            score
            for name in models
            for variant in catalogue.models[name].variants
            if variant.reasoning.value in modes
            for score in variant.quality
            if (score.benchmark, score.score_centi) == (row["benchmark"], round(float(row["score"]) * 100))
        ]
        has_the_mode = any(v.reasoning.value in modes for name in models for v in catalogue.models[name].variants)
        assert bool(found) is has_the_mode, row


def test_a_score_that_is_not_read_from_its_source_says_so() -> None:
    yolos = load_builtin().models["yolos-tiny"].variants[0].quality[0]
    assert (yolos.score_centi, yolos.confidence) == (2870, Confidence.RECALLED)
    qwen = load_builtin().models["qwen3-8b"].variants[0].quality[0]
    assert qwen.confidence is Confidence.SECONDARY


def test_the_build_stops_at_a_row_of_another_setting() -> None:
    row = {"hf_id": "a/b", "benchmark": "mmlu-pro", "metric": "accuracy-percent", "setting": "5-shot CoT"}
    with pytest.raises(ValueError, match="another setting is another benchmark"):
        builder._checked(row)


def test_a_score_of_an_unquantised_model_says_so_on_its_fp8_checkpoint() -> None:
    fp8 = next(v for v in load_builtin().models["llama-3.1-405b-instruct"].variants if v.precision == "fp8")
    assert all("not reported for the FP8 checkpoint" in score.source.note for score in fp8.quality)


# --- families --------------------------------------------------------------------------------------------------------


def test_stepping_down_leads_to_a_smaller_model_of_the_same_task() -> None:
    models = load_builtin().models
    for model in models.values():
        for name in model.predecessors:
            other = models[name]
            assert set(model.tasks) & set(other.tasks), (model.name, name)
            assert (other.active_parameters_millions, other.total_parameters_millions) < (
                model.active_parameters_millions,
                model.total_parameters_millions,
            ) or other.total_parameters_millions <= model.total_parameters_millions, (model.name, name)


def test_a_step_up_is_the_same_edge_read_backwards() -> None:
    models = load_builtin().models
    assert models["qwen3-8b"].predecessors == ("qwen3-1.7b",)
    assert models["qwen3-8b"].successors == ("qwen3-14b",)
    for model in models.values():
        assert all(model.name in models[name].successors for name in model.predecessors)
        assert all(model.name in models[name].predecessors for name in model.successors)


def test_a_circle_is_found_with_the_way_round_and_nothing_else_is_accused() -> None:
    models = load_builtin().models
    bent = dict(models)
    bent["qwen3-0.6b"] = _stepping_down_to(models["qwen3-0.6b"], "qwen3-14b")
    found = cycles(bent)
    assert set(found) == {"qwen3-0.6b", "qwen3-1.7b", "qwen3-8b", "qwen3-14b"}
    assert found["qwen3-8b"] == ("qwen3-8b", "qwen3-1.7b", "qwen3-0.6b", "qwen3-14b", "qwen3-8b")
    assert cycles(models) == {}


def test_edges_to_models_of_no_shared_task_or_out_of_force_are_left_out() -> None:
    models = load_builtin().models
    some = {
        "a": _stepping_down_to(models["qwen3-8b"], "gone", "b", "c"),
        "b": models["gte-small"],
        "c": models["qwen3-1.7b"],
    }
    joined = with_successors(some)
    assert joined["a"].predecessors == ("c",)
    assert joined["c"].successors == ("a",)
    assert joined["b"].successors == ()


def _stepping_down_to(model: Model, *names: str) -> Model:
    return replace(model, predecessors=names)


# --- reasoning -------------------------------------------------------------------------------------------------------


def test_every_model_with_several_reasoning_modes_says_how_to_switch_to_each() -> None:
    for model in load_builtin().models.values():
        modes = {variant.reasoning for variant in model.variants}
        if len(modes) > 1:
            assert model.reasoning_control is not None, model.name
            assert all(model.reasoning_control.value(mode) for mode in modes), model.name
        else:
            assert model.reasoning_control is None, model.name


@pytest.mark.parametrize(
    ("name", "mode", "parameter", "value"),
    [
        ("qwen3-8b", Reasoning.OFF, "enable_thinking", "false"),
        ("deepseek-v3.1", Reasoning.HIGH, "thinking", "true"),
        ("gpt-oss-20b", Reasoning.MEDIUM, "reasoning_effort", "medium"),
        ("nemotron-nano-9b-v2", Reasoning.OFF, "", "/no_think"),
        ("gpt-oss-20b", Reasoning.OFF, "reasoning_effort", None),
    ],
)
def test_each_family_is_switched_in_its_own_way(name: str, mode: Reasoning, parameter: str, value: str | None) -> None:
    control = load_builtin().models[name].reasoning_control
    assert control is not None
    assert (control.parameter, control.value(mode)) == (parameter, value)


# --- benchmarks ------------------------------------------------------------------------------------------------------


def test_one_benchmark_is_one_metric_and_one_setting() -> None:
    catalogue = load_builtin()
    for model in catalogue.models.values():
        for variant in model.variants:
            for score in variant.quality:
                series = catalogue.benchmarks[score.benchmark]
                assert (score.metric, score.setting or series.setting) == (series.metric, series.setting)


def test_figures_of_different_reporters_have_benchmarks_of_their_own() -> None:
    reporters: dict[str, set[str]] = {}
    for row in rows("quality/language-models.csv"):
        reporters.setdefault(row["benchmark"], set()).add(row["source"].split(",")[0])
    for benchmark in ("mmlu-pro", "gpqa-diamond"):
        assert reporters[benchmark] == {"Artificial Analysis"}
    medium = next(v for v in load_builtin().models["gpt-oss-120b"].variants if v.reasoning is Reasoning.MEDIUM)
    assert medium.quality_centi("gpqa-diamond") is None
    assert medium.quality_centi("gpqa-diamond.openai") == 7310


def test_error_rates_are_carried_so_that_higher_is_better() -> None:
    best = load_builtin().models["whisper-large-v3"].variants[0]
    small = load_builtin().models["distil-small-en"].variants[0]
    assert (best.quality_centi("asr-short-form"), small.quality_centi("asr-short-form")) == (9160, 8790)
    assert Benchmark("a", "b", "c").highest_centi is None
