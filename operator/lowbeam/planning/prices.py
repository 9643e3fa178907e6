"""Prices: what one more watt under a cap would be worth.

Decides nothing. The price of a cap is the dual of its row in the linear relaxation of the priority-weighted loss: how
much loss one more watt would take away. Loss is counted in priority-weighted points: one request per second unserved,
or one point of the benchmark missing to the target, is one point at priority 1000.
"""

from __future__ import annotations

import numpy as np

from lowbeam.planning.outcome import Outcome
from lowbeam.planning.relaxation import linear_duals


def cap_prices(outcome: Outcome) -> dict[str, float]:
    """Loss avoided per extra watt of each enforced cap; 0 for caps that do not bind."""
    problem = outcome.problem
    prices = dict.fromkeys(problem.rows.caps, 0.0)
    used = problem.usage[:, outcome.choice].sum(axis=1)
    wanted = [0 if option is None else 1 for option in outcome.desired]
    if not prices or not any(wanted) or not outcome.is_dimmed:
        return prices
    weight = np.array([1 + entry.needs.priority for entry in problem.entries], dtype=np.float64) / 1001
    loss = (problem.unserved / 1000 + problem.shortfall / 100) * weight[problem.owner]
    columns = np.flatnonzero(outcome.allowed)
    for row, dual in linear_duals(problem, columns, loss).items():
        if row < len(problem.rows.caps) and used[row] > 0:
            prices[problem.rows.caps[row]] = max(0.0, round(-dual, 6))
    return prices
