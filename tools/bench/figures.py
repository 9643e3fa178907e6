"""How figures look: quantiles, tables and the sections that hold them. Decides nothing about what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MISSING = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a header; the first column names the row, the others are figures."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As docs show it."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        return "\n".join("| " + " | ".join(line) + " |" for line in (self.header, rule, *self.rows))

    def text(self) -> str:
        """As a terminal shows it."""
        widths = [max(len(line[i]) for line in (self.header, *self.rows)) for i in range(len(self.header))]
        lines = []
        for line in (self.header, ["-" * width for width in widths], *self.rows):
            first, *others = (
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            lines.append("  ".join([first, *others]))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Section:
    """What one benchmark found: what was done in a few sentences, tables, and remarks on them."""

    title: str
    about: str
    tables: Sequence[Table]
    remarks: Sequence[str] = field(default=())

    def markdown(self) -> str:
        """Without the title, which is the document's."""
        parts = [self.about, *(table.markdown() for table in self.tables)]
        if self.remarks:
            parts.append("\n".join(f"- {remark}" for remark in self.remarks))
        return "\n\n".join(parts)

    def text(self) -> str:
        """With the title, for a terminal."""
        remarks = "\n".join(f"- {remark}" for remark in self.remarks)
        parts = [f"== {self.title}", self.about, *(table.text() for table in self.tables), remarks]
        return "\n\n".join(part for part in parts if part)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; never between two of them."""
    if not values:
        raise ValueError("no values: a quantile of nothing is unknown, not 0")
    ordered = sorted(values)
    rank = -(-round(share * 1000) * len(ordered) // 1000)  # ceil, in integers
    return ordered[max(0, min(len(ordered), rank) - 1)]


def spread(values: Sequence[float | None], digits: int = 1) -> list[str]:
    """p50, p99 and maximum; a None is an attempt that did not get there, and stands above every number."""
    if not values:
        return [MISSING] * 3
    seen = [float("inf") if value is None else value for value in values]
    return [number(found, digits) for found in (quantile(seen, 0.5), quantile(seen, 0.99), max(seen))]


def number(value: float | None, digits: int = 1) -> str:
    """A figure with so many digits after the point; "never" for infinity, a dash for unknown."""
    if value is None:
        return MISSING
    return "never" if value == float("inf") else f"{value:.{digits}f}"


def bucket_quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Upper bound of the histogram bucket that holds the quantile; None without observations.

    `buckets` are (upper bound, cumulative count), as Prometheus counts them.
    """
    ordered = sorted(buckets)
    if not ordered or ordered[-1][1] <= 0:
        return None
    wanted = share * ordered[-1][1]
    return next(bound for bound, count in ordered if count >= wanted)
