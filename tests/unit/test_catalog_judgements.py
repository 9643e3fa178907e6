"""Node classes, verify and task facts: judgements on the catalogue that a user sees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowbeam.catalog import class_of_node, load_builtin, overlay, verify, why_no_class
from lowbeam.catalog.facts import Basis, Catalogue, EnergyProfile
from lowbeam.catalog.verify import Severity

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
        ({PRODUCT: "NVIDIA-L40S"}, "l40s"),
        ({PRODUCT: "NVIDIA-A100-SXM4-40GB"}, "a100-40"),
        ({PRODUCT: "NVIDIA-H100-PCIe"}, "h100-pcie"),
        ({PRODUCT: "NVIDIA-H100-NVL"}, None),
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
        ({NAMED: "h10"}, "names no class (known: a100, a100-40, a10g, a40, b200, cpu, h100, "),
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
    assert errors(broken) == ["ModelCard/distilbert-sst2 spec.variants[0].quality[0].score"]


def test_verify_finds_a_target_that_no_model_reaches() -> None:
    catalogue = load_builtin()
    task = replace(catalogue.tasks["feature-extraction"], target_centi=9_900)
    assert errors(replace(catalogue, tasks=catalogue.tasks | {task.name: task})) == ["task/feature-extraction target"]


def test_verify_calls_a_draw_below_idle_suspicious() -> None:
    profile = some_profile()
    low = replace(profile, points=(replace(profile.points[0], milliwatts=50_000), *profile.points[1:]))
    assert any("below" in f.message and f.severity is Severity.SUSPICIOUS for f in verify(with_profile(low)))


def test_verify_finds_two_settings_in_one_series() -> None:
    catalogue = load_builtin()
    model = catalogue.models["distilbert-sst2"]
    variant = model.variants[0]
    score = replace(variant.quality[0], setting="SST-2 test, 5-shot")
    changed = replace(model, variants=(replace(variant, quality=(score,)), *model.variants[1:]))
    broken = replace(catalogue, models=catalogue.models | {model.name: changed})
    assert errors(broken) == ["ModelCard/distilbert-sst2 spec.variants[0].quality[0].setting"]
