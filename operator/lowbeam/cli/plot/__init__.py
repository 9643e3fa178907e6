"""`lowbeam plot`: pictures of energy profiles and of the choice between models, as PNG or SVG.

Decides which facts are drawn. The same catalogue gives the same bytes: no time, no host, no version in the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import Reasoning
from lowbeam.cli.plot import profile, task
from lowbeam.cli.plot.drawing import save
from lowbeam.errors import BadInput

FORMATS = (".png", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`profile NAME` and `task TASK`."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-o", "--output", metavar="FILE", help="where to: .png or .svg (NAME.png in this folder)")
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    of_profile = what.add_parser("profile", parents=[shared], help="joules over batch, one curve per accelerator")
    of_profile.add_argument("name", help="a model or one of its profiles, as `lowbeam catalog` lists them")
    of_profile.add_argument("--task", type=str.lower, help="of a model with several tasks")
    of_profile.add_argument(
        "--precision", type=str.lower, help="of a model with several; the one with the most profiles otherwise"
    )
    of_profile.add_argument(
        "--reasoning", type=str.capitalize, choices=[mode.value for mode in Reasoning], help="mode (Off where there is)"
    )
    of_profile.add_argument(
        "--class", dest="accelerator_class", metavar="CLASS,...", help="only these classes (all; many are hard to read)"
    )
    of_task = what.add_parser("task", parents=[shared], help="quality against joules: floor, target and the choice")
    of_task.add_argument("name", metavar="TASK", help="a task, as `lowbeam catalog tasks` lists them")
    of_task.add_argument("--class", dest="accelerator_class", metavar="CLASS", help="on this class only")
    of_task.add_argument("--floor", metavar="SCORE", help="mark what a workload with this floor and no target gets")


def run(args: argparse.Namespace) -> int:
    """Draw, write and say where."""
    path = Path(args.output or f"{args.name.split('/')[-1]}.png")
    if path.suffix not in FORMATS:
        raise BadInput(f'--output: "{path}" ends in neither .png nor .svg')
    if not path.parent.is_dir():
        raise BadInput(f"--output: there is no folder {path.parent}; make it first")
    draw = profile.draw if args.what == "profile" else task.draw
    save(draw(load_builtin(), args), path)
    print(f"wrote {path}")
    return 0
