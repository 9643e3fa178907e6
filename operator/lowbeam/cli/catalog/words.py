"""Words and figures of `lowbeam catalog`: tables, units, sources, suggestions. Decides how a fact reads, not which."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from lowbeam.api.nearest import nearest
from lowbeam.catalog import stars
from lowbeam.catalog.facts import Basis, EnergyProfile, Reasoning, Source
from lowbeam.catalog.stars import BANDS
from lowbeam.errors import BadInput

Row = Sequence[str]

WIDTH = 80
THOUSAND = 1000
NONE = "-"
SHORTEST_NAME = 12
"""A first column is never cut below this."""
MOST_NAMED = 40
"""More names than these help nobody who reads an error."""
_HOW_TO_LIST = "`lowbeam catalog models`, `profiles`, `accelerators` and `tasks` list what there is (--name PATTERN)"


def table(head: Row, rows: Iterable[Row], indent: str = "") -> str:
    """Columns of equal width; the first one is cut with an ellipsis where a line would be longer than the screen."""
    lines = [head, *rows]
    widths = [max(len(row[column]) for row in lines) for column in range(len(head))]
    over = len(indent) + sum(widths) + 2 * (len(widths) - 1) - WIDTH
    widths[0] = max(SHORTEST_NAME, widths[0] - max(0, over))
    return "\n".join(
        (indent + "  ".join(_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in lines
    )


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 1] + "…"


def wrapped(text: str, indent: str = "") -> str:
    """Lines of at most 80 columns, the following ones indented a little more; names stay whole."""
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)


def thinking(reasoning: Reasoning) -> str:
    """What a label says about reasoning: nothing when it is off."""
    return "" if reasoning is Reasoning.OFF else f" {reasoning}"


def profile_label(profile: EnergyProfile) -> str:
    """Model, precision and reasoning of a profile."""
    return f"{profile.model} {profile.precision}{thinking(profile.reasoning)}"


def millions(number: int) -> str:
    """Parameters: 8030 -> 8.03B."""
    return f"{number / THOUSAND:.3g}B" if number >= THOUSAND else f"{number}M"


def score(centi: int | None) -> str:
    """A benchmark score."""
    return NONE if centi is None else f"{centi / 100:.1f}"


def joules(millijoules: int) -> str:
    """Joules of a request: two digits, or whole ones."""
    return f"{millijoules / 1000:.0f}" if millijoules >= 10_000 else f"{millijoules / 1000:.2g}"


def batches(profile: EnergyProfile) -> str:
    """From the smallest to the largest batch."""
    first, last = profile.points[0].batch, profile.points[-1].batch
    return f"{first}" if first == last else f"{first}-{last}"


def star_text(rating: int | None) -> str:
    """Stars, or a dash where a figure is unrated."""
    return NONE if rating is None else "*" * rating


def rating_of(profile: EnergyProfile, millijoules: int) -> int | None:
    """Stars of a profile at a point."""
    return stars(profile.task, profile.reasoning, millijoules, profile.basis)


def unrated_because(profile: EnergyProfile) -> str:
    """Why a figure of this profile has no stars; empty where it has."""
    if profile.basis is Basis.MODELLED:
        return "modelled figures earn no stars"
    if (profile.task, profile.reasoning is not Reasoning.OFF) not in BANDS:
        return f"{profile.task} has no bands for it"
    return ""


def basis(profile: EnergyProfile) -> str:
    """Published, Measured, or how far a modelled figure may be off."""
    return f"+-{profile.uncertainty_percent} %" if profile.basis is Basis.MODELLED else profile.basis.value


def cited(source: Source) -> str:
    """A source in one line."""
    note = f" ({source.note})" if source.note else ""
    return f"{source.citation}, {source.date}{note}"


def unknown(what: str, given: str, known: Iterable[str]) -> BadInput:
    """The error for a name that is not there: the nearest names, else all of them, or how to list what are too many."""
    names = list(known)
    near = nearest(given, names, n=3, cutoff=0.5) or [n for n in names if given.lower() in n.lower()][:3]
    everything = f"known: {', '.join(names)}" if len(names) <= MOST_NAMED else _HOW_TO_LIST
    hint = f"did you mean {', '.join(near)}?" if near else everything
    return BadInput(f"{what}{given} is not in the catalogue; {hint}")


def as_json(value: Any) -> str:
    """Indented JSON."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
