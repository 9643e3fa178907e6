"""Reading the carried source files, and the words that all manifests share."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "sources"
API_VERSION = "lowbeam.dev/v1alpha1"

Row = Mapping[str, str]
Manifest = dict[str, Any]


def csv_rows(path: str) -> list[dict[str, str]]:
    """Rows of a CSV file below sources/."""
    with (SOURCES / path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def json_rows(path: str) -> list[dict[str, Any]]:
    """The `configurations` of an ML.ENERGY task file below sources/."""
    rows: list[dict[str, Any]] = json.loads((SOURCES / path).read_text(encoding="utf-8"))["configurations"]
    return rows


def manifest(kind: str, name: str, spec: Manifest) -> Manifest:
    """One object as `kubectl apply` takes it."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def source(citation: str, date: str, note: str = "") -> Manifest:
    """A Provenance; an empty note is left out."""
    return {"citation": citation, "date": date} | ({"note": note} if note else {})


def decimal_text(value: float, digits: int = 3) -> str:
    """A decimal number as the API writes it: no exponent, no trailing zeros."""
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def profile_name(
    row: Row, precision: str, accelerator_class: str, accelerators: int, *, task: str, reasoning: str = "Off"
) -> str:
    """`qwen3-8b-bf16-high-h100-x1`; the task is named only where it is not the model's first."""
    parts = [row["name"], precision]
    parts += [] if reasoning == "Off" else [reasoning.lower()]
    parts += [] if task == row["tasks"].split()[0] else [task]
    return "-".join([*parts, accelerator_class, f"x{accelerators}"])
