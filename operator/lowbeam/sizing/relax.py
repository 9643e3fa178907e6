"""Relaxations: what a little less of one wish would give, found by sizing again.

Decides nothing; answers two questions for people. Without any option: which single wish stands in the way? With
options: what would a looser target save? Each answer was tried, not estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lowbeam.catalog.facts import Reasoning
from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.size import Sizer
from lowbeam.sizing.words import centi, joules_text

UNLIMITED_MS = 3_600_000
"""An hour: the longest latency target that the API accepts."""
LOOSER_PERCENT = 160
"""What is tried for a saving: 50 -> 80 ms per token is still twice as fast as people read."""
WORTH_PERCENT = 5
"""Savings below this are noise of the profiles and are not recommended."""
_SEARCH_STEPS = 8

Limit = tuple[str, str, Callable[[Requirements, int], Requirements], int | None]


def nearest_relaxation(sizer: Sizer, needs: Requirements) -> str:
    """The single relaxation that gives a workload without options one: `floor 97.5 -> 96.8 (albert-xxlarge ...)`."""
    for text in _relaxations(sizer, needs):
        return text
    return "no single relaxation would give one: see the rejected models"


def savings(sizer: Sizer, needs: Requirements, chosen: Option) -> tuple[str, ...]:
    """What looser latency or a lower floor would save against `chosen`, best first; nothing below WORTH_PERCENT."""
    found: list[tuple[int, str]] = []
    for name, unit, loosen, current in _limits(needs):
        if current is not None:
            looser = current * LOOSER_PERCENT // 100
            _add_saving(found, sizer, loosen(needs, looser), chosen, f"{name} {current} -> {looser} {unit}")
    if needs.floor_centi > 0:
        open_floor = replace(needs, floor_centi=0)
        scores = {o.quality_centi for o in _serving(sizer, open_floor) if o.quality_centi is not None}
        lower = max((s for s in scores if s < needs.floor_centi), default=None)
        if lower is not None:
            text = f"floor {centi(needs.floor_centi)} -> {centi(lower)}"
            _add_saving(found, sizer, replace(needs, floor_centi=lower, target_centi=lower), chosen, text)
    return tuple(text for _, text in sorted(found))


def _add_saving(found: list[tuple[int, str]], sizer: Sizer, needs: Requirements, chosen: Option, what: str) -> None:
    as_good = [
        o
        for o in _serving(sizer, needs)
        if o.unserved_millirps <= chosen.unserved_millirps
        and max(0, needs.target_centi - (o.quality_centi or 0)) <= chosen.quality_shortfall_centi
    ]
    best = min(as_good, key=lambda o: (o.expected_milliwatts, o.id), default=None)
    if best is None or chosen.expected_milliwatts <= 0:
        return
    saved = 100 - 100 * best.expected_milliwatts // chosen.expected_milliwatts
    if saved >= WORTH_PERCENT:
        joules = f"{joules_text(best.millijoules_per_request)} per request"
        found.append((-saved, f"{what}: {joules} (-{saved} %) with {best.model} {best.precision}"))


def _serving(sizer: Sizer, needs: Requirements) -> tuple[Option, ...]:
    return tuple(o for o in sizer.options_for(needs).options if not o.below_floor)


def _relaxations(sizer: Sizer, needs: Requirements) -> Iterator[str]:
    open_floor = replace(needs, floor_centi=0)
    best = max(
        (o for o in _serving(sizer, open_floor) if o.quality_centi is not None),
        key=lambda o: (o.quality_centi or 0, -o.expected_milliwatts),
        default=None,
    )
    if best is not None and best.quality_centi is not None and best.quality_centi < needs.floor_centi:
        what = f"{centi(needs.floor_centi)} -> {centi(best.quality_centi)}"
        yield f"spec.quality.floor {what} would do (the best that fits is {best.model} {best.precision})"
    for name, unit, loosen, current in _limits(needs):
        if current is not None and _serving(sizer, loosen(needs, UNLIMITED_MS)):
            enough = _least(sizer, needs, loosen, current)
            yield f"{name} {current} -> {enough} {unit} would do"
    for text, relaxed in _switches(needs):
        if _serving(sizer, relaxed):
            yield f"{text} would do"


def _limits(needs: Requirements) -> tuple[Limit, ...]:
    return (
        ("end-to-end", "ms", lambda n, v: replace(n, end_to_end_ms=v), needs.end_to_end_ms),
        ("first token", "ms", lambda n, v: replace(n, time_to_first_token_ms=v), needs.time_to_first_token_ms),
        ("inter-token", "ms", lambda n, v: replace(n, inter_token_ms=v), needs.inter_token_ms),
    )


def _least(sizer: Sizer, needs: Requirements, loosen: Callable[[Requirements, int], Requirements], low: int) -> int:
    """The tightest limit found that gives an option: doubling, then halving the interval; rounded up to two digits."""
    high = low * 2
    while high < UNLIMITED_MS and not _serving(sizer, loosen(needs, high)):
        low, high = high, high * 2
    high = min(high, UNLIMITED_MS)
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) // 2
        low, high = (low, middle) if _serving(sizer, loosen(needs, middle)) else (middle, high)
    step: int = 10 ** max(0, len(str(high)) - 2)
    return -(-high // step) * step


def _switches(needs: Requirements) -> Iterator[tuple[str, Requirements]]:
    if needs.pinned_model or needs.model_names:
        yield "leaving spec.model open", replace(needs, pinned_model="", model_names=())
    if needs.licences:
        yield "leaving spec.model.licences open", replace(needs, licences=())
    if needs.accelerator_classes:
        yield "leaving spec.placement.acceleratorClasses open", replace(needs, accelerator_classes=())
    if needs.max_milliwatts is not None:
        yield "a higher spec.energy.maxWatts", replace(needs, max_milliwatts=None)
    if needs.max_millijoules_per_request is not None:
        yield "a higher spec.energy.maxJoulesPerRequest", replace(needs, max_millijoules_per_request=None)
    if needs.reasoning is not Reasoning.HIGH:
        yield "spec.reasoning High (with an optIn)", replace(needs, reasoning=Reasoning.HIGH)
    if not needs.generative_allowed:
        yield "an optIn for GenerativeModel", replace(needs, generative_allowed=True)
