"""`lowbeam catalog tasks`, and one task in full."""

from __future__ import annotations

import argparse

from lowbeam.catalog import Catalogue, benchmarks_of, largest_model
from lowbeam.catalog.facts import TaskFacts
from lowbeam.catalog.stars import BANDS, UNRATED, VERSION
from lowbeam.cli.catalog.filters import like
from lowbeam.cli.catalog.wire import Json, task_json
from lowbeam.cli.catalog.words import NONE, millions, score, table, wrapped


def data(catalogue: Catalogue, args: argparse.Namespace) -> list[Json]:
    """The tasks that pass the filter."""
    return [task_json(catalogue, task) for task in catalogue.tasks.values() if like(task.name, args.name)]


def text(catalogue: Catalogue, args: argparse.Namespace) -> str:
    """One line per task."""
    rows = []
    for task in catalogue.tasks.values():
        if not like(task.name, args.name):
            continue
        largest = largest_model(catalogue, task.name)
        rows.append(
            (
                task.name,
                task.benchmark,
                score(task.floor_centi),
                score(task.target_centi),
                _latency(task),
                NONE if largest is None else millions(largest.total_parameters_millions),
            )
        )
    if not rows:
        return "no task matches"
    legend = "LATENCY (p95): whole request, or first token + each further one."
    return f"{table(('TASK', 'BENCHMARK', 'FLOOR', 'TARGET', 'LATENCY', 'LARGEST'), rows)}\n\n{legend}"


def _latency(task: TaskFacts) -> str:
    if task.end_to_end_ms is not None:
        return f"{task.end_to_end_ms} ms"
    return f"{task.time_to_first_token_ms}+{task.inter_token_ms} ms"


def one(catalogue: Catalogue, task: TaskFacts) -> str:
    """Everything that is assumed about a task, and what its stars mean."""
    lines = [
        task.name,
        f"quality on {task.benchmark}: floor {score(task.floor_centi)}, target {score(task.target_centi)}",
    ]
    if task.target_from:
        lines.append(wrapped(f"target from: {task.target_from}"))
    scored = [f"{name} ({models})" for name, models in benchmarks_of(catalogue, task.name).items()]
    lines.append(wrapped(f"benchmarks, with the models that have a score: {', '.join(scored) or 'none'}"))
    lines += [
        f"{task.default_input_tokens} tokens in, {task.default_output_tokens} out; reasoning {task.default_reasoning}",
        f"p95 latency: {_latency_words(task)}",
    ]
    for reasoning in (False, True):
        bands = BANDS.get((task.name, reasoning))
        if bands is not None:
            edges = ", ".join(f"{'*' * (5 - place)} {edge / 1000:g}" for place, edge in enumerate(bands.edges))
            lines += [
                "",
                wrapped(f"stars {VERSION}, reasoning {'on' if reasoning else 'off'}: at most {edges} J per request"),
                wrapped(f"because {bands.because}", "  "),
            ]
    if task.name in UNRATED:
        lines += ["", wrapped(f"unrated: {UNRATED[task.name]}")]
    return "\n".join(lines)


def _latency_words(task: TaskFacts) -> str:
    if task.end_to_end_ms is not None:
        return f"{task.end_to_end_ms} ms"
    return f"{task.time_to_first_token_ms} ms to the first token, then {task.inter_token_ms} ms each"
