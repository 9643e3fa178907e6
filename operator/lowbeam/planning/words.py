"""How planning says watts, joules, rates and options: `412 W`, `12.4 kW`, `28 J`, `10 req/s`.

Decides nothing. Rounds for people only; nothing reads these texts back.
"""

from __future__ import annotations

from decimal import Decimal

from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.words import centi, joules_text, variant_name


def watts(milliwatts: int) -> str:
    """412 W below ten kilowatts' worth of digits, 12.4 kW above."""
    value = milliwatts / 1000
    if abs(value) >= 10_000:
        return f"{value / 1000:.1f} kW"
    if abs(value) >= 1000:
        return f"{value / 1000:.2f} kW"
    return f"{value:.0f} W" if abs(value) >= 10 else f"{value:.1f} W"


def joules(option: Option) -> str:
    """Per request: `0.42 J`, `47 J`, `1.20 kJ`."""
    return joules_text(option.millijoules_per_request)


def rate(millirps: int) -> str:
    """Requests per second: `0.5 req/s`, `120 req/s`, `166,000 req/s`."""
    return f"{_per_second(millirps)} req/s"


def share(capacity_millirps: int, demand_millirps: int) -> str:
    """How much of the demand is served: `2 of 30 req/s`."""
    return f"{_per_second(min(capacity_millirps, demand_millirps))} of {rate(demand_millirps)}"


def _per_second(millirps: int) -> str:
    return f"{millirps / 1000:.3g}" if millirps < 999_500 else f"{max(1000, millirps // 1000):,}"


def rating(needs: Requirements, option: Option) -> str:
    """`mmlu-pro 56.7`; empty where the catalogue has no score."""
    return "" if option.quality_centi is None else f"{needs.benchmark} {centi(option.quality_centi)}"


def milliseconds(value: int) -> str:
    """`820 ms`, `12.4 s`."""
    return f"{value} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def money(amount: Decimal) -> str:
    """Three digits, never an exponent: `17.5`, `0.00162`, `12400`."""
    if amount == 0:
        return "0"
    digits = max(0, 2 - amount.adjusted())
    return f"{amount:.{min(digits, 9)}f}"


def star_text(task: str, option: Option) -> str:
    """`****`; empty where nothing is rated."""
    return "*" * (option.rating(task) or 0)


def limit_text(before_watts: int, after_watts: int) -> str:
    """`power limit none -> 490 W a board`, `power limit 490 W a board -> none`; 0 watts are none."""
    if not after_watts:
        return f"power limit {before_watts} W a board -> none"
    return f"power limit {f'{before_watts} W' if before_watts else 'none'} -> {after_watts} W a board"


def option_text(option: Option) -> str:
    """`qwen3-8b bf16, h100 x2 at 490 W, batch <= 64, 3 replicas`; without a power limit no watts."""
    boards = f" x{option.accelerators_per_replica}" if option.accelerators_per_replica > 1 else ""
    pods = "1 replica" if option.replicas == 1 else f"{option.replicas} replicas"
    limit = f" at {option.board_limit_watts} W" if option.board_limit_watts else ""
    where = f"{option.accelerator_class}{boards}{limit}"
    return f"{variant_name(option)}, {where}, batch <= {option.batch_limit}, {pods}"
