"""Cost is arithmetic on prices that somebody gave; without a price there is none, and never a zero instead."""

from __future__ import annotations

from decimal import Decimal

import pytest

from lowbeam.sizing import Demand, Prices, cost_of
from tests.builders import option

DEMAND = Demand(10_000, 500, 200)


def test_boards_and_energy_by_the_hour_spread_over_what_is_served() -> None:
    chosen = option(expected=400, replicas=2, accelerator_class="h100")
    cost = cost_of(chosen, DEMAND, Prices({"h100": Decimal("2.5")}, Decimal("0.25")))
    assert cost is not None
    assert cost.hour == Decimal("5.1")  # 2 boards at 2.5, and 0.4 kWh at 0.25
    assert cost.thousand_requests is not None
    assert cost.million_tokens is not None
    assert cost.thousand_requests * 36 == pytest.approx(cost.hour)  # 36,000 requests per hour
    assert cost.million_tokens == pytest.approx(cost.thousand_requests * 5)  # 200 tokens each
    assert cost.without == ""


def test_a_replica_of_several_boards_pays_for_each() -> None:
    chosen = option(expected=0, replicas=3, boards=4, accelerator_class="a100")
    cost = cost_of(chosen, DEMAND, Prices({"a100": Decimal(1)}))
    assert cost is not None
    assert cost.hour == 12
    assert cost.without == "no price of energy"


def test_what_is_not_served_costs_no_less() -> None:
    prices = Prices({"gpu": Decimal(1)})
    whole, half = (cost_of(option(unserved=u), DEMAND, prices) for u in (0, 5))
    assert whole is not None
    assert half is not None
    assert whole.thousand_requests is not None
    assert half.thousand_requests == 2 * whole.thousand_requests


def test_without_a_price_that_concerns_it_there_is_no_cost() -> None:
    assert cost_of(option(accelerator_class="l4"), DEMAND, Prices({"h100": Decimal(2)})) is None
    assert cost_of(option(), DEMAND, Prices()) is None


def test_a_partial_cost_says_what_is_missing() -> None:
    cost = cost_of(option(expected=1000, accelerator_class="l4"), DEMAND, Prices({}, Decimal("0.3")))
    assert cost is not None
    assert cost.hour == Decimal("0.3")
    assert cost.without == "no price of l4"


def test_an_idle_workload_has_an_hourly_cost_only() -> None:
    cost = cost_of(option(), Demand(0, 500, 200), Prices({"gpu": Decimal(1)}))
    assert cost is not None
    assert (cost.hour, cost.thousand_requests, cost.million_tokens) == (1, None, None)


def test_tokens_are_those_of_the_prompt_where_the_answer_is_no_text() -> None:
    cost = cost_of(option(expected=0), Demand(1000, 500, 1), Prices({"gpu": Decimal(1)}))
    assert cost is not None
    assert cost.thousand_requests is not None
    assert cost.million_tokens == cost.thousand_requests * 2
