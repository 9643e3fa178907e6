"""Chooses the subcommand and turns errors into lines and exit codes.

Exit codes: 0 done, 1 asked for something impossible, 2 wrong usage or bad input, 3 cannot reach the cluster.
Each subcommand module has `add_arguments(parser)` and `run(args) -> int`; its docstring's first line is its help.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from lowbeam import __version__
from lowbeam.errors import LowbeamError

COMMANDS = {
    "run": "start the operator",
    "plan": "plan manifests without a cluster: what would run, at how many watts",
    "explain": "why this model, why not the others",
    "top": "caps and workloads of a cluster, live",
    "catalog": "models, profiles, accelerators and tasks that Lowbeam knows",
    "calibrate": "measure a model on the device at hand, as EnergyProfiles",
    "plot": "pictures of energy profiles, and of quality against joules",
    "simulate": "play a scenario on a virtual cluster and clock",
    "emulate": "play the workers of KWOK pods (tests and demos only)",
    "crds": "print the CustomResourceDefinitions",
}
EXTRA_OF_MODULE = {
    "matplotlib": "plot",
    "kopf": "operator",
    "kubernetes": "operator",
    "aiohttp": "operator",
    "prometheus_client": "operator",
    "structlog": "operator",
}


UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a write to a full or broken disk fails with."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit code."""
    _prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="lowbeam", description="Compute-efficient AI inference under power caps.")
    parser.add_argument("--version", action="version", version=f"lowbeam {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = next((a for a in arguments if not a.startswith("-")), "")
    try:
        for name, summary in COMMANDS.items():
            sub = commands.add_parser(name, help=summary, description=summary)
            if name == named:
                _module(name).add_arguments(sub)
        args = parser.parse_args(arguments)
        code: int = _module(args.command).run(args)
        sys.stdout.flush()
    except LowbeamError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        _give_up_output()
        return 0
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        _give_up_output()
        print(f"cannot write the output: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _prepare_streams() -> None:
    """Output has a place to go, and letters that the terminal lacks are escaped: neither ends in a traceback."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open until the end
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _give_up_output() -> None:
    """What is still in the buffer goes nowhere: the interpreter would fail on it once more at its end."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"lowbeam.cli.{name}")
    except ModuleNotFoundError as error:
        extra = EXTRA_OF_MODULE.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        raise LowbeamError(
            f"`lowbeam {name}` needs the {extra} parts: pip install '.[{extra}]' in a clone of Lowbeam"
        ) from error
