"""`lowbeam catalog`: what a user reads."""

from __future__ import annotations

import json

import pytest

from lowbeam.catalog import load_builtin
from lowbeam.cli import main


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["catalog", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("models",),
        ("profiles",),
        ("accelerators",),
        ("tasks",),
        ("verify",),
        *(("show", name) for name in load_builtin().models),
        ("show", "h100"),
        ("show", "text-generation"),
        ("show", "qwen3-8b-bf16-h100-x1"),
    ],
)
def test_every_view_fits_eighty_columns(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    lines = output(capsys, *arguments).splitlines()
    assert lines
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("view", ["models", "profiles", "accelerators", "tasks", "verify"])
def test_every_list_is_also_json(capsys: pytest.CaptureFixture[str], view: str) -> None:
    rows = json.loads(output(capsys, view, "-o", "json"))
    assert rows
    assert all(isinstance(row, dict) for row in rows)


def test_json_has_the_fields_of_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = json.loads(output(capsys, "profiles", "--model", "qwen3-8b", "--class", "l4", "-o", "json"))
    assert row["points"][0]["milliwatts"] > 0
    assert row["basis"] == "Modelled"


def test_a_model_is_found_by_its_hugging_face_id(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "show", "Qwen/Qwen3-8B")
    assert text.startswith("qwen3-8b\nloads Qwen/Qwen3-8B\n")
    assert "mmlu-pro 64.3" in text
    assert "h100 x1" in text


def test_a_modelled_figure_shows_its_uncertainty_and_no_star(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "models", "--task", "feature-extraction")
    line = next(line for line in text.splitlines() if line.startswith("all-minilm-l6-v2 bf16"))
    assert "+-" in line
    assert "*" not in line
    assert "text-generation" not in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "qwen-8b"), "qwen-8b is not in the catalogue; did you mean qwen3-8b"),
        (("models", "--task", "chat"), "--task: chat is not a task; known: code-completion"),
        (("profiles", "--class", "h200"), "--class: h200 is not in the catalogue; known: a100"),
        (("profiles", "--model", "gpt-9"), "--model: gpt-9 is not in the catalogue"),
    ],
)
def test_a_wrong_name_is_bad_input_and_says_what_exists(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert main(["catalog", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_verify_ends_with_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "verify").splitlines()[-1].startswith("0 errors, ")
