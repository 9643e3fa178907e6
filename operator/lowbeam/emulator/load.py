"""Offered load over time: a factor on every workload's declared load.

Decides how a trace file is read and which factor holds at a moment. Part of the emulator (tests and demos only).
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lowbeam.errors import BadInput


@dataclass(frozen=True, slots=True)
class LoadTrace:
    """Steps of (seconds since the start, factor), by growing time; before the first step the factor is 1."""

    seconds: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """A CSV file of `seconds,factor` lines; a header line is skipped. Raises BadInput that names the line."""
        try:
            lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
        except OSError as error:
            raise BadInput(f"load trace {path}: {error.strerror}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise BadInput(f"load trace {path}: is not CSV in UTF-8: {error}") from error
        steps: list[tuple[float, float]] = []
        for number, line in enumerate(lines, start=1):
            if not line or (number == 1 and line == ["seconds", "factor"]):
                continue
            try:
                second, factor = (float(cell) for cell in line)
            except ValueError:
                raise BadInput(
                    f'load trace {path}, line {number}: "{",".join(line)}" is not "seconds,factor"'
                ) from None
            if not (math.isfinite(second) and math.isfinite(factor) and factor >= 0):
                raise BadInput(
                    f"load trace {path}, line {number}: seconds and factor must be finite, factor at least 0"
                )
            if steps and second <= steps[-1][0]:
                raise BadInput(f"load trace {path}, line {number}: seconds must grow from line to line")
            steps.append((second, factor))
        if not steps:
            raise BadInput(f'load trace {path}: no steps; write lines of "seconds,factor", e.g. "0,1.0"')
        return cls(tuple(s for s, _ in steps), tuple(f for _, f in steps))

    def factor_at(self, second: float) -> float:
        """The factor of the last step at or before `second`; the last one holds for ever."""
        index = bisect_right(self.seconds, second)
        return self.factors[index - 1] if index else 1.0
