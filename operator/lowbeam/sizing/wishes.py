"""The wishes of a workload that can be loosened, and the smallest step of each that gives it an option.

Decides what counts as one change of a spec and how it reads; which changes are worth telling is `relax` and `savings`.

Invariants: every answer was sized, never estimated; a number is the nearest to the wish that does, rounded to two
digits on the safe side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.inferenceworkload import Engine
from lowbeam.catalog.engines import ENGINES, lacks
from lowbeam.catalog.facts import Reasoning
from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.search import least_that, most_that
from lowbeam.sizing.size import Sizer
from lowbeam.sizing.words import centi, joules_text, variant_name

UNLIMITED_MS = 3_600_000
"""An hour: the longest latency target that the API accepts."""
MOST_WATTS = 100_000_000
MOST_MILLIJOULES = 1_000_000_000_000
"""Above any limit that somebody could mean: 100 MW, and as many joules as they give in ten seconds."""
SWITCH = 1000.0
"""Share given up by dropping a wish altogether: comes after every number."""

Changes = tuple[tuple[str, Any], ...]
"""New values by field of Requirements."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One change, and what would run after it."""

    field: str
    """What to change: a field of the spec, or `nodes`."""
    change: str
    """From what to what: `spec.quality.floor 97.5 -> 96.4`."""
    reason: str
    """Why nothing runs (or why what would run lost) without the change."""
    option: Option
    changes: Changes = ()
    saved_percent: int = 0
    """Of the expected watts; 0 where nothing ran before."""

    @property
    def text(self) -> str:
        """The change with what it gives."""
        figure = f"{joules_text(self.option.millijoules_per_request)} per request"
        saved = f" (-{self.saved_percent} %)" if self.saved_percent else ""
        return f"{self.change}: {figure}{saved} with {variant_name(self.option)}"


@dataclass(frozen=True, slots=True)
class Wish:
    """One wish that can be loosened."""

    field: str
    reason: str
    loosest: Callable[[Requirements], Changes | None]
    """None: the workload does not wish for it."""
    nearest: Callable[[Sizer, Requirements], tuple[Changes, str, float] | None]
    """(changes, from what to what, share of the wish given up) of the smallest change that gives an option."""


def changed(needs: Requirements, *changes: Changes) -> Requirements:
    """The requirements with some changes applied; later ones win."""
    return replace(needs, **{name: value for change in changes for name, value in change})


def _number(field: str, name: str, reason: str, *, most: int, unit: int, say: Callable[[int], str]) -> Wish:
    """An upper limit in Requirements field `name`, a multiple of `unit` and at most `most` of it."""

    def loosest(needs: Requirements) -> Changes | None:
        return None if getattr(needs, name) is None else ((name, most * unit),)

    def nearest(sizer: Sizer, needs: Requirements) -> tuple[Changes, str, float] | None:
        wish = getattr(needs, name) // unit
        enough = least_that(
            lambda value: sizer.cheapest(changed(needs, ((name, value * unit),))) is not None, above=wish, highest=most
        )
        if enough is None:
            return None
        return ((name, enough * unit),), f"{field} {say(wish)} -> {say(enough)}", enough / max(1, wish) - 1

    return Wish(field, reason, loosest, nearest)


def _tokens(field: str, name: str, reason: str, *, only_generated: bool) -> Wish:
    """A length of the declared load: shorter is easier."""

    def loosest(needs: Requirements) -> Changes | None:
        if getattr(needs.demand, name) <= 1 or (only_generated and needs.demand.output_tokens <= 1):
            return None
        return _of_length(needs, name, 1)

    def nearest(sizer: Sizer, needs: Requirements) -> tuple[Changes, str, float] | None:
        wish: int = getattr(needs.demand, name)
        if name == "input_tokens":
            wish = max(wish, needs.text_tokens)

        def works(tokens: int) -> bool:
            return sizer.cheapest(changed(needs, _of_length(needs, name, tokens))) is not None

        enough = most_that(works, below=wish, lowest=1)
        if enough is None:
            return None
        return _of_length(needs, name, enough), f"{field} {wish} -> {enough}", wish / enough - 1

    return Wish(field, reason, loosest, nearest)


def _of_length(needs: Requirements, name: str, tokens: int) -> Changes:
    lengths: dict[str, Any] = {name: min(tokens, getattr(needs.demand, name))}
    changes: Changes = (("demand", replace(needs.demand, **lengths)),)
    return (*changes, ("text_tokens", min(tokens, needs.text_tokens))) if name == "input_tokens" else changes


def _switch(
    field: str,
    reason: str,
    loosest: Callable[[Requirements], Changes | None],
    say: Callable[[Sizer, Requirements, Option], tuple[Changes, str]],
) -> Wish:
    """A wish that holds or not: the smallest step is to allow what the cheapest way without it would use."""

    def nearest(sizer: Sizer, needs: Requirements) -> tuple[Changes, str, float] | None:
        changes = loosest(needs)
        option = None if changes is None else sizer.cheapest(changed(needs, changes))
        return None if option is None else (*say(sizer, needs, option), SWITCH)

    return Wish(field, reason, loosest, nearest)


def lower_floor(sizer: Sizer, needs: Requirements) -> tuple[Changes, str, float] | None:
    """The highest score in the catalogue that something reaches; no floor at all where nothing that fits has one."""
    scores = [score for score in scores_of(sizer, needs) if score < needs.floor_centi]
    enough = most_that(
        lambda at: sizer.cheapest(replace(needs, floor_centi=scores[at])) is not None, below=len(scores), lowest=0
    )
    if enough is not None and scores[enough] > 0:
        text = f"spec.quality.floor {centi(needs.floor_centi)} -> {centi(scores[enough])}"
        return (("floor_centi", scores[enough]),), text, 1 - scores[enough] / needs.floor_centi
    text = f"spec.quality.floor left out, as nothing that fits has a score on {needs.benchmark}"
    return (("floor_centi", 0),), text, SWITCH


def scores_of(sizer: Sizer, needs: Requirements) -> list[int]:
    """Scores that models for the task have on the workload's benchmark, ascending."""
    scores = {
        variant.quality_centi(needs.benchmark)
        for model in sizer.catalogue.models.values()
        if needs.task in model.tasks
        for variant in model.variants
    }
    return sorted(score for score in scores if score is not None)


def _higher_reasoning(sizer: Sizer, needs: Requirements) -> tuple[Changes, str, float] | None:
    levels = list(Reasoning)
    for level in levels[levels.index(needs.reasoning) + 1 :]:
        if sizer.cheapest(replace(needs, reasoning=level)) is not None:
            opt_in = " with an optIn HighReasoning" if level in (Reasoning.MEDIUM, Reasoning.HIGH) else ""
            text = f"spec.reasoning {needs.reasoning} -> {level}{opt_in}"
            return (("reasoning", level),), text, SWITCH
    return None


def _licence_of(sizer: Sizer, option: Option) -> str:
    return sizer.catalogue.models[option.model].licence


def allow_licence(sizer: Sizer, needs: Requirements, option: Option) -> tuple[Changes, str]:
    """The licence of one option on top of those that are allowed."""
    licence = _licence_of(sizer, option)
    return (("licences", tuple(sorted({*needs.licences, licence}))),), f"allow licence {licence} in spec.model.licences"


def allow_model(_sizer: Sizer, needs: Requirements, option: Option) -> tuple[Changes, str]:
    """The model of one option instead of the pinned one, or on top of those that are named."""
    if needs.pinned_model:
        changes: Changes = (("pinned_model", option.model), ("model_names", ()))
        return changes, f"spec.model.pinned {needs.pinned_model} -> {option.model}"
    return (
        ("model_names", tuple(sorted({*needs.model_names, option.model}))),
    ), f"add {option.model} to spec.model.names"


def allow_class(_sizer: Sizer, needs: Requirements, option: Option) -> tuple[Changes, str]:
    """The class of one option on top of those that are allowed."""
    classes = tuple(sorted({*needs.accelerator_classes, option.accelerator_class}))
    text = f"allow class {option.accelerator_class} in spec.placement.acceleratorClasses"
    return (("accelerator_classes", classes),), text


def name_an_engine(sizer: Sizer, needs: Requirements, option: Option) -> tuple[Changes, str]:
    """An engine that can do what the workload's cannot: one of those that are rendered, else one of the owner's."""
    if (able := _engine_for(sizer, needs, option)) is not None:
        return (("engine", able), ("own_engine", False)), f"spec.engine {needs.engine} -> {able}"
    boards = option.accelerators_per_replica
    serves = f"serves {option.precision}" if boards <= 1 else f"uses {boards} {option.accelerator_class} together"
    if option.reasoning is not Reasoning.OFF:
        serves += " and reasons"
    text = f"an engine of your own that {serves}, as spec.pod.image"
    return _ANY_ENGINE, text if needs.engine is Engine.NATIVE else f"{text} with spec.engine Auto"


_ANY_ENGINE: Changes = (("engine", Engine.NATIVE), ("own_engine", True))


def _engine_for(sizer: Sizer, needs: Requirements, option: Option) -> Engine | None:
    model, accelerator = (
        sizer.catalogue.models[option.model],
        sizer.catalogue.accelerator_classes[option.accelerator_class],
    )
    variant = next(it for it in model.variants if it.key == (option.model, option.precision, option.reasoning))
    path = needs.model_path or model.path_for(option.precision)
    for it in ENGINES.values():
        boards = option.accelerators_per_replica
        if it.engine is not needs.engine and not lacks(
            it, needs.task, model, variant, accelerator=accelerator, accelerators=boards, path=path
        ):
            return it.engine
    return None


def _any_node(_sizer: Sizer, needs: Requirements, _option: Option) -> tuple[Changes, str]:
    return (("reachable", None),), f"{needs.reach_limits} that allow more nodes"


def _opt_in(_sizer: Sizer, _needs: Requirements, _option: Option) -> tuple[Changes, str]:
    return (("generative_allowed", True),), "an optIn GenerativeModel in spec.optIn"


def _milliseconds(value: int) -> str:
    return f"{value} ms"


def _whole_watts(value: int) -> str:
    return f"{value} W"


WISHES: tuple[Wish, ...] = (
    Wish(
        "spec.quality.floor",
        reasons.BELOW_FLOOR,
        lambda needs: (("floor_centi", 0),) if needs.floor_centi > 0 else None,
        lower_floor,
    ),
    *(
        _number(f"spec.latency.{field}", name, reasons.TOO_SLOW, most=UNLIMITED_MS, unit=1, say=_milliseconds)
        for field, name in (
            ("endToEndMilliseconds", "end_to_end_ms"),
            ("timeToFirstTokenMilliseconds", "time_to_first_token_ms"),
            ("interTokenMilliseconds", "inter_token_ms"),
        )
    ),
    _number(
        "spec.energy.maxJoulesPerRequest",
        "max_millijoules_per_request",
        reasons.TOO_MUCH_ENERGY,
        most=MOST_MILLIJOULES,
        unit=1,
        say=joules_text,
    ),
    _number(
        "spec.energy.maxWatts",
        "max_milliwatts",
        reasons.TOO_MANY_WATTS,
        most=MOST_WATTS,
        unit=1000,
        say=_whole_watts,
    ),
    _tokens("spec.load.outputTokens", "output_tokens", reasons.TOO_SLOW, only_generated=True),
    _tokens("spec.load.inputTokens", "input_tokens", reasons.CONTEXT_TOO_SHORT, only_generated=False),
    _switch(
        "spec.model.licences",
        reasons.LICENCE_NOT_ALLOWED,
        lambda needs: (("licences", ()),) if needs.licences else None,
        allow_licence,
    ),
    _switch(
        "spec.model",
        reasons.NOT_NAMED,
        lambda needs: (("pinned_model", ""), ("model_names", ())) if needs.pinned_model or needs.model_names else None,
        allow_model,
    ),
    _switch(
        "spec.placement.acceleratorClasses",
        reasons.CLASS_NOT_ALLOWED,
        lambda needs: (("accelerator_classes", ()),) if needs.accelerator_classes else None,
        allow_class,
    ),
    _switch(
        "spec.placement",
        reasons.NO_INVENTORY,
        lambda needs: None if needs.reachable is None else (("reachable", None),),
        _any_node,
    ),
    _switch(
        "spec.optIn",
        reasons.NEEDS_OPT_IN,
        lambda needs: None if needs.generative_allowed else (("generative_allowed", True),),
        _opt_in,
    ),
    Wish(
        "spec.reasoning",
        reasons.REASONING_NOT_ALLOWED,
        lambda needs: None if needs.reasoning is Reasoning.HIGH else (("reasoning", Reasoning.HIGH),),
        _higher_reasoning,
    ),
    _switch(
        "spec.engine",
        reasons.NOT_SERVED_NATIVELY,
        lambda needs: None if needs.own_engine or needs.engine is not Engine.NATIVE else _ANY_ENGINE,
        name_an_engine,
    ),
    _switch(
        "spec.engine",
        reasons.NOT_SERVED_BY_ENGINE,
        lambda needs: None if needs.engine is Engine.NATIVE else _ANY_ENGINE,
        name_an_engine,
    ),
)
