"""Reading objects and files: every problem names object and field and says what to write instead."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from lowbeam.api.v1alpha1.loading import read_documents, read_object, read_user_object

GOOD = """
apiVersion: lowbeam.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: triage, namespace: support}
spec:
  task: text-classification
  load: {requestsPerMinute: 1200, inputTokens: 300, outputTokens: 1}
"""


def problems(text: str) -> list[str]:
    return [str(problem) for result in read_documents(textwrap.dedent(text)) for problem in result.problems]


def workload_problems(more: str) -> list[str]:
    """The problems of a good workload with these lines of spec added."""
    return [line.removeprefix("support/triage: ") for line in problems(GOOD + textwrap.indent(more, "  "))]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            'quality: {benchmark: sst2, floor: "56,7"}',
            'spec.quality.floor: "56,7" is not a decimal number (use "56.7")',
        ),
        (
            'quality: {benchmark: sst2, floor: "90.12345678"}',
            'spec.quality.floor: "90.12345678" has too many digits (at most 9 before the point and 6 after it)',
        ),
        (
            'quality: {benchmark: sst2, floor: "90 %"}',
            'spec.quality.floor: "90 %" is not a decimal number (use "90")',
        ),
        (
            'quality: {benchmark: sst2, floor: "high"}',
            'spec.quality.floor: "high" is not a decimal number (use "56.7")',
        ),
        ("quality: {benchmark: sst2, floor: 90.5}", 'spec.quality.floor: 90.5 must be in quotes (use "90.5")'),
        ("reasoning: Off", 'spec.reasoning: YAML reads Off without quotes as false (write "Off")'),
        (
            "reasoning: low",
            'spec.reasoning: "low" is not one of Off, Low, Medium, High (did you mean "Low"?)',
        ),
        ("priority: 5000", "spec.priority: 5000 is above the maximum of 1000"),
        ("priority: -1", "spec.priority: -1 is below the minimum of 0"),
        ('priority: "5"', 'spec.priority: "5" is not a whole number without quotes'),
        ("replica: 3", "spec.replica: is not a field here (did you mean replicas?)"),
        ("latency: {p95: 3}", "spec.latency.p95: is not a field here (known: endToEndMilliseconds, "),
        ("latency: fast", 'spec.latency: "fast" is not an object with fields'),
        ("model: {names: qwen}", 'spec.model.names: "qwen" is not a list (start each entry with a dash)'),
        ("model: {names: [a, b, a]}", 'spec.model.names[2]: "a" is given twice'),
        (
            "optIn: [{feature: HighReasoning, reason: exams, until: 2027-02-30}]",
            'spec.optIn[0].until: "2027-02-30" is not a date (write year, month and day: "2027-03-31")',
        ),
        ("optIn: [{feature: HighReasoning, reason: exams}]", "spec.optIn[0].until: is required"),
        (
            "pod: {resources: {requests: {cpu: 0.5}}}",
            'spec.pod.resources.requests.cpu: 0.5 must be in quotes (use "0.5")',
        ),
        (
            "pod: {resources: {requests: {memory: 8GB}}}",
            'spec.pod.resources.requests.memory: "8GB" is not an amount of CPU or memory (use e.g. "500m", 2 or "8Gi")',
        ),
        ("pod: {modelPath: models}", 'spec.pod.modelPath: "models" must be an absolute path (start with /)'),
        ("pod: {labels: {a: yes}}", "spec.pod.labels.a: true is not text (YAML reads yes, no, on and off as"),
    ],
)
def test_a_wrong_value_is_quoted_and_the_right_form_is_shown(spec: str, message: str) -> None:
    (problem,) = workload_problems(spec)
    assert problem.startswith(message)


def test_a_task_in_the_wrong_form_is_corrected() -> None:
    text = GOOD.replace("text-classification", "Text Classification")
    assert problems(text) == [
        'support/triage: spec.task: "Text Classification" is not a task in the form of Hugging Face '
        '(use "text-classification")'
    ]


def test_all_problems_of_all_documents_are_reported_at_once() -> None:
    bad = GOOD.replace("1200", "many").replace("300", "0").replace("triage", "first")
    found = problems(f"{bad}---{GOOD}---{GOOD.replace('kind: Inf', 'kind: inf')}")
    assert [line.split(": ")[0] for line in found] == ["support/first", "support/first", "support/triage"]


def test_dates_without_quotes_stay_dates_as_with_kubectl() -> None:
    assert workload_problems("optIn: [{feature: HighReasoning, reason: exams, until: 2027-03-31}]") == []


def test_nulls_count_as_left_out_as_the_api_server_has_it() -> None:
    assert workload_problems("quality: null\npriority: ~\nmodel: {names: null}") == []


def test_a_key_given_twice_is_an_error_and_not_a_silent_choice() -> None:
    assert problems("a: 1\na: 2\n") == ['line 2, column 1: is not valid YAML: "a" is given twice']


@pytest.mark.parametrize("text", ["a: [", "a:\n\t- b", "a: b: c", "{? [a] : b}", "- &a [*a]"])
def test_broken_yaml_gives_one_problem_and_no_traceback(text: str) -> None:
    assert len(problems(text)) == 1


@pytest.mark.parametrize("text", ["", "---\n---\n", "# nothing\n"])
def test_an_empty_file_has_no_objects_and_no_problems(text: str) -> None:
    assert [result for result in read_documents(text) if result.object or result.problems] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("kind: InferenceWorkload", "kind: InferenceWorklod"),
            'support/triage: kind: "InferenceWorklod" is not a kind of lowbeam.dev/v1alpha1 '
            "(did you mean InferenceWorkload?)",
        ),
        (
            ("lowbeam.dev/v1alpha1", "lowbeam.dev/v1"),
            'support/triage: apiVersion: "lowbeam.dev/v1" is not served; use "lowbeam.dev/v1alpha1"',
        ),
        (("name: triage, ", ""), "document 1: metadata.name: is required"),
        (("metadata: {name: triage, namespace: support}", "metadata: 5"), "document 1: metadata.name: is required"),
        (("requestsPerMinute: 1200", "requestsPerMinute: .nan"), "support/triage: cannot be written as JSON"),
    ],
)
def test_a_document_that_is_not_quite_ours_says_what_it_should_be(change: tuple[str, str], message: str) -> None:
    (problem,) = problems(GOOD.replace(*change))
    assert problem.startswith(message)


def test_objects_of_others_in_the_same_file_are_left_alone() -> None:
    results = list(read_documents(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: support}}\n---{GOOD}"))
    assert [result.problems for result in results] == [(), ()]
    assert results[0].object is None
    assert results[1].object is not None


def test_what_kubectl_get_prints_as_a_list_can_be_read_back() -> None:
    items = textwrap.indent(GOOD.strip(), "  ").replace("  apiVersion", "- apiVersion", 1)
    (result,) = read_documents(f"apiVersion: v1\nkind: List\nitems:\n{items}\n")
    assert result.object is not None
    assert result.object.key == "support/triage"


def test_an_invalid_object_in_the_cluster_is_a_problem_and_not_an_exception() -> None:
    raw: dict[str, Any] = {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "PowerCap",
        "metadata": {"name": "cluster", "uid": "u"},
        "spec": {"scope": {}, "watts": "many"},
    }
    assert [str(problem) for problem in read_object(raw).problems] == [
        "cluster: spec.scope: set exactly one of cluster, nodePool and namespaces (the whole cluster is `cluster: {}`)",
        'cluster: spec.watts: "many" is not a whole number without quotes',
    ]


def test_an_object_without_a_spec_says_so() -> None:
    raw = {"apiVersion": "lowbeam.dev/v1alpha1", "kind": "PowerCap", "metadata": {"name": "cluster"}}
    assert [str(problem) for problem in read_user_object(raw).problems] == ["cluster: spec: is required"]


def test_a_long_value_is_quoted_in_part() -> None:
    (problem,) = workload_problems(f'quality: {{benchmark: sst2, floor: "{"9," * 500}"}}')
    assert len(problem) < 250


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "name: Triage_x",
            'Triage_x: metadata.name: "Triage_x" is no name in Kubernetes (lower-case letters, digits, da',
        ),
        ("name: a/b", '"a/b" is no name'),
        ("name: \u00fcber", '"\u00fcber" is no name'),
        (f"name: {'a' * 254}", "at most 253"),
        ("name: a, namespace: a.b", 'a.b/a: metadata.namespace: "a.b" is no name in Kubernetes (lower-case letters, '),
    ],
)
def test_a_name_that_the_api_server_refuses_is_refused_here(name: str, said: str) -> None:
    (problem,) = problems(GOOD.replace("name: triage, namespace: support", name))
    assert said in problem


def test_names_that_the_api_server_takes_are_taken() -> None:
    for name in ("a", "a.b-c.9", "9" * 253, "a, namespace: b-9"):
        assert problems(GOOD.replace("triage, namespace: support", f'"{name}"' if name.isdigit() else name)) == []
