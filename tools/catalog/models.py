"""ModelCard manifests from the carried tables of model facts and benchmark results."""

from __future__ import annotations

import math

from tools.catalog.rows import Manifest, Row, csv_rows, manifest, source

BYTES_PER_PARAMETER = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0}
"""mxfp4 checkpoints mix formats: their size is read, not computed."""

MODES_OF_REASONING = {
    "Off": ("off", "na"),
    "Low": ("low",),
    "Medium": ("medium",),
    "High": ("high", "on"),
}
"""Which benchmark rows belong to a mode. `on` without a budget is High: nothing limits the thinking."""


def model_cards() -> list[Manifest]:
    """All models, by name; rows of one name are its precisions."""
    quality = [*csv_rows("quality/language-models.csv"), *csv_rows("quality/other-models.csv")]
    by_name: dict[str, list[dict[str, str]]] = {}
    for row in csv_rows("models/models.csv"):
        by_name.setdefault(row["name"], []).append(row)
    return [_card(name, by_name[name], quality) for name in sorted(by_name)]


def weights_mebibytes(row: Row, precision: str) -> int:
    """Read where the table has it, else parameters times bytes, rounded up."""
    if row["weights_mib"]:
        return int(row["weights_mib"])
    return math.ceil(float(row["total_m"]) * 1e6 * BYTES_PER_PARAMETER[precision] / 2**20)


def _card(name: str, rows: list[dict[str, str]], quality: list[dict[str, str]]) -> Manifest:
    first = rows[0]
    variants = [
        {
            "precision": precision,
            "reasoning": reasoning,
            "weightsMebibytes": weights_mebibytes(row, precision),
            **({"modelPath": row["model_path"]} if row["model_path"] != first["model_path"] else {}),
            "quality": _quality(row, precision, reasoning, quality),
        }
        for row in rows
        for precision in row["precision"].split()
        for reasoning in row["reasoning"].split()
    ]
    return manifest(
        "ModelCard",
        name,
        {
            "modelPath": first["model_path"],
            "tasks": first["tasks"].split(),
            "licence": first["licence"],
            "totalParametersMillions": int(first["total_m"]),
            "activeParametersMillions": int(first["active_m"]),
            "contextTokens": int(first["context"]),
            "generative": first["generative"] == "yes",
            "variants": variants,
            "source": source(first["source"], first["date"], first["note"]),
        },
    )


def _quality(row: Row, precision: str, reasoning: str, quality: list[dict[str, str]]) -> list[Manifest]:
    modes = MODES_OF_REASONING[reasoning]
    found = [q for q in quality if q["hf_id"] == row["quality_id"] and q["mode"] in modes]
    return [
        {
            "benchmark": q["benchmark"],
            "metric": q["metric"],
            "score": q["score"],
            "source": source(q["source"], q["source_date"].split()[0], _note(q, precision)),
        }
        for q in sorted(found, key=lambda q: q["benchmark"])
    ]


def _note(row: Row, precision: str) -> str:
    parts = [row["setting"]]
    if row["confidence"] != "primary":
        parts.append(f"confidence: {row['confidence']}")
    if precision == "fp8" and "fp8" not in row["setting"].lower():
        parts.append("not reported for the FP8 checkpoint itself")
    if precision == "bf16" and "fp32" in row["setting"]:
        parts.append("reported for fp32 weights")
    return "; ".join(part for part in parts if part)
