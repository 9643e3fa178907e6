"""What looser wishes would save against the chosen option: computed by sizing again, never canned.

Decides which changes are tried and which are worth telling. Each is judged as if the workload were alone with the whole
inventory; what it serves and its quality (unless that is the change) stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog.facts import Reasoning
from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.search import most_that
from lowbeam.sizing.size import Sizer
from lowbeam.sizing.wishes import (
    SWITCH,
    UNLIMITED_MS,
    WISHES,
    Advice,
    Changes,
    allow_class,
    allow_licence,
    allow_model,
    changed,
    lower_floor,
    name_an_engine,
    scores_of,
)
from lowbeam.sizing.words import centi

LOOSER_PERCENT = 160
"""What is tried for a saving: 50 -> 80 ms per token is still twice as fast as people read."""
SHORTER_PERCENT = 60
"""Answers that are tried for a saving: most prompts can ask for less."""
WORTH_PERCENT = 5
"""Smaller savings are noise of the profiles and are not recommended."""

_Wished = tuple[str, str, str, Changes, int]
"""(field, from what to what, reason, changes, quality that may lack to the target)."""


def savings(sizer: Sizer, needs: Requirements, chosen: Option) -> tuple[Advice, ...]:
    """What looser wishes would save against `chosen`, best first; nothing below WORTH_PERCENT."""
    found = [
        advice
        for wished in _cheaper_wishes(sizer, needs, chosen)
        if (advice := _saving(sizer, needs, chosen, wished)) is not None
    ]
    return tuple(sorted(found, key=lambda it: (-it.saved_percent, it.field)))


def _saving(sizer: Sizer, needs: Requirements, chosen: Option, wished: _Wished) -> Advice | None:
    field, change, reason, changes, shortfall = wished
    best = sizer.cheapest(
        changed(needs, changes), most_unserved_millirps=chosen.unserved_millirps, most_shortfall_centi=shortfall
    )
    if best is None or chosen.expected_milliwatts <= 0:
        return None
    saved = 100 - -(-100 * best.expected_milliwatts // chosen.expected_milliwatts)
    return Advice(field, change, reason, best, changes, saved) if saved >= WORTH_PERCENT else None


def _cheaper_wishes(sizer: Sizer, needs: Requirements, chosen: Option) -> Iterator[_Wished]:
    shortfall = chosen.quality_shortfall_centi
    for field, name in (
        ("endToEndMilliseconds", "end_to_end_ms"),
        ("timeToFirstTokenMilliseconds", "time_to_first_token_ms"),
        ("interTokenMilliseconds", "inter_token_ms"),
    ):
        if (limit := getattr(needs, name)) is not None and limit < UNLIMITED_MS:
            looser = min(limit * LOOSER_PERCENT // 100, UNLIMITED_MS)
            text = f"spec.latency.{field} {limit} -> {looser} ms"
            yield f"spec.latency.{field}", text, reasons.TOO_SLOW, ((name, looser),), shortfall
    if (lower := _less_quality(sizer, needs, chosen)) is not None:
        yield lower
    if needs.demand.output_tokens > 1:
        yield _shorter_answers(needs, shortfall)
    if (plain := _without_reasoning(sizer, needs, chosen)) is not None:
        yield plain
    for wish in WISHES:
        if wish.field in _WORTH_ASKING and (loosest := wish.loosest(needs)) is not None:
            best = sizer.cheapest(
                changed(needs, loosest),
                most_unserved_millirps=chosen.unserved_millirps,
                most_shortfall_centi=shortfall,
            )
            if best is not None and best.expected_milliwatts < chosen.expected_milliwatts:
                changes, text = _WORTH_ASKING[wish.field](sizer, needs, best)
                yield wish.field, text, wish.reason, changes, shortfall


_WORTH_ASKING = {
    "spec.model.licences": allow_licence,
    "spec.model": allow_model,
    "spec.placement.acceleratorClasses": allow_class,
    "spec.engine": name_an_engine,
}


def _less_quality(sizer: Sizer, needs: Requirements, chosen: Option) -> _Wished | None:
    """The highest score below the chosen one that saves enough: of the target, or of the floor without one."""
    if chosen.quality_centi is None:
        return None
    below = min(chosen.quality_centi, max(needs.floor_centi, needs.target_centi))
    scores = [score for score in scores_of(sizer, needs) if 0 < score < below]

    def wished(score: int) -> _Wished:
        floor, target = min(needs.floor_centi, score), needs.target_centi
        changes: Changes = (("floor_centi", floor), ("target_centi", score))
        if target > needs.floor_centi and score >= needs.floor_centi:
            text = f"spec.quality.target {centi(target)} -> {centi(score)}"
            return "spec.quality.target", text, reasons.BELOW_TARGET, changes, 0
        text = f"spec.quality.floor {centi(needs.floor_centi)} -> {centi(score)}"
        text += f" (and target {centi(target)})" if target > needs.floor_centi else ""
        return "spec.quality.floor", text, reasons.BELOW_FLOOR, changes, 0

    at = most_that(
        lambda number: _saving(sizer, needs, chosen, wished(scores[number])) is not None, below=len(scores), lowest=0
    )
    return None if at is None else wished(scores[at])


def _shorter_answers(needs: Requirements, shortfall: int) -> _Wished:
    tokens = needs.demand.output_tokens
    fewer = max(1, tokens * SHORTER_PERCENT // 100)
    step = 10 ** max(0, len(str(fewer)) - 2)
    fewer = max(1, fewer // step * step)
    changes: Changes = (("demand", replace(needs.demand, output_tokens=fewer)),)
    text = f"answers of {fewer} instead of {tokens} tokens"
    return "spec.load.outputTokens", text, reasons.TOO_SLOW, changes, shortfall


def _without_reasoning(sizer: Sizer, needs: Requirements, chosen: Option) -> _Wished | None:
    """Reasoning switched off, with the best quality that is left and answers as long as the task's usual ones."""
    facts = sizer.catalogue.tasks.get(needs.task)
    if chosen.reasoning is Reasoning.OFF or facts is None:
        return None
    tokens = min(needs.demand.output_tokens, facts.default_output_tokens)
    changes: Changes = (("reasoning", Reasoning.OFF), ("demand", replace(needs.demand, output_tokens=tokens)))
    text = (
        f"spec.reasoning {needs.reasoning} -> Off, answers of {tokens} instead of {needs.demand.output_tokens} tokens"
    )
    plain = changed(needs, changes)
    if sizer.cheapest(plain) is None and needs.floor_centi > 0:
        lower = lower_floor(sizer, plain)
        if lower is None or lower[2] >= SWITCH:
            return None
        floor = dict(lower[0])["floor_centi"]
        changes = (*changes, ("floor_centi", floor), ("target_centi", floor))
        text += f", {lower[1].removeprefix('spec.quality.')}"
    return "spec.reasoning", text, reasons.REASONING_NOT_ALLOWED, changes, chosen.quality_shortfall_centi
