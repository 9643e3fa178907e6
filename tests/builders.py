"""Fluent builders for planning and sizing tests: say what matters, everything else has a plain default.

workload("triage").rate(12).priority(900).floor("90").state()
model("small").quality("80").on("gpu", watts=100, rate=10)
snapshot([...workloads], catalogue_of(model(...)), stock(gpu=8), cap("cluster", watts=500))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lowbeam.catalog.facts import (
    AcceleratorClass,
    Basis,
    Catalogue,
    EnergyProfile,
    Model,
    ProfilePoint,
    QualityScore,
    Reasoning,
    Source,
    TaskFacts,
    Variant,
)
from lowbeam.planning.snapshot import Snapshot, WorkloadState
from lowbeam.power.caps import Cap
from lowbeam.power.tree import build_cap_tree
from lowbeam.sizing.inventory import Inventory
from lowbeam.sizing.options import Option, OptionSet
from lowbeam.sizing.requirements import Demand, Requirements
from lowbeam.sizing.size import options_for

SOURCE = Source("made up for a test", "2026-01-01")
ALL_LEVERS = ("Batch", "PowerLimit", "Replicas", "Precision", "Model", "Pause")
BENCHMARK = "bench"
TASK = "text-classification"


def centi(text: str) -> int:
    return round(float(text) * 100)


@dataclass(frozen=True)
class WorkloadBuilder:
    needs: Requirements
    now: Option | None = None
    pinned: bool = False

    def in_namespace(self, namespace: str) -> WorkloadBuilder:
        return self._with(namespace=namespace)

    def task(self, task: str) -> WorkloadBuilder:
        return self._with(task=task)

    def rate(self, per_second: float) -> WorkloadBuilder:
        return self._with(demand=replace(self.needs.demand, requests_per_second_milli=round(per_second * 1000)))

    def tokens(self, input_tokens: int, output_tokens: int) -> WorkloadBuilder:
        return self._with(demand=replace(self.needs.demand, input_tokens=input_tokens, output_tokens=output_tokens))

    def priority(self, priority: int) -> WorkloadBuilder:
        return self._with(priority=priority)

    def floor(self, score: str, *, consent: bool = False) -> WorkloadBuilder:
        target = max(self.needs.target_centi, centi(score))
        return self._with(floor_centi=centi(score), target_centi=target, below_floor_when_capped=consent)

    def target(self, score: str) -> WorkloadBuilder:
        return self._with(target_centi=centi(score))

    def within(
        self, end_to_end_ms: int | None = None, first_token_ms: int | None = None, inter_token_ms: int | None = None
    ) -> WorkloadBuilder:
        return self._with(
            end_to_end_ms=end_to_end_ms, time_to_first_token_ms=first_token_ms, inter_token_ms=inter_token_ms
        )

    def replicas(self, least: int = 1, most: int = 20, fixed: int | None = None) -> WorkloadBuilder:
        return self._with(min_replicas=least, max_replicas=most, fixed_replicas=fixed)

    def only(self, **wishes: object) -> WorkloadBuilder:
        """Any other field of Requirements, by its name."""
        return self._with(**wishes)

    def running(self, option: Option | None, *, held: bool = False) -> WorkloadBuilder:
        return replace(self, now=option, pinned=held)

    def build(self) -> Requirements:
        return self.needs

    def state(self) -> WorkloadState:
        return WorkloadState(self.needs, running=self.now, held=self.pinned)

    def _with(self, **changes: object) -> WorkloadBuilder:
        return replace(self, needs=replace(self.needs, **changes))  # type: ignore[arg-type]


def workload(name: str) -> WorkloadBuilder:
    """One request per second of a classification task, no floor, one second end to end, priority 500."""
    return WorkloadBuilder(
        Requirements(
            namespace="team",
            name=name,
            uid=f"uid-{name}",
            task=TASK,
            demand=Demand(1000, 100, 1),
            benchmark=BENCHMARK,
            floor_centi=0,
            target_centi=0,
            below_floor_when_capped=False,
            end_to_end_ms=1000,
            time_to_first_token_ms=None,
            inter_token_ms=None,
            reasoning=Reasoning.OFF,
            generative_allowed=True,
            model_names=(),
            licences=(),
            pinned_model="",
            priority=500,
            min_replicas=1,
            max_replicas=20,
            fixed_replicas=None,
            max_millijoules_per_request=None,
            max_milliwatts=None,
            accelerator_classes=(),
        )
    )


@dataclass(frozen=True)
class ModelBuilder:
    name: str
    score: str = "90"
    precision: str = "bf16"
    mode: Reasoning = Reasoning.OFF
    weights_mib: int = 1000
    licence: str = "apache-2.0"
    generative: bool = False
    tasks: tuple[str, ...] = (TASK,)
    context_tokens: int = 8192
    kv_bytes: int | None = None
    profiles: tuple[EnergyProfile, ...] = field(default=())

    def quality(self, score: str) -> ModelBuilder:
        return replace(self, score=score)

    def reasons(self, mode: Reasoning) -> ModelBuilder:
        return replace(self, mode=mode)

    def that(self, **facts: object) -> ModelBuilder:
        """Any other field, by its name."""
        return replace(self, **facts)  # type: ignore[arg-type]

    def on(
        self,
        accelerator: str,
        *points: tuple[int, float, float, int],
        watts: float = 100,
        rate: float = 10,
        latency_ms: int = 20,
        boards: int = 1,
        lengths: tuple[int, int] = (100, 1),
    ) -> ModelBuilder:
        """A profile. Points are (batch, watts, requests/s, latency ms); without points one at batch 8."""
        rows = points or ((8, watts, rate, latency_ms),)
        profile = EnergyProfile(
            name=f"{self.name}-{self.precision}-{self.mode}-{accelerator}x{boards}",
            model=self.name,
            precision=self.precision,
            reasoning=self.mode,
            task=self.tasks[0],
            accelerator_class=accelerator,
            accelerators=boards,
            engine="Native",
            input_tokens=lengths[0],
            output_tokens=lengths[1],
            points=tuple(
                ProfilePoint(batch, round(w * 1000), round(r * 1000), ms, ms) for batch, w, r, ms in sorted(rows)
            ),
            basis=Basis.MEASURED,
            source=SOURCE,
        )
        return replace(self, profiles=(*self.profiles, profile))

    def build(self) -> Model:
        scores = () if not self.score else (QualityScore(BENCHMARK, "accuracy", centi(self.score), SOURCE),)
        variant = Variant(self.name, self.precision, self.mode, self.weights_mib, scores)
        return Model(
            name=self.name,
            tasks=self.tasks,
            licence=self.licence,
            total_parameters_millions=100,
            active_parameters_millions=100,
            context_tokens=self.context_tokens,
            generative=self.generative,
            variants=(variant,),
            source=SOURCE,
            kv_bytes_per_token=self.kv_bytes,
        )


def model(name: str) -> ModelBuilder:
    """A classifier of quality 90 in bf16 without profiles."""
    return ModelBuilder(name)


def accelerator(name: str, idle_watts: int = 20, max_watts: int = 1000, memory_mib: int = 80_000) -> AcceleratorClass:
    return AcceleratorClass(
        name=name,
        product_labels=(name,),
        memory_mib=memory_mib,
        compute_capability=90,
        precisions=("bf16", "int8"),
        idle_milliwatts=idle_watts * 1000,
        max_milliwatts=max_watts * 1000,
        source=SOURCE,
        dense_tflops_bf16=500,
    )


def catalogue_of(*models: ModelBuilder, classes: Sequence[AcceleratorClass] = ()) -> Catalogue:
    """The models, the classes that they were measured on, and the tasks that they do."""
    known = {it.name: it for it in classes}
    for name in sorted({profile.accelerator_class for it in models for profile in it.profiles}):
        known.setdefault(name, accelerator(name))
    built: dict[str, Model] = {}
    for it in models:
        one = it.build()
        before = built.get(it.name)
        built[it.name] = one if before is None else replace(before, variants=(*before.variants, *one.variants))
    tasks = {
        task: TaskFacts(task, BENCHMARK, 0, 0, it.generative, 100, 1, 500, None, None)
        for it in models
        for task in it.tasks
    }
    return Catalogue(built, known, tuple(profile for it in models for profile in it.profiles), tasks)


def stock(pool: str = "pool", **boards: int) -> tuple[Inventory, ...]:
    """Accelerators of one pool by class, all on one node."""
    return tuple(Inventory(pool, name, count, count) for name, count in sorted(boards.items()))


def cap(
    name: str,
    watts: int,
    *,
    parent: str = "",
    pool: str | None = None,
    namespaces: Sequence[str] | None = None,
    levers: tuple[str, ...] = ALL_LEVERS,
    enforce: bool = True,
    pause_lowest: bool = False,
) -> Cap:
    """A cap without tolerance or overhead: usable = watts."""
    return Cap(
        name=name,
        uid=f"uid-{name}",
        parent=parent,
        watts=watts,
        meter_tolerance_percent=0,
        overhead_watts=0,
        levers=levers,
        enforce=enforce,
        pause_lowest=pause_lowest,
        pool=pool,
        namespaces=None if namespaces is None else frozenset(namespaces),
    )


def snapshot(
    workloads: Sequence[WorkloadBuilder], catalogue: Catalogue, inventory: Sequence[Inventory], *caps: Cap
) -> Snapshot:
    return Snapshot(catalogue, build_cap_tree(caps), tuple(inventory), tuple(it.state() for it in workloads))


def option(
    name: str = "m",
    *,
    watts: float = 100,
    expected: float | None = None,
    replicas: int = 1,
    batch: int = 8,
    pool: str = "pool",
    accelerator_class: str = "gpu",
    precision: str = "bf16",
    capacity: float = 10,
    unserved: float = 0,
    shortfall: float = 0,
    boards: int = 1,
    limit_watts: int = 0,
) -> Option:
    """An option by hand, for tests that need no catalogue; `watts` is the worst case of all replicas together."""
    return Option(
        model=name,
        precision=precision,
        reasoning=Reasoning.OFF,
        accelerator_class=accelerator_class,
        accelerators_per_replica=boards,
        batch_limit=batch,
        replicas=replicas,
        pool=pool,
        engine="Native",
        expected_milliwatts=round((watts if expected is None else expected) * 1000),
        worst_case_milliwatts=round(watts * 1000),
        capacity_millirps=round(capacity * 1000),
        unserved_millirps=round(unserved * 1000),
        quality_centi=9000 - round(shortfall * 100),
        quality_shortfall_centi=round(shortfall * 100),
        millijoules_per_request=1000,
        latency_p95_ms=100,
        basis=Basis.MEASURED,
        board_limit_watts=limit_watts,
    )


def size(it: WorkloadBuilder, *models: ModelBuilder, running: Option | None = None, boards: int = 8) -> OptionSet:
    """Options of one workload on one node of the class `gpu`."""
    return options_for(it.build(), catalogue_of(*models), stock(gpu=boards), running)


def best(found: OptionSet) -> Option:
    """What would run alone."""
    return min(found.options, key=lambda o: (o.unserved_millirps, o.expected_milliwatts, o.id))
