"""ModelCard manifests from the carried tables of model facts, families and benchmark results.

A benchmark's metric and setting are those of `lowbeam.catalog.benchmarks`: a row that says otherwise stops the build,
so that no series can be mixed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from lowbeam.catalog.benchmarks import BENCHMARKS
from tools.catalog.rows import Manifest, Row, csv_rows, manifest, source

MODEL_FILES = ("models/models.csv", "models/other-models.csv")
"""Models of text with their shapes, and everything else: speech, vision, pictures, films, encoder-decoders."""
QUALITY_FILES = ("quality/language-models.csv", "quality/other-models.csv")

BYTES_PER_PARAMETER = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0}
"""mxfp4 checkpoints mix formats: their size is read, not computed."""

BYTES_OF_KEY_VALUE = 2
"""Engines keep the cache in 16 bits unless told otherwise, whatever the weights are in."""

SLIDING_WINDOW = ("gemma-3",)
"""Most layers look back on a window only, so the cache does not grow with the context: its size is not one number."""

MODES_OF_REASONING = {
    "Off": ("off", "na"),
    "Low": ("low",),
    "Medium": ("medium",),
    "High": ("high", "on"),
}
"""Which benchmark rows belong to a mode. `on` without a budget is High: nothing limits the thinking."""


@dataclass(frozen=True, slots=True)
class Tables:
    """What the cards are made of, by model or checkpoint."""

    quality: dict[str, list[Row]]
    predecessors: dict[str, list[str]]
    reasoning: dict[str, Row]


def model_rows() -> list[dict[str, str]]:
    """Every row of every table of models: one per checkpoint and precision."""
    return [row for file in MODEL_FILES for row in csv_rows(file)]


def model_cards() -> list[Manifest]:
    """All models, by name; rows of one name are its precisions."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in model_rows():
        by_name[row["name"]].append(row)
    quality: dict[str, list[Row]] = defaultdict(list)
    for row in (row for file in QUALITY_FILES for row in csv_rows(file)):
        quality[row["hf_id"]].append(_checked(row))
    tables = Tables(
        quality=quality,
        predecessors={row["name"]: row["predecessors"].split() for row in csv_rows("families/edges.csv")},
        reasoning={row["name"]: row for row in csv_rows("families/reasoning.csv")},
    )
    return [_card(name, by_name[name], tables) for name in sorted(by_name)]


def weights_mebibytes(row: Row, precision: str) -> int:
    """Read where the table has it, else parameters times bytes, rounded up."""
    if row["weights_mib"]:
        return int(row["weights_mib"])
    return math.ceil(float(row["total_m"]) * 1e6 * BYTES_PER_PARAMETER[precision] / 2**20)


def key_value_bytes_per_token(row: Row) -> int | None:
    """Cache of one token; None where the shape is unknown, for encoders, and where a window bounds the cache."""
    known = row["kv_heads"] and row["head_dim"] and row["generative"] == "yes"
    return kv_bytes_per_token(row) if known and not row["name"].startswith(SLIDING_WINDOW) else None


def kv_bytes_per_token(row: Row) -> int:
    """Cache of one token if every layer keeps it: a key and a value of each head."""
    return 2 * int(row["layers"]) * int(row["kv_heads"]) * int(row["head_dim"]) * BYTES_OF_KEY_VALUE


def _card(name: str, rows: list[Row], tables: Tables) -> Manifest:
    first = rows[0]
    spec: Manifest = {
        "modelPath": first["model_path"],
        "tasks": first["tasks"].split(),
        "licence": first["licence"],
        "totalParametersMillions": int(first["total_m"]),
        "activeParametersMillions": int(first["active_m"]),
        **({"contextTokens": int(first["context"])} if first["context"] else {}),
        **({"keyValueBytesPerToken": kv_bytes} if (kv_bytes := key_value_bytes_per_token(first)) else {}),
        "generative": first["generative"] == "yes",
        "variants": [
            {
                "precision": precision,
                "reasoning": reasoning,
                "weightsMebibytes": weights_mebibytes(row, precision),
                **({"modelPath": row["model_path"]} if row["model_path"] != first["model_path"] else {}),
                "quality": _quality(row, precision, reasoning, tables.quality),
            }
            for row in rows
            for precision in row["precision"].split()
            for reasoning in row["reasoning"].split()
        ],
    }
    if name in tables.reasoning:
        spec["reasoningControl"] = _control(tables.reasoning[name])
    if name in tables.predecessors:
        spec["predecessors"] = tables.predecessors[name]
    return manifest("ModelCard", name, spec | {"source": source(first["source"], first["date"], first["note"])})


def _control(row: Row) -> Manifest:
    values = [{"reasoning": mode.title(), "value": row[mode]} for mode in ("off", "low", "medium", "high") if row[mode]]
    parameter = {"parameter": row["parameter"]} if row["parameter"] else {}
    return {"switch": row["switch"], **parameter, "values": values}


def _checked(row: Row) -> Row:
    benchmark = BENCHMARKS[row["benchmark"]]
    if (row["metric"], row["setting"]) != (benchmark.metric, benchmark.setting):
        said = f"{row['metric']}, {row['setting']}"
        raise ValueError(
            f"{row['hf_id']}: {benchmark.name} is {benchmark.metric}, {benchmark.setting}; the row says {said}: "
            "another setting is another benchmark"
        )
    return row


def _quality(row: Row, precision: str, reasoning: str, quality: dict[str, list[Row]]) -> list[Manifest]:
    modes = MODES_OF_REASONING[reasoning]
    found = [q for q in quality[row["quality_id"]] if q["mode"] in modes]
    return [
        {
            "benchmark": q["benchmark"],
            "metric": q["metric"],
            "score": q["score"],
            **({} if q["confidence"] == "primary" else {"confidence": q["confidence"].title()}),
            "source": source(q["source"], q["source_date"].split()[0], _note(q, row, precision)),
        }
        for q in sorted(found, key=lambda q: q["benchmark"])
    ]


def _note(quality: Row, row: Row, precision: str) -> str:
    parts = [quality["note"]]
    if precision == "fp8" and row["model_path"].upper().endswith("FP8"):
        parts.append("not reported for the FP8 checkpoint itself")
    if precision == "bf16" and quality["setting"].endswith("fp32"):
        parts.append("reported for fp32 weights")
    return "; ".join(part for part in parts if part)
