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


def variant_name(option: Option) -> str:
    """`qwen3-8b bf16`, `gpt-oss-20b mxfp4 (Medium)`."""
    mode = "" if option.reasoning is Reasoning.OFF else f" ({option.reasoning})"
    return f"{option.model} {option.precision}{mode}"
