"""`python -m tools.backtest`: the table of docs/demand.md, or with --tune the search on days 1-7 that set the rules.

Decides what is printed and written; about a minute, or five with --tune.
"""

from __future__ import annotations

import argparse
import re
import sys
from itertools import product
from pathlib import Path

from lowbeam.sizing.demand import RULES, Rules
from tools.backtest.replay import HELD_OUT, SIZERS, TUNING, Series, lowbeam_estimates, rates
from tools.backtest.score import Score, is_service, score
from tools.traces.servegen import clients

DOCUMENT = Path(__file__).parents[2] / "docs" / "demand.md"
MARKERS = ("<!-- backtest: begin -->", "<!-- backtest: end -->")
WANTED_COVERAGE = 0.95
HEADS = (
    "sizer",
    "coverage",
    "of all windows",
    "requests above",
    "estimate / real",
    "median client",
)


def main() -> int:
    """Print, and write docs/demand.md unless --tune or --print-only."""
    parser = argparse.ArgumentParser(prog="python -m tools.backtest", description=__doc__)
    parser.add_argument("--tune", action="store_true", help="search the rules on days 1-7 instead")
    parser.add_argument("--print-only", action="store_true", help="leave docs/demand.md as it is")
    args = parser.parse_args()
    real = [rates(client) for client in clients()]
    if args.tune:
        print(tuning(real))
        return 0
    text = tables(real)
    print(text)
    if not args.print_only:
        begin, end = MARKERS
        page = DOCUMENT.read_text()
        DOCUMENT.write_text(re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL))
    return 0


def tables(real: list[Series]) -> str:
    """Every sizer on days 8-14, services and occasional clients apart."""
    services = [is_service(it) for it in real]
    estimated = {sizer.name: [sizer.estimates(it) for it in real] for sizer in SIZERS}
    blocks = []
    for title, wanted in (("Services", True), ("Occasional clients", False)):
        rows = [
            (name, score(((r, e) for r, e, s in zip(real, series, services, strict=True) if s is wanted), HELD_OUT))
            for name, series in estimated.items()
        ]
        blocks.append(f"{title} ({services.count(wanted)} clients), days 8-14:\n\n{markdown(rows)}")
    return "\n\n".join(blocks)


def tuning(real: list[Series]) -> str:
    """Lowbeam's estimator under every rule of a small grid, services on days 2-7; the cheapest that covers enough."""
    mine = [it for it in real if is_service(it)]
    rows: list[tuple[Rules, Score]] = []
    for recent, quantile, largest in product((1, 2, 3, 4, 6), (90, 95, 97), (1.5, 2.0, 3.0)):
        rules = Rules(recent, quantile, largest)
        rows.append((rules, score(((it, lowbeam_estimates(it, rules)) for it in mine), TUNING)))
        print(".", end="", file=sys.stderr, flush=True)
    enough = [(rules, it) for rules, it in rows if it.coverage >= WANTED_COVERAGE]
    best = min(enough, key=lambda row: row[1].provisioned)[0] if enough else None
    listed = markdown([(f"{r.recent} windows, {r.quantile_percent} %, at most {r.largest_margin}", s) for r, s in rows])
    return f"{listed}\n\nLeast that covers {WANTED_COVERAGE:.0%}: {best}\nIn use: {RULES}"


def markdown(rows: list[tuple[str, Score]]) -> str:
    """A table of scores."""
    lines = [f"| {' | '.join(HEADS)} |", "|---|" + "---:|" * (len(HEADS) - 1)]
    lines += [
        f"| {name} | {it.coverage:.1%} | {it.coverage_of_all:.1%} | {it.overflow:.1%} | {it.provisioned:.2f} | "
        f"{it.provisioned_of_median:.2f} |"
        for name, it in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
