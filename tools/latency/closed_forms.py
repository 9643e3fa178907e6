"""Exact answers for the queues that have one: what the simulated tables are checked against. Decides nothing.

All for Poisson arrivals; times in mean times of service with all servers (slots) busy, like the tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def md1_sojourn(load: float, share: float) -> float:
    """Quantile of the time in M/D/1: one server, every service takes 1 (Erlang's series for the wait)."""

    def waits_at_most(t: float) -> float:
        terms = (
            (-load * (t - k)) ** k / math.factorial(k) * math.exp(load * (t - k)) for k in range(math.floor(t) + 1)
        )
        return (1 - load) * math.fsum(terms)

    return 1 + _least(lambda t: waits_at_most(t) >= share, highest=60.0)


def slots_wait(load: float, slots: int, slope: float, share: float) -> float:
    """Quantile of the wait for one of `slots`, with exponential lengths.

    The number in the system is a birth-death chain: with n <= slots running, answers end at n over the time of an
    iteration. Beyond that the slots stay full, and whoever finds n waits for n - slots + 1 answers. A slope of 0 is
    M/M/c (Erlang C), with one slot M/M/1; a slope of 1 is one shared processor.
    """
    arrivals = load * slots
    weight = total = 1.0
    for n in range(1, slots):
        weight *= arrivals * ((1 - slope) + slope * n / slots) / n
        total += weight
    full = weight * load / (1 - load)
    waiting = full / (total + full)
    return max(0.0, math.log(waiting / (1 - share)) / (slots * (1 - load))) if waiting > 0 else 0.0


def endless_batch_sojourn(share: float) -> float:
    """Quantile of the time with a batch limit that is never reached, a busy server and a flat batch time.

    A request finds the server somewhere in a batch, waits for its end and then takes one batch itself.
    """
    return 1 + share


def _least(holds: Callable[[float], bool], highest: float) -> float:
    low, high = 0.0, highest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
