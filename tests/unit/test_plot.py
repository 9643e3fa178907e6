"""`lowbeam plot`: what a picture shows, that it is the same every time, and what is said when it cannot be drawn."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the pictures need the extra `plot`")

import numpy as np
from matplotlib import get_data_path
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.image import imread

from lowbeam.catalog import load_builtin
from lowbeam.catalog.knee import knee_of
from lowbeam.cli import main
from lowbeam.cli.plot import add_arguments, profile, task
from lowbeam.cli.plot.drawing import overlapping

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/catalogue-pictures.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for line in re.findall(r"^\$ lowbeam (.+)$", PAGE, flags=re.MULTILINE)]
SAME = 0.004
"""Mean difference of two pictures that differ in the hinting of a font only, of 1."""


def drawn(*arguments: str) -> Figure:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(arguments)
    figure: Figure = (profile if args.what == "profile" else task).draw(load_builtin(), args)
    return figure


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in (*figure.texts, *figure.axes[0].texts)]


def test_the_pictures_of_the_docs_are_what_their_commands_draw(tmp_path: Path) -> None:
    assert len(COMMANDS) >= 4
    for command in COMMANDS:
        committed, fresh = ROOT / command[-1], tmp_path / "fresh.png"
        assert main([*command[:-1], str(fresh)]) == 0
        one, other = imread(committed), imread(fresh)
        assert one.shape == other.shape, f"{committed.name} is out of date: run the commands of catalogue-pictures.md"
        assert float(np.abs(one - other).mean()) < SAME, f"{committed.name} is out of date: run its command again"
        assert f"(pictures/{committed.name})" in PAGE


def test_the_same_catalogue_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    here, there = tmp_path / "here.svg", tmp_path / "there.svg"
    arguments = ("plot", "task", "text-generation", "-o")
    assert main([*arguments, str(here)]) == 0
    script = "import sys; from lowbeam.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, *arguments, str(there)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    assert here.read_bytes() == there.read_bytes()
    assert b"dc:date" not in here.read_bytes()


def test_letters_are_those_of_the_font_that_matplotlib_ships() -> None:
    figure = drawn("task", "text-generation")
    used = {findfont(text.get_fontproperties()) for text in (*figure.texts, *figure.axes[0].texts)}
    used |= {findfont(text.get_fontproperties()) for text in figure.axes[0].get_xticklabels()}
    assert {Path(font).name for font in used} == {"DejaVuSans.ttf", "DejaVuSans-Bold.ttf"}
    assert {Path(font).parent for font in used} == {Path(get_data_path(), "fonts/ttf")}


def test_a_task_picture_names_floor_target_choice_and_sources() -> None:
    facts = load_builtin().tasks["text-generation"]
    knee = knee_of(facts, load_builtin())
    assert knee is not None
    found = texts(drawn("task", "text-generation"))
    assert f"floor {facts.floor_centi / 100:g}" in found
    assert f"target {knee.at.score_centi / 100:g} (knee)" in found
    assert any(text.startswith(f"chosen: {knee.at.model}") for text in found)
    assert any("ML.ENERGY" in text for text in found)
    assert {point.model for point in knee.points} <= {text.split(" ")[0] for text in found if text}


def test_a_higher_floor_chooses_a_better_model_and_draws_no_target() -> None:
    def chosen(*floor: str) -> str:
        return next(text for text in texts(drawn("task", "text-generation", *floor)) if text.startswith("chosen"))

    assert chosen("--floor", "46") != chosen("--floor", "70")
    assert not any("target" in text for text in texts(drawn("task", "text-generation", "--floor", "46")))


def test_a_profile_picture_has_a_curve_and_a_label_per_accelerator() -> None:
    figure = drawn("profile", "qwen3-8b", "--class", "h100,l4")
    labels = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert any(label == "h100, published" for label in labels)
    assert any(re.fullmatch(r"l4, modelled ±\d+ %", label) for label in labels)
    assert figure.axes[0].get_ylabel() == "joules per output token"
    bands = figure.axes[0].collections
    assert len(bands) == 1, "only the modelled curve has a band"


def test_a_task_without_tokens_is_drawn_per_request() -> None:
    assert drawn("profile", "roberta-base-sst2").axes[0].get_ylabel() == "joules per request"


def test_a_profile_may_be_named_too() -> None:
    titles = [drawn("profile", name).texts[0].get_text() for name in ("qwen3-8b-bf16-high-h100-x1", "qwen3-8b")]
    assert titles[0] == "qwen3-8b bf16, reasoning High: joules per output token over the batch"
    assert titles[1] == "qwen3-8b bf16: joules per output token over the batch"


def test_names_may_be_written_in_capitals(tmp_path: Path) -> None:
    asked = ["plot", "profile", "Qwen3-8B", "--task", "Text-Generation", "--precision", "BF16", "--class", "H100"]
    assert main([*asked, "-o", str(tmp_path / "a.svg")]) == 0
    assert main([it.lower() for it in asked] + ["-o", str(tmp_path / "b.svg")]) == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_figures_of_another_series_are_never_drawn_beside_those_that_are_planned_with() -> None:
    catalogue = load_builtin()
    both = {p.model for p in catalogue.profiles} & {p.model for p in catalogue.reference_profiles}
    name = sorted(both)[0]
    reference = next(profile for profile in catalogue.reference_profiles if profile.model == name)
    planned, other = drawn("profile", name), drawn("profile", reference.name)
    assert len(other.axes[0].lines) > 0
    assert texts(planned) != texts(other)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[2])
def test_no_two_labels_of_the_docs_pictures_overlap(command: list[str]) -> None:
    figure = drawn(*command[1:-2])
    assert overlapping(figure, figure.axes[0]) == []


@pytest.mark.parametrize("name", sorted(load_builtin().tasks))
def test_every_task_is_drawn_or_says_why_not(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    code = main(["plot", "task", name, "-o", str(tmp_path / "t.svg")])
    if knee_of(load_builtin().tasks[name], load_builtin()) is None:
        assert code == 2
        assert "fewer than three models have both" in capsys.readouterr().err
    else:
        assert code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("task", "text-generatoin"), "text-generatoin is not in the catalogue; did you mean text-generation"),
        (("task", "text-generation", "--class", "h1000"), "--class: h1000 is not in the catalogue; did you mean h100"),
        (("task", "text-generation", "--class", "cpu"), "fewer than three models on cpu have both"),
        (("task", "text-generation", "--floor", "high"), '--floor: "high" is not a score'),
        (("task", "text-generation", "--floor", "99"), "--floor: no model on h100 reaches 99 on mmlu-pro; the best, "),
        (("profile", "qwen3-8"), "qwen3-8 is not in the catalogue; did you mean qwen3-8b"),
        (("profile", "qwen3-8b", "--class", "h100,zzz"), "--class: zzz is not in the catalogue"),
        (("profile", "qwen3-8b", "--precision", "int3"), "qwen3-8b has no energy profile int3 (there are: text-"),
        (("profile", "qwen3-8b", "-o", "picture.gif"), '--output: "picture.gif" ends in neither .png nor .svg'),
        (("profile", "qwen3-8b", "-o", "no/such/folder/p.png"), "there is no folder no/such/folder"),
    ],
)
def test_what_cannot_be_drawn_is_bad_input_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "picture.png"
    folder.mkdir()
    assert main(["plot", "profile", "qwen3-8b", "-o", str(folder)]) == 2
    assert capsys.readouterr().err == f"--output: {folder}: Is a directory; name a file that can be written\n"


def test_without_matplotlib_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("lowbeam.cli.plot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", "task", "text-generation"]) == 1
    assert "`lowbeam plot` needs the plot parts: pip install '.[plot]' in a clone" in capsys.readouterr().err
