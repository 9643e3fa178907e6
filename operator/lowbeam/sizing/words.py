"""How sizing says scores and joules to people. Decides nothing; nothing reads these texts back."""

from __future__ import annotations

from lowbeam.catalog.facts import Reasoning
from lowbeam.sizing.options import Option


def centi(value: int) -> str:
    """Hundredths as a person writes them: 9025 -> "90.25", 9000 -> "90"."""
    return f"{value / 100:.2f}".rstrip("0").rstrip(".")


def joules_text(millijoules: int) -> str:
    """Two to three digits: `0.42 J`, `47 J`, `1.20 kJ`."""
    value = millijoules / 1000
    if value >= 1000:
        return f"{value / 1000:.2f} kJ"
    return f"{value:.0f} J" if value >= 10 else f"{value:.2g} J"


def figure(value: float, digits: int = 3) -> str:
    """So many digits that count, and all before the point: `1.72`, and `1867` instead of `1.87e+03`."""
    whole = len(str(int(abs(value))))
    return f"{value:.0f}" if whole >= digits else f"{value:.{digits}g}"


def above(value: float, limit: float, digits: int = 3) -> str:
    """A figure that is above a limit, in as many digits as show it: `1.723` above 1.72, `70.4` above 70."""
    return next((text for n in range(digits, 12) if float(text := figure(value, n)) > limit), figure(value, digits))


def variant_name(option: Option) -> str:
    """`qwen3-8b bf16`, `gpt-oss-20b mxfp4 (Medium)`."""
    mode = "" if option.reasoning is Reasoning.OFF else f" ({option.reasoning})"
    return f"{option.model} {option.precision}{mode}"
