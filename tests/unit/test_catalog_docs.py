"""docs/catalogue.md: its commands run, and its objects are accepted as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from lowbeam.api.v1alpha1.loading import read_documents
from lowbeam.api.v1alpha1.modelcard import ReasoningControl
from lowbeam.catalog import load_builtin, overlay
from lowbeam.cli import main

TEXT = (Path(__file__).parents[2] / "docs/catalogue.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ lowbeam (.+?)(?:\s+#.*)?$", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_guide_run(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out


def test_the_objects_of_the_guide_are_accepted() -> None:
    block = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)[0]
    results = list(read_documents(block))
    assert [problem for result in results for problem in result.problems] == []
    by_kind = {result.object.kind: [result.object.to_wire()] for result in results if result.object is not None}
    catalogue, problems = overlay(
        load_builtin(), by_kind["ModelCard"], by_kind["AcceleratorClass"], by_kind["EnergyProfile"]
    )
    assert problems == ()
    assert catalogue.profiles_of("ticket-classifier", "text-classification")
    assert len(COMMANDS) >= 5


def test_the_reasoning_control_of_the_guide_is_accepted() -> None:
    block = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)[1]
    control = ReasoningControl.model_validate(yaml.safe_load(block)["reasoningControl"])
    assert control.parameter == "enable_thinking"


def test_the_message_of_the_guide_is_what_a_misspelt_benchmark_is_told() -> None:
    spoiled = TEXT.replace("benchmark: our-tickets ", "benchmark: our-tikets ")
    block = re.findall(r"```yaml\n(.*?)```", spoiled, flags=re.DOTALL)[0]
    card = next(it.object for it in read_documents(block) if it.object is not None and it.object.kind == "ModelCard")
    _, problems = overlay(load_builtin(), [card.to_wire()])
    assert " ".join(str(problems[0]).split()) in " ".join(TEXT.split())
