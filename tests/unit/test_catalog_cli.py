"""`lowbeam catalog`: what a user reads."""

from __future__ import annotations

import json
from pathlib import Path

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
        *(("show", name) for name in load_builtin().accelerator_classes),
        *(("show", name) for name in load_builtin().tasks),
        ("show", "qwen3-8b-bf16-h100-x1"),
    ],
)
def test_every_view_fits_eighty_columns(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    lines = output(capsys, *arguments).splitlines()
    assert lines
    assert [line for line in lines if len(line) > 80] == []


def test_a_model_is_found_by_its_hugging_face_id(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "show", "Qwen/Qwen3-8B")
    assert text.startswith("qwen3-8b\nloads Qwen/Qwen3-8B\n")
    assert "mmlu-pro 64.3" in text
    assert "h100 x1" in text


def test_a_modelled_figure_shows_its_uncertainty_and_no_star(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "models", "--task", "feature-extraction", "--basis", "modelled")
    line = next(line for line in text.splitlines() if line.startswith("all-minilm-l6-v2 "))
    assert "+-" in line
    assert "*" not in line
    assert "text-generation" not in text


def test_a_modelled_profile_says_why_it_is_unrated(capsys: pytest.CaptureFixture[str]) -> None:
    name = next(profile.name for profile in load_builtin().profiles if profile.basis == "Modelled")
    assert "Unrated: modelled figures earn no stars." in output(capsys, "show", name)


def test_figures_of_another_series_are_shown_apart_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    reference = load_builtin().reference_profiles[0]
    listed = output(capsys, "profiles", "--model", reference.model)
    assert "shown for reference, never planned with" in listed
    assert "never planned with" in output(capsys, "show", reference.name)
    found = {row["name"]: row["planned"] for row in rows(capsys, "profiles", "--model", reference.model)}
    assert found[reference.name] is False


def test_a_task_says_what_its_stars_mean_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "show", "text-generation")
    assert "at most ***** 40, **** 100, *** 250, ** 625 J" in text
    assert "because the best published 8 B models" in text


def test_a_task_lists_every_benchmark_that_a_floor_can_name_with_the_models_scored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = " ".join(output(capsys, "show", "summarization").split())
    assert "benchmarks, with the models that have a score: cnn-dailymail-rouge2 (4), xsum-rouge2 (4)" in text


# --- filters ---------------------------------------------------------------------------------------------------------


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    found = json.loads(output(capsys, *arguments, "-o", "json"))
    assert isinstance(found, list)
    return found


def test_profiles_are_filtered_by_everything_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    filters = ("--task", "text-generation", "--class", "H100", "--basis", "published", "--precision", "bf16")
    found = rows(capsys, "profiles", *filters)
    assert found
    for row in found:
        assert (row["task"], row["acceleratorClass"]) == ("text-generation", "h100")
        assert (row["basis"], row["precision"]) == ("Published", "bf16")
    assert len(found) < len(rows(capsys, "profiles"))


def test_models_are_filtered_by_licence_and_part_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "models", "--licence", "apache-2.0", "--name", "qwen3-8")
    assert [row["name"] for row in found] == ["qwen3-8b"]
    assert rows(capsys, "models", "--name", "meta-llama/*70B*")
    assert rows(capsys, "models", "--name", "qwen") != rows(capsys, "models", "--name", "*qwen")


def test_a_model_without_a_profile_on_the_class_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    on_l4 = {row["name"] for row in rows(capsys, "models", "--class", "l4")}
    assert "qwen3-8b" in on_l4
    assert "llama-3.1-405b-instruct" not in on_l4


def test_the_best_joules_of_a_filtered_list_are_those_of_the_filter(capsys: pytest.CaptureFixture[str]) -> None:
    def joules(*filters: str) -> str:
        text = output(capsys, "models", "--task", "text-generation", "--name", "qwen3-8b", *filters)
        return next(line.split()[4] for line in text.splitlines() if line.startswith("qwen3-8b bf16 "))

    assert joules("--class", "h100") == "47"
    assert joules("--class", "b200") == "41"


def test_accelerators_are_filtered_by_precision(capsys: pytest.CaptureFixture[str]) -> None:
    names = {row["name"] for row in rows(capsys, "accelerators", "--precision", "fp8")}
    assert "h100" in names
    assert "a100" not in names


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("models", "--name", "no-such-thing"), "no model matches"),
        (("profiles", "--name", "no-such-thing"), "no profile matches"),
        (("accelerators", "--name", "no-such-thing"), "no accelerator class matches"),
        (("tasks", "--name", "no-such-thing"), "no task matches"),
    ],
)
def test_an_empty_answer_says_so(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str) -> None:
    assert output(capsys, *arguments) == f"{says}\n"
    assert rows(capsys, *arguments) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "qwen-8b"), "qwen-8b is not in the catalogue; did you mean qwen3-8b"),
        (("show", "zzz"), "zzz is not in the catalogue; `lowbeam catalog models`, `profiles`, `accelerators` and "),
        (
            ("models", "--task", "text-clasification"),
            "--task: text-clasification is not in the catalogue; did you",
        ),
        (("models", "--licence", "apache"), "--licence: apache is not in the catalogue; did you mean apache-2.0"),
        (("models", "--precision", "int9"), "--precision: int9 is not in the catalogue; "),
        (("profiles", "--class", "h1000"), "--class: h1000 is not in the catalogue; did you mean h100"),
        (("profiles", "--class", "zzz"), "--class: zzz is not in the catalogue; known: a100"),
        (
            ("profiles", "--model", "gpt-os-20b"),
            "gpt-os-20b is not in the catalogue; did you mean gpt-oss-20b",
        ),
        (("accelerators", "--precision", "fp9"), "--precision: fp9 is not in the catalogue; "),
    ],
)
def test_a_wrong_name_is_bad_input_and_says_what_exists(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert main(["catalog", *arguments]) == 2
    assert says in capsys.readouterr().err


# --- verify ----------------------------------------------------------------------------------------------------------


def test_verify_ends_with_a_count_and_calls_nothing_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "verify")
    assert text.splitlines()[-1].startswith("0 wrong, ")
    assert "WRONG" not in text


PROFILE = """
apiVersion: lowbeam.dev/v1alpha1
kind: EnergyProfile
metadata: {name: ours}
spec:
  model: distilbert-sst2
  precision: bf16
  task: text-classification
  acceleratorClass: l4
  accelerators: 1
  engine: native
  inputTokens: 128
  points:
    - {batch: 1, watts: "40", requestsPerSecond: "150", latencyP50Milliseconds: 6, latencyP95Milliseconds: 9}
    - {batch: 16, watts: "WATTS", requestsPerSecond: "RATE", latencyP50Milliseconds: 12, latencyP95Milliseconds: 15}
  basis: Measured
  source: {citation: "load test", date: "2026-11-21"}
"""


def verified(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, watts: str, rate: str, *more: str
) -> tuple[int, str, str]:
    file = tmp_path / "ours.yaml"
    file.write_text(PROFILE.replace("WATTS", watts).replace("RATE", rate))
    code = main(["catalog", "verify", "-f", str(file), *more])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_sound_object_adds_no_finding(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert verified(capsys, tmp_path, "60", "1300") == (0, "0 wrong, 0 suspicious\n", "")


def test_an_object_that_the_operator_would_refuse_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, text, _ = verified(capsys, tmp_path, "6000", "100")
    assert code == 1
    assert "EnergyProfile/ours: spec.points[1].watts: 6000 W is more than" in " ".join(text.split())
    assert "spec.points[1].requestsPerSecond: batch 16 serves no more than batch 1" in " ".join(text.split())
    assert text.endswith("2 wrong, 0 suspicious\n")


def test_a_figure_that_physics_contradicts_is_suspicious_and_not_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text, _ = verified(capsys, tmp_path, "20", "1300")
    assert code == 0
    assert "SUSPICIOUS" in text
    assert "EnergyProfile/ours" in text
    assert "qwen" not in text, "only what the file adds"


def test_a_file_that_breaks_the_schema_is_wrong_with_its_field(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text, _ = verified(capsys, tmp_path, "NaN", "1300", "-o", "json")
    found = json.loads(text)
    assert code == 1
    assert found["wrong"] == len(found["findings"]) == 1
    assert (found["findings"][0]["field"], found["findings"][0]["check"]) == ("spec.points[1].watts", "InvalidField")
    assert found["findings"][0]["subject"].endswith("ours.yaml: ours")


def test_a_file_without_catalogue_objects_is_bad_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "cap.yaml"
    file.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n")
    assert main(["catalog", "verify", "-f", str(file)]) == 2
    assert "nothing to verify" in capsys.readouterr().err
    assert main(["catalog", "verify", "-f", str(tmp_path / "gone.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err
