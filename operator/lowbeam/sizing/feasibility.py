"""Which ways to run a workload are allowed: an ordered chain of small pure filters.

Each filter is `(Requirements, Candidate) -> Miss | None`; the first miss ends the chain and becomes the rejection that
`lowbeam explain` prints. Never weighs watts against anything: that is planning. What needs a rate or a batch (latency,
joules, watts, inventory) is asked in `sizing.size`, where those are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog.engines import ENGINES, NATIVE, EngineFacts, lacks
from lowbeam.catalog.facts import AcceleratorClass, EnergyProfile, Model, Reasoning, Variant
from lowbeam.catalog.tasks import READ_IN_PIECES
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.words import centi

MEMORY_SHARE = 0.92
"""Share of the memory that an engine may take; the rest is the driver, the context and fragmentation."""
WORKING_MEMORY_PERCENT = 10
"""Key-value cache and activations on top of the weights, at least; WORKING_MEMORY_MIB is the floor for small models."""
WORKING_MEMORY_MIB = 256

_REASONING_ORDER = {level: rank for rank, level in enumerate(Reasoning)}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to look at: a model, then with a variant, then with a measured profile on a class."""

    model: Model
    variant: Variant | None = None
    profile: EnergyProfile | None = None
    accelerator: AcceleratorClass | None = None

    @property
    def subject(self) -> str:
        """How a person names it: `Qwen3-8B bf16 (Medium), h100 x2`."""
        text = self.model.name
        if self.variant is not None:
            text += f" {self.variant.precision}"
            if self.variant.reasoning is not Reasoning.OFF:
                text += f" ({self.variant.reasoning})"
        if self.profile is not None:
            text += f", {self.profile.accelerator_class}"
            text += f" x{self.profile.accelerators}" if self.profile.accelerators > 1 else ""
        return text


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a filter says no: the reason and a sentence with the figure that missed."""

    reason: str
    message: str


Filter = Callable[[Requirements, Candidate], Miss | None]


def first_miss(chain: Sequence[Filter], needs: Requirements, candidate: Candidate) -> Miss | None:
    """The first objection of the chain, or None when the candidate passes."""
    for link in chain:
        miss = link(needs, candidate)
        if miss is not None:
            return miss
    return None


def is_named(needs: Requirements, it: Candidate) -> Miss | None:
    """A pinned model excludes all others; a list of names those that are not on it."""
    if needs.pinned_model and it.model.name != needs.pinned_model:
        return Miss(reasons.NOT_NAMED, f"spec.model.pinned asks for {needs.pinned_model}")
    if needs.model_names and it.model.name not in needs.model_names:
        return Miss(reasons.NOT_NAMED, f"spec.model.names lists {', '.join(needs.model_names)}")
    return None


def does_the_task(needs: Requirements, it: Candidate) -> Miss | None:
    """The catalogue says which tasks a model can do."""
    if needs.task not in it.model.tasks:
        return Miss(reasons.TASK_NOT_SUPPORTED, f"does {', '.join(it.model.tasks)}, not {needs.task}")
    return None


def has_an_allowed_licence(needs: Requirements, it: Candidate) -> Miss | None:
    """Only where the owner restricts licences; SPDX identifiers are the same in capital and small letters."""
    if needs.licences and it.model.licence.lower() not in {licence.lower() for licence in needs.licences}:
        return Miss(reasons.LICENCE_NOT_ALLOWED, f"licence {it.model.licence} is not in spec.model.licences")
    return None


def is_no_needless_generation(needs: Requirements, it: Candidate) -> Miss | None:
    """Generating text for a task that needs none costs many times the energy: only with an opt-in."""
    if it.model.generative and not needs.generative_allowed:
        return Miss(
            reasons.NEEDS_OPT_IN, f"generates text, which {needs.task} does not need; opt in to GenerativeModel"
        )
    return None


def holds_the_context(needs: Requirements, it: Candidate) -> Miss | None:
    """Prompt and answer must fit the context window. What a model that writes no text is given has to fit as well,
    except where an engine cuts it or reads it in pieces: the others refuse the request."""
    context, wanted = it.model.context_tokens, needs.demand.input_tokens
    if it.model.generative:
        wanted += needs.demand.output_tokens
    elif needs.own_engine or ENGINES[needs.engine].cuts_texts or needs.task in READ_IN_PIECES:
        return None
    if not 0 < context < wanted:
        return None
    text = f"context {context} tokens < {wanted} per request"
    if not it.model.generative:
        text += "; such are refused (where requests ask to be cut, say in spec.load.inputTokens what is left of them)"
    return Miss(reasons.CONTEXT_TOO_SHORT, text)


def thinks_no_longer_than_asked(needs: Requirements, it: Candidate) -> Miss | None:
    """Reasoning is the most expensive knob: never above what was asked for."""
    assert it.variant is not None  # noqa: S101 - a variant filter
    if _REASONING_ORDER[it.variant.reasoning] > _REASONING_ORDER[needs.reasoning]:
        return Miss(
            reasons.REASONING_NOT_ALLOWED, f"reasoning {it.variant.reasoning} > spec.reasoning {needs.reasoning}"
        )
    return None


def reaches_the_floor(needs: Requirements, it: Candidate) -> Miss | None:
    """An unknown score never passes a floor; without a floor every score does. Consent is given in `sizing.size`."""
    assert it.variant is not None  # noqa: S101 - a variant filter
    if needs.floor_centi <= 0:
        return None
    score = it.variant.quality_centi(needs.benchmark)
    if score is None:
        return Miss(reasons.QUALITY_UNKNOWN, f"the catalogue has no {needs.benchmark} score")
    if score < needs.floor_centi:
        return Miss(reasons.BELOW_FLOOR, f"{needs.benchmark} {centi(score)} < {centi(needs.floor_centi)} (floor)")
    return None


def runs_on_an_allowed_class(needs: Requirements, it: Candidate) -> Miss | None:
    """Only where the owner restricts classes."""
    assert it.profile is not None  # noqa: S101 - a profile filter
    if needs.accelerator_classes and it.profile.accelerator_class not in needs.accelerator_classes:
        allowed = ", ".join(needs.accelerator_classes)
        return Miss(reasons.CLASS_NOT_ALLOWED, f"spec.placement.acceleratorClasses allows {allowed}")
    return None


def computes_in_the_precision(needs: Requirements, it: Candidate) -> Miss | None:
    """A precision that the hardware only emulates was not measured there and saves nothing."""
    del needs
    assert it.variant is not None  # noqa: S101 - a profile filter
    assert it.accelerator is not None  # noqa: S101 - a profile filter
    if it.variant.precision not in it.accelerator.precisions:
        return Miss(
            reasons.PRECISION_NOT_SUPPORTED, f"{it.accelerator.name} does not compute in {it.variant.precision}"
        )
    return None


def fits_the_memory(needs: Requirements, it: Candidate) -> Miss | None:
    """Weights and the least working memory against the memory of all accelerators of one replica."""
    del needs
    assert it.variant is not None  # noqa: S101 - a profile filter
    assert it.profile is not None  # noqa: S101 - a profile filter
    assert it.accelerator is not None  # noqa: S101 - a profile filter
    if it.accelerator.memory_mib <= 0:
        return None
    weights = it.variant.weights_mib
    needed = weights + max(WORKING_MEMORY_MIB, weights * WORKING_MEMORY_PERCENT // 100)
    have = _usable_mib(it.accelerator, it.profile)
    if needed > have:
        text = f"weights and the least working memory need {needed / 1024:.1f} GiB, {have / 1024:.1f} GiB are usable"
        return Miss(reasons.OUT_OF_MEMORY, text)
    return None


UNBOUNDED = 2**62
"""More tokens than any memory holds: where the size of the cache is unknown."""


def context_room(it: Candidate) -> int:
    """Tokens of context, of all running requests together, that a replica's memory holds beside the weights.

    Never less than what ran when the profile was measured: that has been seen to fit.
    """
    assert it.variant is not None  # noqa: S101 - asked after the profile filters
    assert it.profile is not None  # noqa: S101 - asked after the profile filters
    assert it.accelerator is not None  # noqa: S101 - asked after the profile filters
    if it.model.kv_bytes_per_token is None or it.accelerator.memory_mib <= 0:
        return UNBOUNDED
    free_mib = _usable_mib(it.accelerator, it.profile) - it.variant.weights_mib - WORKING_MEMORY_MIB
    largest = max((point.batch for point in it.profile.points), default=0)
    seen = largest * (it.profile.input_tokens + it.profile.output_tokens)
    return max(seen, free_mib * 2**20 // it.model.kv_bytes_per_token)


def _usable_mib(accelerator: AcceleratorClass, profile: EnergyProfile) -> int:
    return int(accelerator.memory_mib * max(1, profile.accelerators) * MEMORY_SHARE)


def runs_on_the_engine(needs: Requirements, it: Candidate) -> Miss | None:
    """What the engine can serve (docs/engines.md); an image of the workload's own in place of ours is not asked."""
    if needs.own_engine:
        return None
    facts = ENGINES[needs.engine]
    what = engine_lacks(facts, needs, it)
    if not what:
        return None
    able = [other.engine for other in ENGINES.values() if other is not facts and not engine_lacks(other, needs, it)]
    if facts is not NATIVE:
        could = f"; spec.engine {' or '.join(able)} could" if able else ""
        return Miss(reasons.NOT_SERVED_BY_ENGINE, f"{facts.title} {what}{could}")
    could = f"spec.engine {' or '.join(able)} could" if able else "spec.pod.image may name an engine that does"
    return Miss(reasons.NOT_SERVED_NATIVELY, f"the {facts.title} {what}; {could}")


def engine_lacks(facts: EngineFacts, needs: Requirements, it: Candidate) -> str:
    """What keeps an engine from running the candidate; empty when nothing does."""
    assert it.variant is not None  # noqa: S101 - a profile filter
    assert it.profile is not None  # noqa: S101 - a profile filter
    assert it.accelerator is not None  # noqa: S101 - a profile filter
    return lacks(
        facts,
        needs.task,
        it.model,
        it.variant,
        accelerator=it.accelerator,
        accelerators=it.profile.accelerators,
        path=needs.model_path or it.model.path_for(it.variant.precision),
    )


MODEL_CHAIN: tuple[Filter, ...] = (
    is_named,
    does_the_task,
    has_an_allowed_licence,
    is_no_needless_generation,
    holds_the_context,
)
VARIANT_CHAIN: tuple[Filter, ...] = (thinks_no_longer_than_asked, reaches_the_floor)
PROFILE_CHAIN: tuple[Filter, ...] = (
    runs_on_an_allowed_class,
    computes_in_the_precision,
    fits_the_memory,
    runs_on_the_engine,
)
