"""`lowbeam catalog`: models, profiles, accelerators and tasks that Lowbeam knows, and whether the figures are sound.

Decides how the built-in catalogue is asked for: one subcommand per kind of fact, with filters. Each view prints text of
at most 80 columns, or JSON (`-o json`) whose fields are documented in docs/reference/catalog-json.md. Never talks to a
cluster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from lowbeam.catalog import Catalogue, load_builtin
from lowbeam.catalog.facts import Basis
from lowbeam.cli.catalog import accelerators, checking, models, profiles, show, tasks
from lowbeam.cli.catalog.words import as_json

View = tuple[Callable[[Catalogue, argparse.Namespace], Any], Callable[[Catalogue, argparse.Namespace], str]]

_VIEWS: dict[str, View] = {
    "models": (models.data, models.text),
    "profiles": (profiles.data, profiles.text),
    "accelerators": (accelerators.data, accelerators.text),
    "tasks": (tasks.data, tasks.text),
    "show": (show.data, show.text),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`models`, `profiles`, `accelerators`, `tasks`, `show NAME`, `verify`, and their filters."""
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print (table)")
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("--name", metavar="PATTERN", help="only names like this: a part of it, or with * and ?")
    figures = argparse.ArgumentParser(add_help=False)
    figures.add_argument("--task", help="only of this task")
    figures.add_argument("--licence", "--license", help="only models under this licence")
    figures.add_argument("--precision", help="only this precision, for example bf16")
    figures.add_argument("--class", dest="accelerator_class", metavar="CLASS", help="only with a profile on this class")
    figures.add_argument(
        "--basis", type=str.capitalize, choices=[basis.value for basis in Basis], help="only profiles of this basis"
    )

    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    what.add_parser("models", parents=[output, name, figures], help="models by task, with quality and energy")
    of_profiles = what.add_parser("profiles", parents=[output, name, figures], help="energy profiles by accelerator")
    of_profiles.add_argument("--model", help="only profiles of this model")
    of_accelerators = what.add_parser("accelerators", parents=[output, name], help="accelerator classes, their limits")
    of_accelerators.add_argument("--precision", help="only classes that run this precision")
    what.add_parser("tasks", parents=[output, name], help="what is assumed about each task")
    one = what.add_parser("show", parents=[output], help="everything about one model, profile, class or task")
    one.add_argument("name", help="its name; a model also by its Hugging Face id")
    check = what.add_parser("verify", parents=[output], help="check every figure; exit code 1 when one is wrong")
    check.add_argument(
        "-f", "--file", action="append", default=[], metavar="FILE", help="check these objects on top of the built-in"
    )


def run(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    if args.what == "verify":
        return checking.run(args.file, args.output)
    data, text = _VIEWS[args.what]
    catalogue = load_builtin()
    sys.stdout.write((as_json(data(catalogue, args)) if args.output == "json" else text(catalogue, args)) + "\n")
    return 0
