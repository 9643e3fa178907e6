"""Columns that fit a width: which are shown, how wide each is, and how a text that is too long is cut.

Decides layout only. Pure. A width is counted in terminal cells: a CJK letter takes two.

Invariants: no line is wider than asked for; a figure is shown whole or not at all, as half a figure is a wrong one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import get_character_cell_size
from rich.text import Text

GAP = 2
"""Cells between columns."""
ELLIPSIS, ASCII_ELLIPSIS = "…", "~"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its cells, and what may be done to it when there is no room."""

    title: str
    cells: Sequence[Text]
    rank: int = 0
    """Columns with the highest rank go first when not all fit."""
    least: int | None = None
    """It may be cut down to so many cells; None: never."""
    most: int | None = None
    """It never gets more than this; None: as wide as its content."""
    right: bool = False
    middle: bool = False
    """Cut in the middle, where both ends tell names apart."""


def plain(text: str, *, unicode: bool = True) -> str:
    """One line without control characters: a text of others must not move the cursor or recolour the screen."""
    normal = unicodedata.normalize("NFC", text)
    kept = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in normal)
    kept = " ".join("".join(letter for letter in kept if not "\ufe00" <= letter <= "\ufe0f").split())
    return kept if unicode else kept.replace("…", "~").encode("ascii", "replace").decode("ascii")


def cells(text: str) -> int:
    """Terminal cells, at most: letter by letter, as terminals without support for joined ones count."""
    return sum(get_character_cell_size(letter) for letter in text)


def cut(text: str, width: int, *, middle: bool = False, unicode: bool = True) -> str:
    """`text` in at most `width` cells, with an ellipsis where something is missing."""
    if cells(text) <= width:
        return text
    if width <= 1:
        return (ELLIPSIS if unicode else ASCII_ELLIPSIS)[:width]
    mark = ELLIPSIS if unicode else ASCII_ELLIPSIS
    tail = (width - 1) // 2 if middle else 0
    return _first(text, width - 1 - tail) + mark + _first(text[::-1], tail)[::-1]


def clip(line: Text, width: int) -> Text:
    """A styled line in at most `width` cells."""
    kept = _first(line.plain, width)
    return line if len(kept) == len(line.plain) else line[: len(kept)]


def table(columns: Sequence[Column], width: int, *, unicode: bool = True, header: str = "bold") -> list[Text]:
    """A header and one line per row, in at most `width` cells."""
    shown = _chosen(columns, width)
    widths = _widths(shown, width)
    lines = [Text(style=header)] + [Text() for _ in range(len(columns[0].cells))]
    last = len(shown) - 1
    for position, (column, size) in enumerate(zip(shown, widths, strict=True)):
        for line, cell in zip(lines, (Text(column.title), *column.cells), strict=True):
            short = cell if cells(cell.plain) <= size else _cut_cell(cell, size, column, unicode=unicode)
            pad = " " * (size - cells(short.plain))
            line.append(" " * GAP if position else "")
            line.append(pad if column.right else "")
            line.append_text(short)
            line.append("" if column.right or position == last else pad)
    for line in lines:
        line.rstrip()
    return [clip(line, width) for line in lines]


def room_left(columns: Sequence[Column], width: int) -> int:
    """Cells that `table` would leave empty at the right."""
    shown = _chosen(columns, width)
    return max(0, width - sum(map(_content, shown)) - GAP * (len(shown) - 1))


def _cut_cell(cell: Text, size: int, column: Column, *, unicode: bool) -> Text:
    return Text(cut(cell.plain, size, middle=column.middle, unicode=unicode), style=cell.style)


def _first(text: str, width: int) -> str:
    used = 0
    for position, letter in enumerate(text):
        used += get_character_cell_size(letter)
        if used > width:
            return text[:position]
    return text


def _content(column: Column) -> int:
    widest = max((cells(cell.plain) for cell in column.cells), default=0)
    return max(cells(column.title), widest if column.most is None else min(widest, column.most))


def _least(column: Column) -> int:
    return _content(column) if column.least is None else min(column.least, _content(column))


def _chosen(columns: Sequence[Column], width: int) -> list[Column]:
    """Those that fit at their least width; the first one always stays."""
    shown = list(columns)
    while len(shown) > 1 and sum(map(_least, shown)) + GAP * (len(shown) - 1) > width:
        del shown[max(range(1, len(shown)), key=lambda position: shown[position].rank)]
    return shown


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """Least widths, and what is left to the columns from left to right."""
    sizes = [_least(column) for column in columns]
    left = width - sum(sizes) - GAP * (len(columns) - 1)
    for position, column in enumerate(columns):
        more = max(0, min(left, _content(column) - sizes[position]))
        sizes[position] += more
        left -= more
    return [min(size, width) for size in sizes]
