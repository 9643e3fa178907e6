"""Why an object of the catalogue was refused: the words and the value that carries them. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CatalogueReason(StrEnum):
    """One word per cause; the sentence beside it says what to do."""

    INVALID_FIELD = "InvalidField"
    """A field is missing, has the wrong type, or is out of its range (negative watts, NaN)."""
    DUPLICATE_ENTRY = "DuplicateEntry"
    """Two objects describe the same thing."""
    UNKNOWN_TASK = "UnknownTask"
    """The catalogue has no facts about the task."""
    UNKNOWN_MODEL = "UnknownModel"
    """A profile or an edge between models names a model that is neither built in nor a ModelCard."""
    UNKNOWN_BENCHMARK = "UnknownBenchmark"
    """A score names a benchmark that is neither built in nor defined by the ModelCard."""
    BENCHMARK_CONFLICT = "BenchmarkConflict"
    """A score or a definition has another metric or setting than the benchmark: they cannot be compared."""
    SCORE_OUT_OF_RANGE = "ScoreOutOfRange"
    """A score above the best there can be."""
    DOWNGRADE_CYCLE = "DowngradeCycle"
    """Stepping down from the model leads back to it."""
    UNKNOWN_VARIANT = "UnknownVariant"
    """The model exists, but not in this precision and reasoning mode."""
    UNKNOWN_ACCELERATOR_CLASS = "UnknownAcceleratorClass"
    """A profile names a class that is neither built in nor an AcceleratorClass."""
    PRECISION_NOT_SUPPORTED = "PrecisionNotSupported"
    """The accelerator class does not run this precision."""
    BATCHES_NOT_ASCENDING = "BatchesNotAscending"
    """Points are out of order."""
    THROUGHPUT_NOT_RISING = "ThroughputNotRising"
    """A larger batch serves no more requests per second than a smaller one."""
    ABOVE_POWER_LIMIT = "AbovePowerLimit"
    """More watts than the accelerators can draw."""
    WEIGHTS_DO_NOT_FIT = "WeightsDoNotFit"
    """The weights alone are larger than the memory of the accelerators."""


Objection = tuple[str, CatalogueReason, str]
"""(field, reason, message): why an object is refused, before it is known which."""


@dataclass(frozen=True, slots=True)
class CatalogueProblem:
    """One refused object: which, where in it, and what to do. The rest of the catalogue stays in force."""

    kind: str
    name: str
    field: str
    reason: CatalogueReason
    message: str

    def __str__(self) -> str:
        return (
            f"{self.kind}/{self.name}: {self.field}: {self.message}"
            if self.field
            else f"{self.kind}/{self.name}: {self.message}"
        )
