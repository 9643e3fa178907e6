"""The queue formula promises nothing that a simulated queue does not keep."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from lowbeam.sizing.queueing import MAX_UTILISATION, utilisation_ceiling, wait_p95


def simulated_p95_wait(servers: int, utilisation: float, requests: int = 60_000, seed: int = 7) -> float:
    """p95 wait of a first-come queue with Poisson arrivals and exponential service, in mean service times."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / (servers * utilisation), requests))
    service = rng.exponential(1.0, requests)
    free = [0.0] * servers
    waits = np.empty(requests)
    for i in range(requests):
        start = max(arrivals[i], heapq.heappop(free))
        waits[i] = start - arrivals[i]
        heapq.heappush(free, start + service[i])
    return float(np.quantile(waits[requests // 10 :], 0.95))


@pytest.mark.parametrize("servers", [1, 3, 8, 20, 64])
@pytest.mark.parametrize("slack", [0.1, 0.5, 2.0])
def test_at_the_ceiling_a_simulated_queue_keeps_the_p95_wait(servers: int, slack: float) -> None:
    ceiling = float(utilisation_ceiling(np.array([servers]), np.array([slack]))[0])
    if ceiling > 0:
        assert simulated_p95_wait(servers, ceiling) <= slack * 1.1 + 0.02


@pytest.mark.parametrize("servers", [1, 8, 64])
def test_the_wait_is_that_of_a_simulated_queue(servers: int) -> None:
    assert float(wait_p95(np.array([servers]), np.array([0.8]))[0]) == pytest.approx(
        simulated_p95_wait(servers, 0.8, requests=200_000), rel=0.15, abs=0.02
    )


def test_more_slack_or_more_servers_never_lower_the_ceiling_and_none_is_above_the_limit() -> None:
    slacks = np.linspace(0, 20, 40)
    table = np.array([utilisation_ceiling(np.full(40, s), slacks) for s in (1, 2, 5, 17, 100, 1000)])
    assert (np.diff(table, axis=0) >= 0).all()
    assert (np.diff(table, axis=1) >= 0).all()
    assert table.max() == pytest.approx(MAX_UTILISATION)


def test_without_slack_a_single_server_may_hardly_be_used() -> None:
    assert float(utilisation_ceiling(np.array([1]), np.array([0.0]))[0]) <= 0.05
