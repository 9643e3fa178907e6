"""The picture of `lowbeam top`: caps as bars, workloads as rows, what is wrong with the picture itself on top.

Decides what is said, in which order and in which colour. Pure: rows, a size and the time come in, lines go out. The
figures are the status' own, each with the time that the reader needs to judge it.

Invariants: at most `width` cells per line and `height` lines; what does not fit is counted, never silently left out;
colours repeat what words and signs say, so that nothing is lost without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.text import Text

from lowbeam.api.v1alpha1.powercap import CapState
from lowbeam.cli.top.rows import CapRow, WorkloadRow, depths, modelled
from lowbeam.cli.top.table import Column, cells, clip, cut, plain, room_left, table
from lowbeam.planning.words import watts as milliwatts_text

STYLES = {
    CapState.WITHIN_CAP.value: "green",
    CapState.RESTORING.value: "cyan",
    CapState.SHEDDING.value: "yellow",
    CapState.OVER_CAP.value: "bold red",
    CapState.INFEASIBLE.value: "bold red",
    CapState.BLIND.value: "bold magenta",
}
NOTE, ALARM, HEADER = "yellow", "bold red", "bold"
LONGEST_BAR, USUAL_BAR, SHORTEST_BAR = 40, 14, 8
NARROW = 60
"""Columns of a window below which bars and names may be shorter than usual."""
WIDE = 100
"""Columns of a window from which more figures may come before longer decisions."""
MODELLED = "~"
LEAST_ROWS = 3
"""Workloads that caps leave room for."""
LEAST_HEIGHT = 8
"""Lower windows show figures instead of the legend."""
SHORTEST_TITLE = 16
"""Where less is left beside the time, the time goes."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What was read of the cluster."""

    caps: tuple[CapRow, ...]
    workloads: tuple[WorkloadRow, ...]
    namespace: str | None
    """None: all."""
    caps_problem: str = ""
    """Why caps cannot be shown; empty when they can."""
    warning: str = ""
    """What is wrong with the picture as a whole: no connection, a silent operator."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where it is drawn."""

    now: datetime
    width: int
    height: int | None = None
    """None: as many lines as there are."""
    limit: int | None = None
    """Workloads at most."""
    unicode: bool = True
    keys: str = ""
    """Said in the last line: how to leave."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What a bar is drawn with."""

    measured: str
    committed: str
    free: str
    usable: str


UNICODE_SIGNS = Signs("█", "▒", "·", "│")
ASCII_SIGNS = Signs("#", "=", ".", "|")
PASSED = "!"
"""In the place of usable where more is measured."""


def lines(picture: Picture, frame: Frame) -> tuple[Text, ...]:
    """The whole picture."""
    head = [_title(picture, frame), *([_line(f"! {picture.warning}", frame, ALARM)] if picture.warning else [])]
    foot = [Text(), _legend(picture, frame)] if frame.height is None or frame.height >= LEAST_HEIGHT else []
    if frame.height is None:
        page = [*head, *_caps(picture, frame, None), *_workloads(picture, frame, None), *foot]
    else:
        room = frame.height - len(head) - len(foot)
        rows = min(LEAST_ROWS + 1, len(picture.workloads))  # the last of them may be the line that counts the rest
        caps = _caps(picture, frame, max(1, room - 2 - rows))
        body = [*caps, *_workloads(picture, frame, room - len(caps))]
        page = [*head, *body, *[Text()] * (room - len(body)), *foot][: frame.height]
    return tuple(clip(line, frame.width) for line in page)


def watts_text(watts: int | None) -> str:
    """`412 W`, `1.84 kW`; a dash for what is unknown."""
    return "-" if watts is None else "0 W" if watts == 0 else milliwatts_text(watts * 1000)


def ago(seconds: float) -> str:
    """How long something is ago, as kubectl says it: `40s`, `6m`, `3h`, `12d`."""
    whole = max(0, int(seconds))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def bar(row: CapRow, width: int, signs: Signs) -> str:
    """One bar in `width` signs: measured, committed, and how far the cap goes.

    `[` to `]` is the cap; the sign of `usable` stands where accelerators must stay. Beyond `]` is above the cap.
    """
    cap, measured, committed = row.cap_watts or 0, row.measured_watts or 0, row.committed_watts or 0
    inner = width - 2
    scale = max(cap, measured, committed)
    if inner < 1 or not scale:
        return "[" + " " * max(0, inner) + "]" if width >= 2 else ""
    end = cap * inner // scale
    usable = None if row.usable_watts is None else max(0, min(end - 1, row.usable_watts * inner // scale))
    over = row.usable_watts is not None and measured > row.usable_watts
    full = _filled(measured, scale, inner, usable, over=over)
    could = _filled(committed, scale, inner, usable, over=committed > (row.usable_watts or 0))
    drawn = []
    for place in range(inner):
        if place == end and end < inner:
            drawn.append("]")
        elif place == usable:
            drawn.append(PASSED if over else signs.usable)
        elif place < full:
            drawn.append(signs.measured)
        elif place < could:
            drawn.append(signs.committed)
        else:
            drawn.append(signs.free if usable is not None and place < usable else " ")
    return f"[{''.join(drawn)}{']' if end >= inner else ' '}"


def _filled(watts: int, scale: int, inner: int, usable: int | None, *, over: bool) -> int:
    """Places of the bar that are filled: never past the mark of usable by rounding, and past it when it is passed."""
    places = (2 * watts * inner + scale) // (2 * scale)
    if usable is not None:
        places = max(places, usable + 2) if over else min(places, usable)
    return max(places, 1) if watts else 0


def _title(picture: Picture, frame: Frame) -> Text:
    where = "all namespaces" if picture.namespace is None else f"namespace {picture.namespace}"
    clock = f"{frame.now:%H:%M:%S} UTC"
    said = f"{_sums(picture.workloads)}; {where}"
    space = frame.width - len(clock) - 2
    if space < SHORTEST_TITLE:
        return _line(said, frame, HEADER)
    left = cut(plain(said, unicode=frame.unicode), space, unicode=frame.unicode)
    return Text(f"{left}{' ' * (frame.width - cells(left) - len(clock))}{clock}", style=HEADER)


def _sums(rows: Sequence[WorkloadRow]) -> str:
    """`12 workloads: 3.21 kW (11 of 12 measured), 2 dimmed, 1 in trouble`."""
    known = [row.measured_watts for row in rows if row.measured_watts is not None]
    part = f" ({len(known):,} of {len(rows):,} measured)" if len(known) < len(rows) else " measured"
    sums = [f"{watts_text(sum(known))}{part}"] if known else []
    dimmed, stuck = sum(bool(row.lever) for row in rows), sum(bool(row.trouble) for row in rows)
    sums += [f"{count:,} {said}" for count, said in ((dimmed, "dimmed"), (stuck, "in trouble")) if count]
    count = "1 workload" if len(rows) == 1 else f"{len(rows):,} workloads"
    return f"{count}: {', '.join(sums)}" if sums else count


def _caps(picture: Picture, frame: Frame, room: int | None) -> list[Text]:
    """A blank line, the caps and their notes, in at most `room` lines."""
    if picture.caps_problem or not picture.caps:
        said = f"caps: {picture.caps_problem}" if picture.caps_problem else "no PowerCap: nothing limits the watts"
        return [Text(), _line(said, frame, NOTE if picture.caps_problem else "")][-min(2, room or 2) :]
    chosen, noted = list(picture.caps), True
    if room is not None:  # words go before caps, and caps without trouble before the others
        noted = _height(chosen, picture.caps, noted=True) <= room
        while len(chosen) > 1 and _height(chosen, picture.caps, noted=noted) > room:
            chosen.remove(min(reversed(chosen), key=lambda row: row.urgency))
    if room is not None and _height(chosen, picture.caps, noted=noted) > room:
        count = "1 cap" if len(picture.caps) == 1 else f"{len(picture.caps):,} caps"
        return [Text(), _line(f"... {count} not shown: the window is too low", frame)][-min(2, room or 2) :]
    drawn = _cap_table(chosen, depths(picture.caps), frame)
    found = [Text(), drawn[0]]
    for row, line in zip(chosen, drawn[1:], strict=True):
        found.append(line)
        found += [_line(f"  {row.note}", frame, NOTE)] if row.note and noted else []
    hidden = len(picture.caps) - len(chosen)
    return [*found, _line(f"... and {hidden:,} more {'cap' if hidden == 1 else 'caps'}", frame)] if hidden else found


def _height(chosen: Sequence[CapRow], everything: Sequence[CapRow], *, noted: bool) -> int:
    notes = sum(bool(row.note) for row in chosen) if noted else 0
    return 2 + len(chosen) + notes + (len(chosen) < len(everything))


def _cap_table(rows: Sequence[CapRow], under: Mapping[str, int], frame: Frame) -> list[Text]:
    colours = [STYLES.get(row.state, "") for row in rows]

    def figures(title: str, values: Sequence[int | None], rank: int) -> Column:
        return Column(title, [Text(watts_text(value)) for value in values], rank, right=True)

    def drawn(size: int) -> Column:
        bars = [Text(bar(row, size, signs), style=colour) for row, colour in zip(rows, colours, strict=True)]
        return Column("", bars, rank=3)

    signs = UNICODE_SIGNS if frame.unicode else ASCII_SIGNS
    step = "" if frame.width < NARROW else "  "
    names = [Text(step * min(under[row.name], 3) + plain(row.name, unicode=frame.unicode)) for row in rows]
    states = [
        Text(plain(row.state, unicode=frame.unicode) or "-", style=it) for row, it in zip(rows, colours, strict=True)
    ]
    least = SHORTEST_BAR if frame.width < NARROW else USUAL_BAR
    columns = [
        Column("POWERCAP", names, least=8, most=28, middle=True),
        drawn(least),
        figures("MEASURED", [row.measured_watts for row in rows], 1),
        figures("COMMITTED", [row.committed_watts for row in rows], 4),
        figures("USABLE", [row.usable_watts for row in rows], 6),
        figures("CAP", [row.cap_watts for row in rows], 5),
        Column("STATE", states, rank=2, least=10),
    ]
    columns[1] = drawn(min(LONGEST_BAR, least + room_left(columns, frame.width)))
    return table(columns, frame.width, unicode=frame.unicode, header=HEADER)


def _workloads(picture: Picture, frame: Frame, room: int | None) -> list[Text]:
    """A blank line, a header and the rows, in at most `room` lines; the last one counts what is not shown."""
    everything = len(picture.workloads)
    if not everything:
        where = "" if picture.namespace is None else f" in namespace {picture.namespace}; -A shows all namespaces"
        return [Text(), _line(f"no InferenceWorkload{where}", frame)]
    shown = everything if frame.limit is None else min(frame.limit, everything)
    if room is not None and shown + (shown < everything) > (rows_fit := max(0, room - 2)):
        shown = max(0, rows_fit - 1)
    drawn = [Text(), *_workload_table(picture.workloads[:shown], picture, frame)] if shown else []
    hidden = everything - shown
    counted = f"{hidden:,} {'more ' if shown else ''}{'workload' if hidden == 1 else 'workloads'} not shown"
    return [*drawn, _line(f"... and {counted}" if shown else counted, frame)] if hidden else drawn


def _workload_table(rows: Sequence[WorkloadRow], picture: Picture, frame: Frame) -> list[Text]:
    def column(title: str, texts: Sequence[str], **options: Any) -> Column:
        return Column(title, [Text(plain(it, unicode=frame.unicode) or "-") for it in texts], **options)

    names = [row.key if picture.namespace is None else row.name for row in rows]
    least = 12 if frame.width < NARROW else 20
    columns = [
        column("WORKLOAD", names, least=least, most=max(24, frame.width // 4), middle=True),
        column("READY", [_ready(row) for row in rows], rank=5, right=True),
        column("WATTS", [watts_text(row.measured_watts) for row in rows], right=True),
        column("COMMITTED", [watts_text(row.committed_watts) for row in rows], rank=7, right=True),
        column("J/REQ", [_joules(row) for row in rows], rank=2, right=True),
        column("STARS", ["*" * (row.stars or 0) for row in rows], rank=4),
    ]
    if any(row.lever for row in picture.workloads):
        levers = [Text(plain(row.lever, unicode=frame.unicode), style=NOTE) for row in rows]
        columns.append(Column("DIMMED", levers, rank=1))
    columns.append(column("MODEL", [f"{row.model} {row.precision}" for row in rows], rank=8, most=28, least=20))
    news = [Text(plain(_news(row, frame.now), unicode=frame.unicode), ALARM if row.trouble else "") for row in rows]
    columns.append(Column("LAST DECISION", news, rank=3, least=24 if frame.width < WIDE else 48))
    return table(columns, frame.width, unicode=frame.unicode, header=HEADER)


def _ready(row: WorkloadRow) -> str:
    if not row.enforced:
        return "advice"
    return "" if row.replicas is None else f"{row.ready_replicas or 0}/{row.replicas}"


def _joules(row: WorkloadRow) -> str:
    if row.joules_per_request is None:
        return ""
    return f"{MODELLED if modelled(row) else ''}{row.joules_per_request}"


def _news(row: WorkloadRow, now: datetime) -> str:
    """What keeps it from going on, else the last decision, else why there is none."""
    if row.trouble or row.decision is None:
        return row.trouble or row.waiting
    since = "" if row.decision.time is None else f"{ago((now - row.decision.time).total_seconds())} "
    return f"{since}{': '.join(part for part in (row.decision.action, row.decision.message) if part)}"


def _legend(picture: Picture, frame: Frame) -> Text:
    signs = UNICODE_SIGNS if frame.unicode else ASCII_SIGNS
    parts = [frame.keys] if frame.keys else []
    if picture.caps and not picture.caps_problem:
        parts.append(
            f"{signs.measured} measured  {signs.committed} committed  {signs.usable} usable ({PASSED} passed)  ] cap"
        )
    if any(modelled(row) for row in picture.workloads):
        parts.append(f"{MODELLED} modelled")
    return Text(cut("   ".join(parts), frame.width, unicode=frame.unicode), style="dim")


def _line(text: str, frame: Frame, style: str = "") -> Text:
    indent = len(text) - len(text.lstrip(" "))
    return Text(cut(" " * indent + plain(text, unicode=frame.unicode), frame.width, unicode=frame.unicode), style=style)
