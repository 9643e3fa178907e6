"""`lowbeam simulate FILE`: play a scenario on a virtual cluster and clock, with the operator's own decisions."""

from __future__ import annotations

import argparse

from lowbeam.simulation import format_report, run_scenario


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which scenario."""
    parser.add_argument("file", help="scenario (YAML), for example tests/scenarios/cap-cut-at-full-load.yaml")


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 when an expectation of the scenario does not hold."""
    report = run_scenario(args.file)
    print(format_report(report))
    return 1 if report.failures else 0
