"""ServeGen: 14 days of request rates of 313 clients of three language models, in windows of ten minutes.

Decides how the carried file is read; who asks for what is `tools.backtest` and the latency checks. Source, licence and
what was changed: README.md in this folder.
"""

from __future__ import annotations

import csv
import lzma
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RATES = Path(__file__).with_name("rates.csv.xz")
WINDOW_SECONDS = 600
WINDOWS = 14 * 24 * 6
"""Fourteen days."""
WINDOWS_PER_DAY = 24 * 6


@dataclass(frozen=True, slots=True)
class Client:
    """One client of one model: what one InferenceWorkload would see."""

    model: str
    number: int
    requests: tuple[int | None, ...]
    """Per window. None: no client of the model sent anything, so nobody recorded: a gap, not a quiet ten minutes."""
    cv_percent: tuple[int | None, ...]
    """Coefficient of variation of the time between its requests; None where the source has none."""


@cache
def clients() -> tuple[Client, ...]:
    """All clients, by model and number; read once. Raises FileNotFoundError and lzma.LZMAError."""
    requests: dict[tuple[str, int], dict[int, int]] = {}
    spread: dict[tuple[str, int], dict[int, int]] = {}
    with lzma.open(RATES, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            key, window = (row["model"], int(row["client"])), int(row["window"])
            requests.setdefault(key, {})[window] = int(row["requests"])
            if row["cv_percent"]:
                spread.setdefault(key, {})[window] = int(row["cv_percent"])
    recorded: dict[str, set[int]] = {}
    for (model, _), windows in requests.items():
        recorded.setdefault(model, set()).update(windows)
    return tuple(
        Client(
            model=key[0],
            number=key[1],
            requests=tuple(requests[key].get(w, 0) if w in recorded[key[0]] else None for w in range(WINDOWS)),
            cv_percent=tuple(spread.get(key, {}).get(w) for w in range(WINDOWS)),
        )
        for key in sorted(requests)
    )
