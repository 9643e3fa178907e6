from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.api.v1alpha1.inferenceworkload import InferenceWorkload
from lowbeam.catalog.facts import Reasoning
from lowbeam.render import Placement, deployment_name, service, service_name
from lowbeam.render.labels import label_value

PLACEMENT = Placement("Qwen3-8B", "bf16", Reasoning.OFF, "h100", 1, "cluster", "Native")
DNS_SUBDOMAIN = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,120}[a-z0-9])?", fullmatch=True)
LABEL_VALUE = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"


@given(DNS_SUBDOMAIN)
def test_names_are_valid_in_kubernetes_whatever_the_workload_is_called(workload: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", deployment_name(workload, PLACEMENT))
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", service_name(workload))
    assert re.fullmatch(LABEL_VALUE, label_value(workload))
    assert len(label_value(workload)) <= 63


@given(st.text("ab", min_size=1, max_size=3), st.text("ab", min_size=1, max_size=3), st.integers(0, 100))
def test_two_workloads_never_share_a_name_however_long_the_common_part(one: str, two: str, length: int) -> None:
    first, second = "x" * length + one, "x" * length + two
    if one == two:
        return
    assert deployment_name(first, PLACEMENT) != deployment_name(second, PLACEMENT)
    assert service_name(first) != service_name(second)
    assert label_value(first) != label_value(second)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "Qwen3-4B"),
        ("precision", "fp8"),
        ("reasoning", Reasoning.LOW),
        ("accelerator_class", "l4"),
        ("accelerators", 2),
        ("pool", "a"),
        ("engine", "VLLM"),
    ],
)
def test_every_part_of_the_placement_makes_a_deployment_of_its_own(field: str, value: object) -> None:
    other = dataclasses.replace(PLACEMENT, **{field: value})  # type: ignore[arg-type]
    assert deployment_name("assistant", other) != deployment_name("assistant", PLACEMENT)


def test_a_name_is_the_same_in_every_process() -> None:
    assert deployment_name("assistant", PLACEMENT) == "assistant-38472bd88c"


def test_dots_do_not_make_two_workloads_one() -> None:
    assert deployment_name("a.b", PLACEMENT) != deployment_name("a-b", PLACEMENT)
    assert service_name("a.b") != service_name("a-b")


@given(
    st.builds(
        Placement,
        st.text(max_size=40),
        st.text(max_size=10),
        st.sampled_from(Reasoning),
        st.text(max_size=20),
        st.integers(0, 64),
        st.text(max_size=20),
        st.text(max_size=10),
    )
)
def test_a_restarted_operator_reads_back_what_it_wrote(placement: Placement) -> None:
    assert Placement.from_annotation(placement.to_annotation()) == placement


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"model":"x"}',
        PLACEMENT.to_annotation().replace('"Off"', '"Sometimes"'),
        PLACEMENT.to_annotation().replace('"accelerators":1', '"accelerators":"1"'),
        PLACEMENT.to_annotation().replace('"accelerators":1', '"accelerators":true'),
        PLACEMENT.to_annotation().replace('"bf16"', "5"),
        PLACEMENT.to_annotation().replace("{", '{"more":1,'),
    ],
)
def test_an_edited_annotation_is_unknown_and_not_an_error(text: str) -> None:
    assert Placement.from_annotation(text) is None


def test_the_service_selects_the_workload_only_so_that_a_model_change_keeps_its_address() -> None:
    workload = InferenceWorkload.from_cluster(
        {
            "metadata": {"namespace": "support", "name": "assistant", "uid": "u"},
            "spec": {"task": "x", "load": {"requestsPerMinute": 1, "inputTokens": 1, "outputTokens": 1}},
        }
    )
    spec = service(workload)["spec"]
    assert spec["selector"] == {"lowbeam.dev/workload": "assistant"}
    assert (spec["ports"][0]["port"], spec["ports"][0]["targetPort"]) == (80, "http")
