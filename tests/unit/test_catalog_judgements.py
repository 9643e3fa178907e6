"""Stars, node classes, verify and task facts: judgements on the catalogue that a user sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.catalog import class_of_node, load_builtin, overlay, stars, verify, why_no_class
from lowbeam.catalog.comparison import least_millijoules
from lowbeam.catalog.facts import Basis, Catalogue, EnergyProfile, Reasoning
from lowbeam.catalog.stars import FIVE_STAR_MILLIJOULES, bands
from lowbeam.catalog.tasks import TASKS
from lowbeam.catalog.verify import Severity

# --- stars -----------------------------------------------------------------------------------------------------------


def ratings(catalogue: Catalogue) -> dict[str, int | None]:
    return {p.name: stars(p.task, p.reasoning, least_millijoules(p) or 0, p.basis) for p in catalogue.profiles}


def test_adding_an_extreme_model_changes_no_star() -> None:
    before = load_builtin()
    worst = max(before.profiles, key=lambda p: least_millijoules(p) or 0)
    points = tuple(
        replace(p, requests_per_second_milli=max(place, p.requests_per_second_milli // 1000))
        for place, p in enumerate(worst.points, start=1)
    )
    extreme = replace(worst, name="extreme", points=points)
    after = replace(before, profiles=(*before.profiles, extreme))
    new = ratings(after)
    assert new.pop("extreme") == 1
    assert new == ratings(before)


def test_published_chat_models_spread_over_all_the_stars() -> None:
    catalogue = load_builtin()
    chat = {
        name: rating
        for name, rating in ratings(catalogue).items()
        if rating is not None and next(p for p in catalogue.profiles if p.name == name).task == "text-generation"
    }
    assert set(chat.values()) == {1, 2, 3, 4, 5}
    assert chat["llama-3.1-8b-instruct-bf16-h100-x1"] == 5
    assert chat["llama-3.1-405b-instruct-fp8-h100-x8"] == 1


def test_a_modelled_figure_is_unrated_however_good() -> None:
    assert stars("text-generation", Reasoning.OFF, 1, Basis.MODELLED) is None
    assert stars("text-generation", Reasoning.OFF, 1, Basis.MEASURED) == 5
    assert all(rating is None for name, rating in ratings(load_builtin()).items() if "-l4-" in name or "-cpu-" in name)


def test_reasoning_is_rated_apart() -> None:
    assert stars("text-generation", Reasoning.OFF, 150_000, Basis.PUBLISHED) == 3
    assert stars("text-generation", Reasoning.LOW, 150_000, Basis.PUBLISHED) == 5


def test_a_task_without_bands_is_unrated() -> None:
    assert stars("image-generation", Reasoning.OFF, 1, Basis.MEASURED) is None
    assert bands("image-generation", Reasoning.OFF) == ()


@given(st.sampled_from(sorted(FIVE_STAR_MILLIJOULES)), st.integers(0, 10**9), st.integers(0, 10**9))
def test_fewer_joules_never_earn_fewer_stars(key: tuple[str, bool], one: int, other: int) -> None:
    task, thinks = key
    reasoning = Reasoning.HIGH if thinks else Reasoning.OFF
    few, many = sorted((one, other))
    better, worse = (stars(task, reasoning, joules, Basis.PUBLISHED) for joules in (few, many))
    assert better is not None
    assert worse is not None
    assert 5 >= better >= worse >= 1


def test_each_band_starts_where_the_one_before_ends() -> None:
    for rating, edge in zip(range(5, 1, -1), bands("text-generation", Reasoning.OFF), strict=True):
        assert stars("text-generation", Reasoning.OFF, edge, Basis.MEASURED) == rating
        assert stars("text-generation", Reasoning.OFF, edge + 1, Basis.MEASURED) == rating - 1


# --- nodes -----------------------------------------------------------------------------------------------------------

PRODUCT = "nvidia.com/gpu.product"
NAMED = "lowbeam.dev/accelerator-class"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({PRODUCT: "NVIDIA-H100-80GB-HBM3"}, "h100"),
        ({PRODUCT: "NVIDIA-B200"}, "b200"),
        ({PRODUCT: "NVIDIA-A100-SXM4-80GB"}, "a100"),
        ({PRODUCT: "NVIDIA-L4"}, "l4"),
        ({PRODUCT: "NVIDIA-L40"}, None),
        ({PRODUCT: "NVIDIA-L40S"}, None),
        ({PRODUCT: "NVIDIA-A100-SXM4-40GB"}, None),
        ({PRODUCT: "NVIDIA-H100-PCIe"}, None),
        ({PRODUCT: "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"}, None),
        ({PRODUCT: "NVIDIA-L4-SHARED"}, None),
        ({NAMED: "cpu"}, "cpu"),
        ({NAMED: "no-such-class"}, None),
        ({NAMED: "l4", PRODUCT: "NVIDIA-L4-SHARED"}, "l4"),
        ({NAMED: "a100", PRODUCT: "NVIDIA-H100-80GB-HBM3"}, "a100"),
        ({}, None),
    ],
)
def test_a_node_belongs_to_the_class_of_its_whole_boards_or_of_its_owners_label(
    labels: dict[str, str], expected: str | None
) -> None:
    assert class_of_node(labels, load_builtin()) == expected


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({PRODUCT: "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"}, "part of a board of class h100"),
        ({PRODUCT: "NVIDIA-L4-SHARED"}, "part of a board of class l4"),
        ({PRODUCT: "NVIDIA-RTX-9090"}, "no class has the product label NVIDIA-RTX-9090"),
        ({NAMED: "h10"}, "names no class (known: a100, b200, cpu, h100, l4)"),
        ({}, "label it lowbeam.dev/accelerator-class=cpu"),
    ],
)
def test_a_node_without_a_class_is_told_what_to_do(labels: dict[str, str], says: str) -> None:
    assert says in why_no_class(labels, load_builtin())


def test_a_mig_slice_can_be_a_class_of_its_own() -> None:
    spec = {
        "productLabels": ["NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"],
        "memoryMebibytes": 9984,
        "precisions": ["bf16"],
        "idleWatts": "15",
        "maxWatts": "100",
        "source": {"citation": "our own measurement", "date": "2026"},
    }
    raw = {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": "h100-1g"},
        "spec": spec,
    }
    catalogue, problems = overlay(load_builtin(), classes=[raw])
    assert problems == ()
    assert class_of_node({PRODUCT: "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"}, catalogue) == "h100-1g"


# --- verify ----------------------------------------------------------------------------------------------------------


def with_profile(changed: EnergyProfile) -> Catalogue:
    catalogue = load_builtin()
    others = tuple(p for p in catalogue.profiles if p.name != changed.name)
    return replace(catalogue, profiles=(*others, changed))


def errors(catalogue: Catalogue) -> list[str]:
    return [f"{f.subject} {f.field}" for f in verify(catalogue) if f.severity is Severity.ERROR]


def some_profile() -> EnergyProfile:
    return next(p for p in load_builtin().profiles if p.name == "qwen3-8b-bf16-h100-x1")


def test_verify_finds_a_curve_out_of_order() -> None:
    profile = some_profile()
    assert errors(with_profile(replace(profile, points=profile.points[::-1]))) != []


def test_verify_finds_a_reference_to_a_model_that_is_gone() -> None:
    catalogue = load_builtin()
    models = {name: model for name, model in catalogue.models.items() if name != "bert-tiny-sst2"}
    broken = replace(catalogue, models=models)
    assert any("bert-tiny-sst2" in error and "spec.model" in error for error in errors(broken))


def test_verify_finds_a_figure_without_a_source() -> None:
    profile = some_profile()
    unsourced = replace(profile, source=replace(profile.source, citation=" ", date="yesterday"))
    assert errors(with_profile(unsourced)) == [f"EnergyProfile/{profile.name} source"] * 2


def test_verify_finds_a_modelled_profile_without_uncertainty() -> None:
    profile = replace(some_profile(), basis=Basis.MODELLED)
    assert errors(with_profile(profile)) == [f"EnergyProfile/{profile.name} uncertainty"]


def test_verify_finds_a_score_above_one_hundred_percent() -> None:
    catalogue = load_builtin()
    model = catalogue.models["distilbert-sst2"]
    variant = model.variants[0]
    score = replace(variant.quality[0], score_centi=10_001)
    changed = replace(model, variants=(replace(variant, quality=(score,)), *model.variants[1:]))
    broken = replace(catalogue, models=catalogue.models | {model.name: changed})
    assert any("quality[sst2]" in error for error in errors(broken))


def test_verify_finds_a_target_that_no_model_reaches() -> None:
    catalogue = load_builtin()
    task = replace(catalogue.tasks["feature-extraction"], target_centi=9_900)
    assert errors(replace(catalogue, tasks=catalogue.tasks | {task.name: task})) == ["task/feature-extraction target"]


def test_verify_calls_a_draw_below_idle_suspicious() -> None:
    profile = some_profile()
    low = replace(profile, points=(replace(profile.points[0], milliwatts=50_000), *profile.points[1:]))
    assert any("below" in f.message and f.severity is Severity.SUSPICIOUS for f in verify(with_profile(low)))


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_generating_tasks_have_targets_per_token_and_the_others_for_the_whole_request() -> None:
    for task in TASKS.values():
        per_token = task.time_to_first_token_ms is not None and task.inter_token_ms is not None
        assert per_token is task.generative
        assert (task.end_to_end_ms is not None) is not task.generative
        assert (task.default_output_tokens == 1) is not task.generative
        assert 0 < task.floor_centi <= task.target_centi


def test_the_tasks_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        TASKS["text-generation"] = TASKS["code-completion"]  # type: ignore[index]
