"""What `lowbeam-worker calibrate` is told: parsed once, frozen, checked before torch is imported."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowbeam_worker.calibration.figures import LEAST_REPEATS, MOST_REPEATS
from lowbeam_worker.options import Precision, Task

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WINDOWS = 5
WINDOW_SECONDS = 10.0
"""Of the hundred refreshes of NVML's counter in it, one more or less is a percent."""
TOLERANCE_PERCENT = 5.0
_MOST_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class Rules:
    """How long is measured, and how sure a figure must be."""

    windows: int = WINDOWS
    window_seconds: float = WINDOW_SECONDS
    tolerance: float = TOLERANCE_PERCENT / 100
    """Widest half of a confidence interval, as a share of its mean."""


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """One model on one class of device, at several precisions and batches."""

    task: Task
    model: str
    """Name in the catalogue."""
    model_path: str
    accelerator_class: str
    boards: tuple[str, ...]
    """Product labels of the class; empty for a class without boards, whose replicas run on the CPU."""
    precisions: tuple[Precision, ...]
    batches: tuple[int, ...]
    input_tokens: int
    output_tokens: int
    rules: Rules
    revision: str = ""
    """Of the weights, as the user states it; empty: read from where they lie."""
    allow_downloads: bool = False
    allow_pickle: bool = False


def parse(arguments: Sequence[str]) -> CalibrationOptions:
    """Options from flags; exits with code 2 and a message on bad input."""
    parser = argparse.ArgumentParser(
        prog="lowbeam-worker calibrate", description="Measure a model on the device at hand; `lowbeam calibrate` asks."
    )
    tasks = [str(task) for task in Task if task is not Task.SUMMARIZATION]
    parser.add_argument("--task", required=True, choices=tasks, help="Hugging Face pipeline tag")
    parser.add_argument("--model", required=True, help="its name in the catalogue")
    parser.add_argument("--model-path", default="", help="as of the worker; default: the name")
    parser.add_argument("--class", dest="accelerator_class", required=True, help="accelerator class of this device")
    parser.add_argument("--boards", default="", help="product labels of that class; none: it runs on the CPU")
    parser.add_argument("--precisions", required=True, type=_list_of(_precision), help="for example bf16,int8")
    parser.add_argument("--batches", default=BATCHES, type=_list_of(_whole(1, _MOST_TOKENS)), help="ascending")
    parser.add_argument("--input-tokens", required=True, type=_whole(1, _MOST_TOKENS), help="length of every prompt")
    parser.add_argument("--output-tokens", default=1, type=_whole(1, _MOST_TOKENS), help="length of every answer")
    parser.add_argument(
        "--windows", default=WINDOWS, type=_whole(LEAST_REPEATS, MOST_REPEATS), help=f"repeats per batch ({WINDOWS})"
    )
    parser.add_argument("--window-seconds", default=WINDOW_SECONDS, type=_between(0.2, 3600), help="least length")
    parser.add_argument("--tolerance-percent", default=TOLERANCE_PERCENT, type=_between(0.1, 100), help="widest +-")
    parser.add_argument("--revision", default="", help="of the weights, where their folder does not tell")
    parser.add_argument("--allow-downloads", action="store_true", help="let transformers fetch the model from its hub")
    parser.add_argument("--allow-pickle", action="store_true", help="read weights in PyTorch's older format")
    given = parser.parse_args(arguments)
    task = Task(given.task)
    if task.generative != (given.output_tokens > 1):
        parser.error(
            f"--output-tokens {given.output_tokens}: {task} "
            + ("writes text; give the typical length of an answer" if task.generative else "writes no text; leave it 1")
        )
    if list(given.batches) != sorted(set(given.batches)):
        parser.error(f"--batches: {','.join(map(str, given.batches))}: list each batch once, in ascending order")
    return CalibrationOptions(
        task=task,
        model=given.model,
        model_path=given.model_path or given.model,
        accelerator_class=given.accelerator_class,
        boards=tuple(filter(None, given.boards.split(","))),
        precisions=tuple(dict.fromkeys(given.precisions)),
        batches=given.batches,
        input_tokens=given.input_tokens,
        output_tokens=given.output_tokens,
        rules=Rules(given.windows, given.window_seconds, given.tolerance_percent / 100),
        revision=given.revision,
        allow_downloads=given.allow_downloads,
        allow_pickle=given.allow_pickle,
    )


def _list_of(one: Callable[[str], object]) -> Callable[[str], tuple[object, ...]]:
    def parse_list(text: str) -> tuple[object, ...]:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not parts:
            raise argparse.ArgumentTypeError("names nothing; separate several by commas")
        return tuple(one(part) for part in parts)

    return parse_list


def _precision(text: str) -> Precision:
    try:
        return Precision(text.lower())
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"this worker cannot load {text}; it loads {', '.join(Precision)}. Leave it out, or measure it with the "
            "engine that serves it and write its EnergyProfile by hand"
        ) from None


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse_whole(text: str) -> int:
        if not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return parse_whole


def _between(least: float, most: float) -> Callable[[str], float]:
    def parse_number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
        return value

    return parse_number
