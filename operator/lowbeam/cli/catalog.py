"""`lowbeam catalog`: models, profiles, accelerators and tasks that Lowbeam knows, and whether the figures are sound.

Decides how the built-in catalogue is shown: text of at most 80 columns, or JSON (`-o json`), whose fields are the ones
of `lowbeam.catalog.facts`. Never talks to a cluster.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

import orjson

from lowbeam.catalog import Catalogue, largest_model, load_builtin, stars, verify
from lowbeam.catalog.comparison import least_millijoules, millijoules_per_request
from lowbeam.catalog.facts import Basis, EnergyProfile, Model, Reasoning, Variant
from lowbeam.catalog.stars import VERSION as STARS_VERSION
from lowbeam.catalog.verify import Finding, Severity
from lowbeam.errors import BadInput

Row = Sequence[str]

WIDTH = 80
THOUSAND = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`models`, `profiles`, `accelerators`, `tasks`, `show NAME`, `verify`."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print (table)")
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    models = what.add_parser("models", parents=[shared], help="models by task, with quality and energy")
    models.add_argument("--task", help="only models of this task")
    profiles = what.add_parser("profiles", parents=[shared], help="energy profiles by accelerator")
    profiles.add_argument("--model", help="only profiles of this model")
    profiles.add_argument("--class", dest="accelerator_class", help="only profiles of this accelerator class")
    what.add_parser("accelerators", parents=[shared], help="accelerator classes and their limits")
    what.add_parser("tasks", parents=[shared], help="what is assumed about each task")
    show = what.add_parser("show", parents=[shared], help="everything about one model, profile, class or task")
    show.add_argument("name", help="its name; a model also by its Hugging Face id")
    what.add_parser("verify", parents=[shared], help="check every figure; exit code 1 when one is wrong")


def run(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    catalogue = load_builtin()
    if args.what == "verify":
        return _verify(verify(catalogue), args.output)
    as_json, as_text = _VIEWS[args.what]
    text = _json(as_json(catalogue, args)) if args.output == "json" else as_text(catalogue, args)
    sys.stdout.write(text + "\n")
    return 0


def _verify(findings: list[Finding], output: str) -> int:
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    if output == "json":
        sys.stdout.write(_json([asdict(finding) for finding in findings]) + "\n")
    else:
        for finding in findings:
            print(f"{finding.severity}: {finding.subject}\n  {finding.field}: {finding.message}")
        print(f"{errors} errors, {len(findings) - errors} suspicious")
    return 1 if errors else 0


# --- models ----------------------------------------------------------------------------------------------------------


def _models(catalogue: Catalogue, args: argparse.Namespace) -> list[Model]:
    if args.task and args.task not in catalogue.tasks:
        raise BadInput(f"--task: {args.task} is not a task; known: {', '.join(catalogue.tasks)}")
    return [model for model in catalogue.models.values() if not args.task or args.task in model.tasks]


def _models_text(catalogue: Catalogue, args: argparse.Namespace) -> str:
    blocks = []
    shown = _models(catalogue, args)
    for task in catalogue.tasks.values():
        rows = []
        for model in shown:
            if task.name not in model.tasks or (args.task and task.name != args.task):
                continue
            for variant in model.variants:
                best = _best(catalogue, variant, task.name)
                rows.append(
                    (
                        _variant_label(variant),
                        _millions(model.total_parameters_millions),
                        _score(variant.quality_centi(task.benchmark)),
                        *(("-", "-", "-") if best is None else _energy(*best)),
                    )
                )
        if rows:
            head = ("MODEL", "PARAMS", "QUAL", "J/REQ", "STARS", "BASIS")
            blocks.append(f"{task.name}: quality on {task.benchmark}\n{_table(head, rows)}")
    return "\n\n".join(
        [*blocks, f"J/REQ: best point within the task's time per token; -: unrated. Stars {STARS_VERSION}."]
    )


def _best(catalogue: Catalogue, variant: Variant, task: str) -> tuple[EnergyProfile, int] | None:
    """The profile with the least energy per request within the task's time between tokens."""
    limit = catalogue.tasks[task].inter_token_ms
    best: tuple[EnergyProfile, int] | None = None
    for profile in catalogue.profiles_of(variant.model, task):
        if (profile.precision, profile.reasoning) != (variant.precision, variant.reasoning):
            continue
        least = least_millijoules(profile, None if limit is None else limit * 1000)
        if least is not None and (best is None or least < best[1]):
            best = (profile, least)
    return best


def _energy(profile: EnergyProfile, millijoules: int) -> tuple[str, str, str]:
    rating = stars(profile.task, profile.reasoning, millijoules, profile.basis)
    return _joules(millijoules), "-" if rating is None else "*" * rating, _basis(profile)


# --- profiles --------------------------------------------------------------------------------------------------------


def _profiles(catalogue: Catalogue, args: argparse.Namespace) -> list[EnergyProfile]:
    model = None if args.model is None else _find_model(catalogue, args.model)
    if args.model is not None and model is None:
        raise BadInput(f"--model: {args.model} is not in the catalogue{_near(args.model, catalogue.models)}")
    if args.accelerator_class is not None and args.accelerator_class not in catalogue.accelerator_classes:
        known = ", ".join(catalogue.accelerator_classes)
        raise BadInput(f"--class: {args.accelerator_class} is not in the catalogue; known: {known}")
    return [
        profile
        for profile in catalogue.profiles
        if (model is None or profile.model == model.name)
        and args.accelerator_class in {None, profile.accelerator_class}
    ]


def _profiles_text(catalogue: Catalogue, args: argparse.Namespace) -> str:
    groups: dict[tuple[str, int], list[Row]] = {}
    for profile in _profiles(catalogue, args):
        first, last = profile.points[0], profile.points[-1]
        row = (
            _profile_label(profile),
            f"{first.batch}-{last.batch}",
            f"{min(p.milliwatts for p in profile.points) // 1000}-{max(p.milliwatts for p in profile.points) // 1000}",
            _joules(least_millijoules(profile) or 0),
            _basis(profile),
        )
        groups.setdefault((profile.accelerator_class, profile.accelerators), []).append(row)
    head = ("MODEL", "BATCH", "WATTS", "J/REQ", "BASIS")
    blocks = [f"{name} x{count}\n{_table(head, rows)}" for (name, count), rows in sorted(groups.items())]
    return "\n\n".join(blocks) or "no profile matches"


# --- accelerators and tasks ------------------------------------------------------------------------------------------


def _accelerators_text(catalogue: Catalogue, _args: argparse.Namespace) -> str:
    rows = [
        (
            c.name,
            f"{c.memory_mib / 1024:.1f}",
            f"{c.idle_milliwatts / 1000:.0f}",
            f"{c.max_milliwatts / 1000:.0f}",
            f"{c.bandwidth_gb_s or '-'}",
            f"{c.dense_tflops_bf16 or '-'}",
            ", ".join(c.product_labels) or "(nodes labelled by hand)",
        )
        for c in catalogue.accelerator_classes.values()
    ]
    return _table(("CLASS", "GIB", "IDLE W", "MAX W", "GB/S", "TFLOPS", "NODE LABEL nvidia.com/gpu.product"), rows)


def _tasks_text(catalogue: Catalogue, _args: argparse.Namespace) -> str:
    rows = []
    for task in catalogue.tasks.values():
        largest = largest_model(catalogue, task.name)
        latency = (
            f"{task.end_to_end_ms} ms"
            if task.end_to_end_ms is not None
            else f"{task.time_to_first_token_ms} ms + {task.inter_token_ms} ms/tok"
        )
        rows.append(
            (
                task.name,
                task.benchmark,
                _score(task.floor_centi),
                _score(task.target_centi),
                latency,
                "-" if largest is None else _millions(largest.total_parameters_millions),
            )
        )
    return _table(("TASK", "BENCHMARK", "FLOOR", "TARGET", "LATENCY (p95)", "LARGEST"), rows)


# --- one thing -------------------------------------------------------------------------------------------------------


def _named(catalogue: Catalogue, args: argparse.Namespace) -> Any:
    model = _find_model(catalogue, args.name)
    profile = next((p for p in catalogue.profiles if p.name == args.name), None)
    found = model or profile or catalogue.accelerator_classes.get(args.name) or catalogue.tasks.get(args.name)
    if found is None:
        names = [*catalogue.models, *(p.name for p in catalogue.profiles), *catalogue.accelerator_classes]
        raise BadInput(f"{args.name} is not in the catalogue{_near(args.name, [*names, *catalogue.tasks])}")
    return found


def _find_model(catalogue: Catalogue, name: str) -> Model | None:
    by_path = {model.model_path.lower(): model for model in catalogue.models.values()}
    return catalogue.models.get(name.lower()) or by_path.get(name.lower())


def _show_text(catalogue: Catalogue, args: argparse.Namespace) -> str:
    found = _named(catalogue, args)
    if isinstance(found, Model):
        return _model_text(catalogue, found)
    if isinstance(found, EnergyProfile):
        return _profile_text(found)
    return "\n".join(_wrapped(f"{key.replace('_', ' ')}: {_plain(value)}") for key, value in asdict(found).items())


def _model_text(catalogue: Catalogue, model: Model) -> str:
    lines = [
        model.name,
        f"loads {model.model_path}",
        f"{', '.join(model.tasks)}; {_parameters(model)} parameters; {model.context_tokens} tokens; {model.licence}",
        _wrapped(f"source: {_cited(asdict(model.source))}"),
    ]
    for variant in model.variants:
        lines += ["", f"{variant.precision}, reasoning {variant.reasoning}, {variant.weights_mib / 1024:.1f} GiB"]
        lines += [
            _wrapped(f"{q.benchmark} {_score(q.score_centi)}: {_cited(asdict(q.source))}", "  ")
            for q in variant.quality
        ] or ["  no benchmark result: it meets no quality floor"]
        rows = [
            (
                f"{p.accelerator_class} x{p.accelerators}",
                f"{p.points[0].batch}-{p.points[-1].batch}",
                *_energy(p, least),
            )
            for p in catalogue.profiles
            if (p.model, p.precision, p.reasoning) == variant.key
            if (least := least_millijoules(p)) is not None
        ]
        table = _table(("ON", "BATCH", "J/REQ", "STARS", "BASIS"), rows) if rows else "no energy profile"
        lines += ["  " + line for line in table.splitlines()]
    return "\n".join(lines)


def _profile_text(profile: EnergyProfile) -> str:
    rows = [
        (
            str(p.batch),
            f"{p.milliwatts / 1000:.0f}",
            f"{p.requests_per_second_milli / 1000:.2f}",
            _joules(millijoules_per_request(p)),
            str(p.latency_p50_ms),
            str(p.latency_p95_ms),
            "-" if p.inter_token_p95_us is None else f"{p.inter_token_p95_us / 1000:.1f}",
        )
        for p in profile.points
    ]
    return "\n".join(
        [
            f"{profile.name}   {_profile_label(profile)} on {profile.accelerator_class} x{profile.accelerators}",
            f"{profile.task}, {profile.input_tokens} tokens in, {profile.output_tokens} out; {profile.engine}",
            _wrapped(f"{_basis(profile)}: {_cited(asdict(profile.source))}"),
            "",
            _table(("BATCH", "WATTS", "REQ/S", "J/REQ", "P50 MS", "P95 MS", "MS/TOKEN P95"), rows),
        ]
    )


# --- words and figures -----------------------------------------------------------------------------------------------


def _table(head: Row, rows: Iterable[Row]) -> str:
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def _variant_label(variant: Variant) -> str:
    thinking = "" if variant.reasoning is Reasoning.OFF else f" {variant.reasoning}"
    return f"{variant.model} {variant.precision}{thinking}"


def _profile_label(profile: EnergyProfile) -> str:
    thinking = "" if profile.reasoning is Reasoning.OFF else f" {profile.reasoning}"
    return f"{profile.model} {profile.precision}{thinking}"


def _parameters(model: Model) -> str:
    total = _millions(model.total_parameters_millions)
    active = _millions(model.active_parameters_millions)
    return total if total == active else f"{total} ({active} active)"


def _millions(millions: int) -> str:
    return f"{millions / 1000:.3g}B" if millions >= THOUSAND else f"{millions}M"


def _score(centi: int | None) -> str:
    return "-" if centi is None else f"{centi / 100:.1f}"


def _joules(millijoules: int) -> str:
    return f"{millijoules / 1000:.0f}" if millijoules >= 10_000 else f"{millijoules / 1000:.2g}"


def _basis(profile: EnergyProfile) -> str:
    return f"+-{profile.uncertainty_percent} %" if profile.basis is Basis.MODELLED else profile.basis.value


def _cited(source: dict[str, Any]) -> str:
    note = f" ({source['note']})" if source["note"] else ""
    return f"{source['citation']}, {source['date']}{note}"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return _cited(value)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name.lower(), list(known), n=3, cutoff=0.4)
    return f"; did you mean {', '.join(near)}?" if near else ""


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


View = tuple[Callable[[Catalogue, argparse.Namespace], Any], Callable[[Catalogue, argparse.Namespace], str]]

_VIEWS: dict[str, View] = {
    "models": (_models, _models_text),
    "profiles": (_profiles, _profiles_text),
    "accelerators": (lambda catalogue, _: list(catalogue.accelerator_classes.values()), _accelerators_text),
    "tasks": (lambda catalogue, _: list(catalogue.tasks.values()), _tasks_text),
    "show": (_named, _show_text),
}
