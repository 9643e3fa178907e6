"""The command line: `python -m tools.latency build|check|report|carry`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from tools.bench.document import stamped, with_section

from . import report, tables, traces

DOCUMENT = Path(__file__).parents[2] / "docs" / "operating-points.md"
_REPORTS = {
    "exact": report.exact,
    "between-cells": report.between_cells,
    "real-traces": report.real_traces,
    "clients": report.clients,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the tables, simulate a sample of them again, show how true they are, or reduce a trace."""
    parser = argparse.ArgumentParser(prog="python -m tools.latency", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="simulate every cell and write the table file")
    commands.add_parser("check", help="simulate a sample of the cells again and compare")
    shown = commands.add_parser("report", help="errors against exact answers, another simulation and real traces")
    shown.add_argument("--write", action="store_true", help=f"put the tables into docs/{DOCUMENT.name}")
    carried = commands.add_parser("carry", help="reduce a trace from its source file")
    carried.add_argument("source", choices=["azure", "mooncake"])
    carried.add_argument("file", type=Path)
    carried.add_argument("name", choices=["conversation", "code"])
    arguments = parser.parse_args(argv)
    started = time.process_time()
    failed = False
    match arguments.command:
        case "build":
            tables.write(tables.build(_say))
            _say(f"{tables.TABLE.name}: {tables.TABLE.stat().st_size / 1000:.0f} kB")
        case "check":
            wrong = tables.check(_say)
            failed = bool(wrong)
            print("\n".join(wrong) or "the sample agrees with the table file")
        case "report":
            _report(write=arguments.write)
        case _:
            target = traces.TRACES / arguments.source / f"{arguments.name}.csv.gz"
            carry = traces.carry_azure if arguments.source == "azure" else traces.carry_mooncake
            print(f"{target.name}: {carry(arguments.file, target)} requests")
    _say(f"{time.process_time() - started:.0f} s of CPU")
    return 1 if failed else 0


def _report(*, write: bool) -> None:
    for name, make in _REPORTS.items():
        section = make(_say)
        print(section.text(), end="\n\n", flush=True)
        if write:
            body = stamped(section, "python -m tools.latency report --write", date.today())
            DOCUMENT.write_text(with_section(DOCUMENT.read_text(), name, body))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
