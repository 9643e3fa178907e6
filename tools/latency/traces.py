"""Requests of real services, one by one: when each came and how long prompt and answer were.

Decides how the carried files under tools/traces are made from their sources and read. Source, licence and what was
changed: the README beside each file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TRACES = Path(__file__).parents[1] / "traces"
FILES = {
    "Azure conversation": TRACES / "azure" / "conversation.csv.gz",
    "Azure code": TRACES / "azure" / "code.csv.gz",
    "Mooncake conversation": TRACES / "mooncake" / "conversation.csv.gz",
}
_HEADER = ("arrival_ms", "input_tokens", "output_tokens")
_Row = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Trace:
    """One service; arrivals in seconds from the first request, growing."""

    name: str
    arrival: NDArray[np.float64]
    output_tokens: NDArray[np.float64]

    def rate(self) -> float:
        """Mean requests per second."""
        return float((self.arrival.size - 1) / self.arrival[-1])


def load(name: str) -> Trace:
    """One of FILES."""
    with gzip.open(FILES[name], "rt", encoding="utf-8", newline="") as lines:
        table = np.array([[int(cell) for cell in row] for row in list(csv.reader(lines))[1:]], dtype=np.float64)
    return Trace(name, table[:, 0] / 1000, table[:, 2])


def carry_azure(source: Path, target: Path) -> int:
    """Reduce a CSV of AzurePublicDataset; the number of requests."""
    with source.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in rows]
    begin = min(times)
    return _write(
        target,
        (
            (round((at - begin).total_seconds() * 1000), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
            for at, row in zip(times, rows, strict=True)
        ),
    )


def carry_mooncake(source: Path, target: Path) -> int:
    """Reduce a JSON-lines file of Mooncake; the number of requests."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    begin = min(row["timestamp"] for row in rows)
    return _write(target, ((row["timestamp"] - begin, row["input_length"], row["output_length"]) for row in rows))


def _write(target: Path, rows: Iterable[_Row]) -> int:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    ordered = sorted(rows)
    writer.writerows(ordered)
    target.write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))
    return len(ordered)
