"""Scores estimates against what really came.

Decides the measures. Windows without requests count only where it says so: any estimate covers them, and a sizer that
only looks good there is not good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from tools.backtest.replay import TUNING


@dataclass(frozen=True, slots=True)
class Score:
    """One sizer over many clients."""

    coverage: float
    """Share of the windows with requests whose real rate is at most the estimate."""
    coverage_of_all: float
    """The same over all windows."""
    overflow: float
    """Share of the requests above the estimate of their window."""
    provisioned: float
    """Mean estimate over mean real rate, all clients together: what is bought."""
    provisioned_of_median: float
    """The same for the client in the middle."""


def is_service(real: Sequence[float | None]) -> bool:
    """Whether a client sent requests in half of the windows of days 2-7 or more; else it is an occasional one."""
    known = [rate for rate in (real[w] for w in TUNING) if rate is not None]
    return sum(rate > 0 for rate in known) * 2 >= len(known)


def score(pairs: Iterable[tuple[Sequence[float | None], Sequence[float | None]]], windows: range) -> Score:
    """Score (real, estimated) of each client over some windows."""
    busy = busy_covered = total = covered = 0
    requests = over = bought = 0.0
    of_clients: list[float] = []
    for real, estimated in pairs:
        mine = [(r, e) for r, e in ((real[w], estimated[w]) for w in windows) if r is not None and e is not None]
        total += len(mine)
        covered += sum(r <= e for r, e in mine)
        busy += sum(r > 0 for r, _ in mine)
        busy_covered += sum(0 < r <= e for r, e in mine)
        sent, estimate = sum(r for r, _ in mine), sum(e for _, e in mine)
        requests, bought = requests + sent, bought + estimate
        over += sum(max(0.0, r - e) for r, e in mine)
        if sent > 0:
            of_clients.append(estimate / sent)
    return Score(
        coverage=busy_covered / max(1, busy),
        coverage_of_all=covered / max(1, total),
        overflow=over / max(1e-9, requests),
        provisioned=bought / max(1e-9, requests),
        provisioned_of_median=median(of_clients) if of_clients else 0.0,
    )
