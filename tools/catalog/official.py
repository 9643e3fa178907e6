"""The AI Energy Score's own figures, from sources/ai-energy-score, as officialscores.json."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from lowbeam.catalog.facts import Reasoning
from tools.catalog.rows import csv_rows

ROUND = "2025-02"
"""The round that the carried primary rows belong to."""
ATTRIBUTION = "AI Energy Score (huggingface.co/AIEnergyScore): GPU Wh per 1,000 requests, one H100, batch 1"
TASKS = {
    "text_generation": "text-generation",
    "asr": "automatic-speech-recognition",
    "image_generation": "text-to-image",
}
"""Their task -> Hugging Face pipeline tag."""


def official_scores() -> dict[str, Any]:
    """Primary rows, by task and energy."""
    rows = [row for row in csv_rows("ai-energy-score/figures.csv") if row["confidence"] == "primary"]
    scores = [
        {
            "modelPath": row["model"],
            "task": TASKS[row["task"]],
            "sizeClass": row["class"],
            "reasoning": Reasoning.OFF.value,
            "wattHoursPerThousand": row["gpu_wh_per_1000"],
            "publishedStars": int(row["stars"]) if row["stars"] else None,
            "source": row["source"],
        }
        for row in rows
    ]
    scores.sort(key=lambda score: (str(score["task"]), Decimal(str(score["wattHoursPerThousand"]))))
    return {"attribution": ATTRIBUTION, "round": ROUND, "scores": scores}
