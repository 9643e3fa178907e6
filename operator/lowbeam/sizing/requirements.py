"""What one workload needs, with every default filled in: the input of sizing.

Decides how an InferenceWorkload's spec and the catalogue's task facts become exact numbers. Never looks at the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from lowbeam.api.nearest import nearest
from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.base import MAX_REQUESTS_PER_MINUTE
from lowbeam.api.v1alpha1.inferenceworkload import BelowFloor, Engine, Feature, InferenceWorkloadSpec, OptIn, Quality
from lowbeam.catalog.comparison import benchmarks_of
from lowbeam.catalog.facts import Catalogue, Reasoning, TaskFacts
from lowbeam.sizing.correction import Correction
from lowbeam.sizing.inventory import Inventory

_FREE_REASONING = (Reasoning.OFF, Reasoning.LOW)
"""What needs no opt-in."""
_CLASSES = "spec.placement.acceleratorClasses"

MOST_MILLIRPS = -(-MAX_REQUESTS_PER_MINUTE * 1000 // 60)
"""The highest rate that spec.load may say."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Offered load. `basis` is Declared (spec.load) or Observed (telemetry)."""

    requests_per_second_milli: int
    input_tokens: int
    output_tokens: int
    basis: str = "Declared"
    arrival_cv_percent: int = 100
    """Burstiness: coefficient of variation of the time between requests, in percent; 100 = Poisson."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a workload cannot be sized at all: the reason constant, the field to change, and a sentence."""

    reason: str
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Requirements:
    """Frozen view of an InferenceWorkload for the pure core."""

    namespace: str
    name: str
    uid: str
    task: str
    demand: Demand
    benchmark: str
    floor_centi: int
    target_centi: int
    below_floor_when_capped: bool
    end_to_end_ms: int | None
    time_to_first_token_ms: int | None
    inter_token_ms: int | None
    reasoning: Reasoning
    """Most reasoning that was asked for (and opted in to)."""
    generative_allowed: bool
    """False for a non-generative task without an opt-in."""
    model_names: tuple[str, ...]
    licences: tuple[str, ...]
    pinned_model: str
    priority: int
    min_replicas: int
    max_replicas: int
    fixed_replicas: int | None
    """Set by an HPA through /scale: the count that Lowbeam may only lower."""
    max_millijoules_per_request: int | None
    max_milliwatts: int | None
    accelerator_classes: tuple[str, ...]
    """Allowed classes in any order; empty = all."""
    reachable: tuple[Inventory, ...] | None = None
    """The part of the inventory on nodes that `reach_limits` allow; None = all of it."""
    reach_limits: str = ""
    """The fields that keep the pods from other nodes."""
    engine: Engine = Engine.NATIVE
    """What serves; never Auto."""
    own_engine: bool = False
    """The workload brings an image in place of the native worker: it answers for what that can serve."""
    model_path: str = ""
    """What is loaded instead of what the catalogue names."""
    notes: tuple[str, ...] = ()
    """What was lowered to a default and why, e.g. an opt-in that has run out; for the workload's own status."""
    corrections: tuple[Correction, ...] = ()
    """Profiles that the workload's own watts contradict."""

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name): the canonical order of workloads."""
        return (self.namespace, self.name)


def requirements_of(  # noqa: PLR0917 - one call per workload, in the order of the object and of what judges it
    namespace: str,
    name: str,
    uid: str,
    spec: InferenceWorkloadSpec,
    catalogue: Catalogue,
    observed: Demand | None,
    today: date,
) -> Requirements | Refusal:
    """Read a spec. `observed` replaces the declared load: the caller has judged that it can be trusted.

    Refuses only what the catalogue does not know: the task, a pinned or named model, an allowed accelerator class, a
    benchmark without any score. An opt-in that has run out is no refusal: the efficient default applies again, and
    `notes` says so.
    """
    facts = catalogue.tasks.get(spec.task)
    if facts is None:
        return Refusal(reasons.UNKNOWN_TASK, "spec.task", _unknown_task(spec.task, catalogue))
    for where, model in [
        ("spec.model.pinned", spec.model.pinned),
        *(("spec.model.names", n) for n in spec.model.names),
    ]:
        if model and model not in catalogue.models:
            return Refusal(reasons.MODEL_NOT_IN_CATALOGUE, where, _unknown_model(where, model, catalogue))
    for allowed in spec.placement.accelerator_classes:
        if allowed not in catalogue.accelerator_classes:
            return Refusal(reasons.CLASS_NOT_IN_CATALOGUE, _CLASSES, _unknown_class(allowed, catalogue))
    if spec.quality is not None and not _has_scores(spec.task, spec.quality.benchmark, catalogue):
        text = _unknown_benchmark(spec.task, spec.quality.benchmark, catalogue)
        return Refusal(reasons.UNKNOWN_BENCHMARK, "spec.quality.benchmark", text)
    reasoning, notes = _reasoning(spec, today)
    generative = facts.generative or spec.opted_in(Feature.GENERATIVE_MODEL, today)
    if not facts.generative:
        notes += _expired(spec.opt_in, Feature.GENERATIVE_MODEL, today, "models that generate text are left out again")
        notes += _unused(spec, generative=generative)
    quality = _quality(spec.quality, facts)
    joules = spec.energy.max_joules_per_request
    return Requirements(
        namespace=namespace,
        name=name,
        uid=uid,
        task=spec.task,
        demand=observed or declared_demand(spec, facts),
        benchmark=quality[0],
        floor_centi=quality[1],
        target_centi=quality[2],
        below_floor_when_capped=spec.quality is not None and spec.quality.below_floor is BelowFloor.WHEN_CAPPED,
        end_to_end_ms=spec.latency.end_to_end_milliseconds or facts.end_to_end_ms,
        time_to_first_token_ms=_token_target(
            spec.latency.time_to_first_token_milliseconds, facts.time_to_first_token_ms, facts
        ),
        inter_token_ms=_token_target(spec.latency.inter_token_milliseconds, facts.inter_token_ms, facts),
        reasoning=reasoning,
        generative_allowed=generative,
        model_names=tuple(sorted(spec.model.names)),
        licences=tuple(sorted(spec.model.licences)),
        pinned_model=spec.model.pinned,
        priority=spec.priority,
        min_replicas=spec.scaling.min_replicas,
        max_replicas=spec.scaling.max_replicas,
        fixed_replicas=spec.replicas,
        max_millijoules_per_request=None if joules is None else int(Decimal(joules) * 1000),
        max_milliwatts=None if spec.energy.max_watts is None else spec.energy.max_watts * 1000,
        accelerator_classes=tuple(sorted(spec.placement.accelerator_classes)),
        engine=Engine.NATIVE if spec.engine is Engine.AUTO else spec.engine,
        own_engine=spec.engine is Engine.AUTO and bool(spec.pod.image),
        model_path=spec.pod.model_path or "",
        notes=notes,
    )


def declared_demand(spec: InferenceWorkloadSpec, facts: TaskFacts) -> Demand:
    """spec.load as a rate; a task that generates no text answers with one "token" whatever the load says."""
    output = max(1, spec.load.output_tokens) if facts.generative else 1
    return Demand(
        requests_per_second_milli=-(-spec.load.requests_per_minute * 1000 // 60),
        input_tokens=spec.load.input_tokens,
        output_tokens=output,
    )


def _token_target(asked: int | None, default: int | None, facts: TaskFacts) -> int | None:
    """Targets per token apply only where text is generated."""
    return (asked or default) if facts.generative else None


def _unused(spec: InferenceWorkloadSpec, *, generative: bool) -> tuple[str, ...]:
    """What of a spec says nothing about a task that writes no text. No refusal: which tasks do is the catalogue's to
    say, and may change under an object that was applied long ago."""
    latency, notes = spec.latency, []
    given = {
        "timeToFirstTokenMilliseconds": latency.time_to_first_token_milliseconds,
        "interTokenMilliseconds": latency.inter_token_milliseconds,
    }
    if fields := [f"spec.latency.{name}" for name, value in given.items() if value is not None]:
        instead = "" if latency.end_to_end_milliseconds else "; set spec.latency.endToEndMilliseconds instead"
        notes.append(f"{' and '.join(fields)}: not used, as {spec.task} writes no text{instead}")
    if spec.load.output_tokens > 1:
        notes.append(f"spec.load.outputTokens: {spec.load.output_tokens} is not used, as {spec.task} writes no text")
    if spec.reasoning is not Reasoning.OFF and not generative:
        notes.append(f"spec.reasoning: {spec.reasoning} is not used: models that write no text do not think")
    return tuple(notes)


def _quality(quality: Quality | None, facts: TaskFacts) -> tuple[str, int, int]:
    """(benchmark, floor, target) in hundredths; without spec.quality what the catalogue holds good for the task."""
    if quality is None:
        return facts.benchmark, facts.floor_centi, facts.target_centi
    floor = 0 if quality.floor is None else int(Decimal(quality.floor) * 100)
    target = floor if quality.target is None else int(Decimal(quality.target) * 100)
    return quality.benchmark, floor, max(floor, target)


def _reasoning(spec: InferenceWorkloadSpec, today: date) -> tuple[Reasoning, tuple[str, ...]]:
    asked = Reasoning(spec.reasoning.value)
    if asked in _FREE_REASONING or spec.opted_in(Feature.HIGH_REASONING, today):
        return asked, ()
    notes = _expired(spec.opt_in, Feature.HIGH_REASONING, today, f"reasoning {asked} is lowered to Low")
    return Reasoning.LOW, notes or (
        f"spec.reasoning: {asked} needs an optIn HighReasoning with a reason and an until date; Low is used",
    )


def _expired(entries: tuple[OptIn, ...], feature: Feature, today: date, effect: str) -> tuple[str, ...]:
    ends = [entry.until for entry in entries if entry.feature is feature]
    if not ends or max(ends) >= today:
        return ()
    return (f"spec.optIn: {feature.value} ended on {max(ends)}: {effect}; renew `until` if it is still needed",)


def _unknown_task(task: str, catalogue: Catalogue) -> str:
    near = nearest(task, catalogue.tasks, n=3, cutoff=0.5)
    known = ", ".join(near or sorted(catalogue.tasks)) or "none"
    lead = "did you mean" if near else "it knows"
    return f'spec.task: the catalogue has no task "{task}"; {lead}: {known}. Change the task or add a ModelCard for it.'


def _has_scores(task: str, benchmark: str, catalogue: Catalogue) -> bool:
    return any(
        variant.quality_centi(benchmark) is not None
        for model in catalogue.models.values()
        if task in model.tasks
        for variant in model.variants
    )


def _unknown_benchmark(task: str, benchmark: str, catalogue: Catalogue) -> str:
    known = benchmarks_of(catalogue, task)
    near = nearest(benchmark, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"they have: {', '.join(sorted(known)) or 'none'}."
    return (
        f'spec.quality.benchmark: no model for {task} has a score on "{benchmark}"; {hint} '
        "Correct it, or add a ModelCard with such a score."
    )


def _unknown_model(where: str, model: str, catalogue: Catalogue) -> str:
    near = nearest(model, catalogue.models, n=3, cutoff=0.5)
    hint = f"; did you mean: {', '.join(near)}" if near else ""
    return f'{where}: no model "{model}" in the catalogue{hint}. Correct the name or add a ModelCard.'


def _unknown_class(name: str, catalogue: Catalogue) -> str:
    near = nearest(name, catalogue.accelerator_classes, n=3, cutoff=0.5)
    hint = f"did you mean: {', '.join(near)}" if near else f"known: {', '.join(sorted(catalogue.accelerator_classes))}"
    return f'{_CLASSES}: no class "{name}" in the catalogue; {hint}. Correct the name or add an AcceleratorClass.'
