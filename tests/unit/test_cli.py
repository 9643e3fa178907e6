"""What a person sees who types `lowbeam`: results, explanations, and errors with exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lowbeam.cli import main

SAMPLES = str(Path(__file__).resolve().parents[2] / "workloads" / "samples")
INVENTORY = "h100=32,a100=32,l4=16,cpu=8"


def test_a_plan_of_the_samples_fits_eighty_columns_and_compares_with_the_largest_models(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "-f", SAMPLES, "--inventory", INVENTORY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("support/assistant" in line for line in lines)
    assert lines[-2].startswith("the largest model for each task would draw ")
    assert lines[-1].startswith("this plan draws ")


def test_a_lower_cap_dims_the_least_important_first(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "-f", SAMPLES, "--inventory", INVENTORY, "--cap", "9kW", "-o", "json"])
    workloads = {w["name"]: w for w in json.loads(capsys.readouterr().out)["workloads"]}
    assert workloads["summaries"]["bindingCap"] == "cap"
    assert workloads["assistant"]["bindingCap"] == ""


def test_a_cap_that_nothing_fits_under_is_exit_code_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", SAMPLES, "--inventory", INVENTORY, "--cap", "200W"]) == 1
    assert "unsatisfiable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan"], "nothing to plan"),
        (["plan", "-f", SAMPLES], "no accelerators"),
        (["plan", "-f", SAMPLES, "--inventory", "h100=many"], "h100=many"),
        (["plan", "-f", SAMPLES, "--inventory", "h100=8", "--cap", "9"], "9kW"),
        (["plan", "-f", "no-such-file.yaml", "--inventory", "h100=8"], "no-such-file.yaml"),
        (["explain", "pod/x", "-f", SAMPLES, "--inventory", "h100=8"], "pod/x"),
        (["explain", "iw/nobody", "-f", SAMPLES, "--inventory", "h100=8"], "nobody"),
        (["catalog", "show", "no-such-model"], "no-such-model"),
    ],
)
def test_bad_input_is_named_and_is_exit_code_two(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        """
apiVersion: lowbeam.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: assistant, namespace: support}
spec:
  task: text-generation
  load: {requestsPerMinute: 60, inputTokens: 100, outputTokens: 100}
  quality: {benchmark: mmlu-pro, floor: "56,7"}
---
apiVersion: lowbeam.dev/v1alpha1
kind: PowerCap
metadata: {name: cluster}
spec: {scope: {cluster: {}}, watts: -1}
"""
    )
    assert main(["plan", "-f", str(bad), "--inventory", "h100=8"]) == 2
    said = capsys.readouterr().err
    assert '"56,7" is not a decimal number (use "56.7")' in said
    assert "watts" in said
    assert "2 problems, nothing planned" in said


def test_explain_names_what_was_chosen_and_what_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "iw/assistant", "-f", SAMPLES, "--inventory", INVENTORY]) == 0
    text = capsys.readouterr().out
    assert "chosen" in text
    assert "lost" in text


def test_the_crds_are_printed_as_one_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds"]) == 0
    assert capsys.readouterr().out.count("kind: CustomResourceDefinition\n") == 5


def test_a_scenario_is_simulated_and_judged(capsys: pytest.CaptureFixture[str]) -> None:
    scenario = Path(__file__).resolve().parents[1] / "scenarios" / "cap-cut-at-full-load.yaml"
    assert main(["simulate", str(scenario)]) == 0
    assert "first action after a cap was lowered" in capsys.readouterr().out


def test_planning_offline_needs_no_client_for_kubernetes() -> None:
    code = "import sys, lowbeam.cli.plan; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["kubernetes", "kopf", "aiohttp", "structlog", "prometheus_client", "torch"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
