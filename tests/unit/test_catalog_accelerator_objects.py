"""AcceleratorClasses and series of profiles in the cluster: what they change live, and how bad ones are refused."""

from __future__ import annotations

from typing import Any

import pytest

from lowbeam.catalog import CatalogueReason, class_of_node, load_builtin, overlay, why_no_class
from lowbeam.catalog.facts import AcceleratorClass

SOURCE = {"citation": "nvidia-smi on our node", "date": "2026-11-21"}
PRODUCT = "nvidia.com/gpu.product"


def accelerator(name: str = "gh200", **changes: Any) -> dict[str, Any]:
    spec = {
        "productLabels": ["NVIDIA-GH200-480GB"],
        "memoryMebibytes": 97871,
        "precisions": ["bf16", "fp8"],
        "idleWatts": "120",
        "maxWatts": "900",
        "source": SOURCE,
    }
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": name},
        "spec": {key: value for key, value in (spec | changes).items() if value is not None},
    }


def profile(name: str = "ours", **changes: Any) -> dict[str, Any]:
    points = [
        {
            "batch": 1,
            "watts": "300",
            "requestsPerSecond": "0.3",
            "latencyP50Milliseconds": 3300,
            "latencyP95Milliseconds": 3500,
        }
    ]
    spec = {
        "model": "llama-3.1-8b-instruct",
        "precision": "bf16",
        "task": "text-generation",
        "acceleratorClass": "h100",
        "engine": "vllm-0.12.0",
        "inputTokens": 200,
        "outputTokens": 400,
        "points": points,
        "basis": "Measured",
        "source": SOURCE,
    }
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "EnergyProfile",
        "metadata": {"name": name},
        "spec": spec | changes,
    }


# --- classes ---------------------------------------------------------------------------------------------------------


def test_every_class_that_ships_has_its_limits_and_what_is_unknown_is_absent() -> None:
    classes = load_builtin().accelerator_classes
    assert {"b200", "h200", "h100", "h100-pcie", "a100", "a100-40", "l40s", "l4", "a10g", "a40", "v100", "t4"} <= set(
        classes
    )
    assert {"mi300x", "cpu"} <= set(classes)
    for it in classes.values():
        for figure in (it.bandwidth_gb_s, it.dense_tflops_bf16, it.bare_idle_milliwatts, it.min_milliwatts):
            assert figure is None or figure > 0, it.name
        assert it.source.citation, it.name
    assert classes["h100-pcie"].min_milliwatts is None, "nobody read it"
    assert classes["mi300x"].bare_idle_milliwatts is None
    assert (classes["t4"].dense_tflops_bf16, classes["t4"].dense_tflops("fp16")) == (None, 65)
    assert classes["a100"].dense_tflops("fp8") is None
    assert classes["h100"].dense_tflops("fp16") == classes["h100"].dense_tflops("bf16") == 989


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("NVIDIA-H200", "h200"),
        ("NVIDIA-H200-NVL", None),
        ("NVIDIA-H100-80GB-HBM3", "h100"),
        ("NVIDIA-H100-PCIe", "h100-pcie"),
        ("NVIDIA-H100-NVL", None),
        ("NVIDIA-A100-SXM4-40GB", "a100-40"),
        ("NVIDIA-A100-SXM4-80GB", "a100"),
        ("NVIDIA-A100-80GB-PCIe", None),
        ("NVIDIA-A10", None),
        ("NVIDIA-A10G", "a10g"),
        ("NVIDIA-L40", None),
        ("NVIDIA-L40S", "l40s"),
        ("Tesla-V100-SXM2-32GB", "v100"),
        ("Tesla-V100-SXM2-16GB", None),
        ("Tesla-T4", "t4"),
        ("Tesla-T4-SHARED", None),
        ("NVIDIA-A100-SXM4-40GB-MIG-3g.20gb", None),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me", None),
    ],
)
def test_a_label_means_a_class_only_in_full(label: str, expected: str | None) -> None:
    assert class_of_node({PRODUCT: label}, load_builtin()) == expected


def test_a_node_with_amd_boards_is_told_why_nothing_runs_there() -> None:
    labels = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}
    assert class_of_node(labels, load_builtin()) is None
    assert "AMD_Instinct_MI300X_OAM" in why_no_class(labels, load_builtin())


def test_an_object_adds_a_class_and_its_nodes_live() -> None:
    catalogue, problems = overlay(load_builtin(), classes=[accelerator(minWatts="100", bareIdleWatts="87.9")])
    assert problems == ()
    assert class_of_node({PRODUCT: "NVIDIA-GH200-480GB"}, catalogue) == "gh200"
    added: AcceleratorClass = catalogue.accelerator_classes["gh200"]
    assert (added.min_milliwatts, added.bare_idle_milliwatts, added.bandwidth_gb_s) == (100_000, 87_900, None)


def test_a_class_that_replaces_a_built_in_one_takes_with_it_the_profiles_that_no_longer_fit() -> None:
    smaller = accelerator("l4", productLabels=["NVIDIA-L4"], memoryMebibytes=8192, maxWatts="72", idleWatts="30")
    catalogue, problems = overlay(load_builtin(), classes=[smaller])
    assert problems == ()
    on_l4 = {p.model for p in catalogue.profiles if p.accelerator_class == "l4"}
    assert "llama-3.1-8b-instruct" not in on_l4, "16 GB of weights in 8 GiB"
    assert "distilbert-sst2" in on_l4


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"idleWatts": "-1"}, "spec.idleWatts"),
        ({"idleWatts": "NaN"}, "spec.idleWatts"),
        ({"idleWatts": "120W"}, "spec.idleWatts"),
        ({"idleWatts": None, "idle": "120"}, "spec.idleWatts"),
        ({"maxWatts": None}, "spec.maxWatts"),
        ({"maxWatts": "0"}, "spec.maxWatts"),
        ({"maxWatts": "Infinity"}, "spec.maxWatts"),
        ({"minWatts": "1000"}, "spec.minWatts"),
        ({"bareIdleWatts": "130"}, "spec.bareIdleWatts"),
        ({"memoryMebibytes": 0}, "spec.memoryMebibytes"),
        ({"memoryBandwidthGigabytesPerSecond": 0}, "spec.memoryBandwidthGigabytesPerSecond"),
        ({"denseTeraflopsFp8": -5}, "spec.denseTeraflopsFp8"),
        ({"precisions": []}, "spec.precisions"),
        ({"computeCapability": "9"}, "spec.computeCapability"),
        ({"source": {"citation": "ours"}}, "spec.source.date"),
    ],
)
def test_a_bad_class_is_refused_with_the_field_and_the_rest_stays(bad: dict[str, Any], field: str) -> None:
    catalogue, problems = overlay(load_builtin(), classes=[accelerator(**bad), accelerator("good")])
    assert [(p.name, p.field, p.reason) for p in problems] == [("gh200", field, CatalogueReason.INVALID_FIELD)]
    assert "gh200" not in catalogue.accelerator_classes
    assert "good" in catalogue.accelerator_classes
    assert catalogue.profiles == load_builtin().profiles


# --- series ----------------------------------------------------------------------------------------------------------


def test_another_series_is_shown_and_never_planned_with() -> None:
    catalogue = load_builtin()
    assert {p.series for p in catalogue.profiles} == {""}
    assert {p.series for p in catalogue.reference_profiles} == {"ml-energy-v2"}
    assert {p.accelerator_class for p in catalogue.reference_profiles} == {"a100-40", "h100"}
    assert all(not p.name.endswith("-v2") for model in catalogue.models for p in catalogue.profiles_of(model, "x"))


def test_an_object_with_a_series_leaves_the_planned_figures_of_the_same_thing_alone() -> None:
    before = load_builtin()
    catalogue, problems = overlay(before, profiles=[profile(series="our-old-engine")])
    assert problems == ()
    assert catalogue.profiles == before.profiles
    assert {p.name for p in catalogue.reference_profiles} - {p.name for p in before.reference_profiles} == {"ours"}


def test_an_object_without_a_series_replaces_the_planned_figures_and_leaves_the_references_alone() -> None:
    before = load_builtin()
    catalogue, problems = overlay(before, profiles=[profile()])
    assert problems == ()
    names = {p.name for p in catalogue.profiles}
    assert "ours" in names
    assert "llama-3.1-8b-instruct-bf16-h100-x1" not in names
    assert catalogue.reference_profiles == before.reference_profiles


@pytest.mark.parametrize("series", ["", "Our Engine", "v3_", "-x"])
def test_a_series_is_a_word(series: str) -> None:
    _, problems = overlay(load_builtin(), profiles=[profile(series=series)])
    assert [p.field for p in problems] == ["spec.series"]
