"""The AI Energy Score of others, shown beside Lowbeam's stars and never mixed with them.

Decides which published figure belongs to a model, and how the official rule turns a list into stars: five bins of equal
width between the least and the most of a class. The rule is here so that the difference to `stars` can be shown and
tested: it reproduces the published list, and one extreme model added to it moves everybody else's stars.

Never decides anything about workloads: the official figures are GPU energy at batch 1 on one H100, with ten output
tokens when reasoning is off, which is not the energy of a served request.

Invariant: a model has an official score only when exactly the published checkpoint is what it loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files

import orjson

from lowbeam.catalog.facts import Model, Reasoning

BINS = 5


@dataclass(frozen=True, slots=True)
class OfficialScore:
    """One row of the published list."""

    model_path: str
    """Hugging Face id of the checkpoint that was measured."""
    task: str
    size_class: str
    """A, B or C for text generation: models are rated within it; empty for other tasks."""
    reasoning: Reasoning
    milliwatt_hours_per_thousand: int
    """GPU energy of 1,000 requests at batch 1, thousandths of a watt hour."""
    published_stars: int | None
    """None where the source gives the energy only."""
    source: str


@dataclass(frozen=True, slots=True)
class OfficialList:
    """A round of the AI Energy Score."""

    attribution: str
    round: str
    """Year and month: official stars may move with every round."""
    scores: tuple[OfficialScore, ...]


@lru_cache(maxsize=1)
def load_official() -> OfficialList:
    """The list that ships with Lowbeam; read once per process."""
    raw = orjson.loads(files("lowbeam.catalog").joinpath("data", "officialscores.json").read_bytes())
    scores = tuple(
        OfficialScore(
            model_path=row["modelPath"],
            task=row["task"],
            size_class=row["sizeClass"],
            reasoning=Reasoning(row["reasoning"]),
            milliwatt_hours_per_thousand=round(Decimal(row["wattHoursPerThousand"]) * 1000),
            published_stars=row["publishedStars"],
            source=row["source"],
        )
        for row in raw["scores"]
    )
    return OfficialList(raw["attribution"], raw["round"], scores)


def official_score(model: Model, task: str, reasoning: Reasoning) -> OfficialScore | None:
    """What was published for exactly this checkpoint, task and reasoning mode; None where nothing was."""
    path = (model.model_path or model.name).lower()
    return next(
        (
            score
            for score in load_official().scores
            if (score.model_path.lower(), score.task, score.reasoning) == (path, task, reasoning)
        ),
        None,
    )


def equal_width_stars(energies: Sequence[int]) -> list[int]:
    """Stars of each by the official rule, relative to the others of its class; any unit of energy.

    Five bins of equal width between the least and the most, each with its upper edge.
    """
    if not energies:
        return []
    least, span = min(energies), max(energies) - min(energies)
    return [BINS if energy == least else BINS + 1 - -(-(energy - least) * BINS // span) for energy in energies]
