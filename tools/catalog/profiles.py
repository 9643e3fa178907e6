"""The shape that all modelled EnergyProfiles share."""

from __future__ import annotations

from tools.catalog.published import CITATION
from tools.catalog.rows import Manifest, Row, manifest, profile_name, source

DATE = "2026-11-21"


def modelled(
    row: Row,
    precision: str,
    name: str,
    points: list[Manifest],
    *,
    task: str,
    accelerators: int,
    engine: str,
    lengths: tuple[int, int],
    uncertainty: int,
    note: str,
    reasoning: str = "Off",
) -> Manifest:
    """One profile of basis Modelled on class `name`; `lengths` are input and output tokens."""
    return manifest(
        "EnergyProfile",
        profile_name(row, precision, name, accelerators, task=task, reasoning=reasoning),
        {
            "model": row["name"],
            "precision": precision,
            "reasoning": reasoning,
            "task": task,
            "acceleratorClass": name,
            "accelerators": accelerators,
            "engine": engine,
            "inputTokens": lengths[0],
            "outputTokens": lengths[1],
            "points": points,
            "basis": "Modelled",
            "uncertaintyPercent": uncertainty,
            "source": source(f"computed by tools/catalog from {CITATION}", DATE, note),
        },
    )
