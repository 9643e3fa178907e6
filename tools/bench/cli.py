"""The command line: `python -m tools.bench [NAME ...] [--write]`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

from . import board_limits, core, document, fleet, linear, planner, power_cut, selection, sizing, startup, worker
from .figures import Section

Say = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named benchmarks, or all; prints each as soon as it is done."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    names = "planner, core, board-limits, selection, sizing, power-cut, fleet, startup, worker, linear (default: all)"
    parser.add_argument("names", nargs="*", metavar="NAME", help=names)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--runs", type=int, default=20, help="how often power-cut cuts the cap (default 20)")
    parser.add_argument(
        "--workloads", type=int, nargs="+", default=[8, 500], metavar="N", help="sizes of fleet (default 8 500)"
    )
    parser.add_argument("--worker-runs", type=int, default=3, help="how often worker measures each way (default 3)")
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(given)
    known: dict[str, Callable[[Say], Section]] = {
        "planner": planner.measure,
        "core": core.measure,
        "board-limits": board_limits.measure,
        "selection": selection.measure,
        "sizing": sizing.measure,
        "startup": startup.measure,
        "fleet": lambda say: fleet.measure(say, arguments.workloads),
        "worker": lambda say: worker.measure(say, arguments.worker_runs),
        "linear": linear.measure,
        "power-cut": lambda say: power_cut.measure(say, arguments.runs),
    }
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    for name in arguments.names or known:
        section = known[name](_progress(name))
        print(section.text(), end="\n\n", flush=True)
        if arguments.write:
            document.write(name, section, shlex.join(("python", "-m", "tools.bench", *given)))
    return 0


def _progress(name: str) -> Say:
    def say(message: str) -> None:
        print(f"[{name}] {message}", file=sys.stderr, flush=True)

    return say
