"""Cost: what running a workload costs in money, beside what it costs in energy.

Decides nothing: options are never ranked by money. Prices are given by whoever runs Lowbeam, in a currency of their
own; without them there is no cost. Accelerators are paid for while they are held, busy or idle, and so are the watts
that an option is expected to draw.

    prices = Prices({"h100": Decimal("2.5")}, kilowatt_hour=Decimal("0.25"))
    cost_of(option, needs.demand, prices)       # Cost(hour=..., thousand_requests=..., million_tokens=...)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Demand

_MILLI = Decimal(1000)
_SECONDS_PER_HOUR = Decimal(3600)


@dataclass(frozen=True, slots=True)
class Prices:
    """What one accelerator of a class costs per hour, and energy per kWh; any of them may be missing."""

    accelerator_hour: Mapping[str, Decimal] = field(default_factory=dict)
    kilowatt_hour: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """In the currency of the prices."""

    hour: Decimal
    """All replicas together."""
    thousand_requests: Decimal | None
    """None when no request is served."""
    million_tokens: Decimal | None
    """Of the answers; of the prompts where an answer is no text. None when no request is served."""
    without: str = ""
    """What is missing for the whole cost: `no price of h100`, `no price of energy`; empty = nothing."""


def cost_of(option: Option, demand: Demand, prices: Prices) -> Cost | None:
    """The cost of an option at the demand; None without any price that concerns it."""
    board, energy = prices.accelerator_hour.get(option.accelerator_class), prices.kilowatt_hour
    if board is None and energy is None:
        return None
    hour = Decimal(0)
    if board is not None:
        hour += board * option.accelerators
    if energy is not None:
        hour += energy * option.expected_milliwatts / (_MILLI * _MILLI)
    served = demand.requests_per_second_milli - option.unserved_millirps
    tokens = demand.output_tokens if demand.output_tokens > 1 else demand.input_tokens
    missing = "" if energy is not None else "no price of energy"
    if board is None:
        missing = f"no price of {option.accelerator_class}"
    if served <= 0:
        return Cost(hour, None, None, missing)
    request = hour * _MILLI / (_SECONDS_PER_HOUR * served)
    return Cost(hour, request * 1000, request * 1_000_000 / max(1, tokens), missing)
