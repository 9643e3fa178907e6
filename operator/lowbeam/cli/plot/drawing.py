"""How pictures look: colours, axes, labels that do not overlap, sources at the foot, the same bytes every time.

Decides style only. Colours are those of Okabe and Ito, told apart by colour-blind readers; in greyscale, markers and
line styles tell curves apart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import hypot
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from lowbeam.errors import BadInput

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#767676"
CURVES = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

WIDTH, HEIGHT, FOOT_LINE = 8.0, 4.8, 0.155
"""Inches."""
_FOOT = textwrap.TextWrapper(156, subsequent_indent="  ", break_on_hyphens=False)
HALO = withStroke(linewidth=2.5, foreground="white")
"""Keeps a text readable where a line passes behind it."""
FONT = "Lowbeam DejaVu Sans"
"""The copy that matplotlib ships. By its own name a machine's copy may be found, which has other glyph numbers."""
fontManager.ttflist += [
    FontEntry(
        fname=str(Path(mpl.get_data_path(), "fonts/ttf", file)),
        name=FONT,
        style="normal",
        variant="normal",
        weight=weight,
        stretch="normal",
        size="scalable",
    )
    for file, weight in (("DejaVuSans.ttf", 400), ("DejaVuSans-Bold.ttf", 700))
]
STYLE = {
    "font.family": FONT,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "lowbeam",
    "figure.dpi": 130,
    "savefig.dpi": 130,
}
styled = mpl.rc_context(STYLE)
"""Around a function that draws: a text takes its font when it is made, tick labels when the picture is written."""
GAP = 2.0
"""Pixels between two labels."""
NEAR = 14.0
"""Points from a mark within which a label needs no line to it."""


@dataclass(frozen=True, slots=True)
class Label:
    """A text beside a point, in data coordinates."""

    x: float
    y: float
    text: str
    colour: str = BLACK
    bold: bool = False


def canvas(title: str, subtitle: str, foot: Sequence[str]) -> tuple[Figure, Axes]:
    """A figure with room for the sources below the axes."""
    lines = [line for text in foot for line in _FOOT.wrap(text)]
    below = FOOT_LINE * len(lines) + 0.12
    height = HEIGHT + below
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.085, (below + 0.5) / height, 0.885, (HEIGHT - 1.12) / height))
    figure.text(0.02, 1 - 0.14 / height, title, fontsize=11, fontweight="bold", va="top")
    figure.text(0.02, 1 - 0.37 / height, subtitle, fontsize=8.5, color=GREY, va="top")
    figure.text(0.02, 0.06 / height, "\n".join(lines), fontsize=6.8, color=GREY, va="bottom", linespacing=1.35)
    axes.grid(visible=True, which="major", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def logarithmic(axes: Axes, which: str, ticks: Iterable[float] = ()) -> None:
    """A log axis with plain numbers: the given ticks, or 1, 2 and 5 of each decade that is shown."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    decades = [step * 10.0**power for power in range(-6, 10) for step in (1, 2, 5)]
    shown = [tick for tick in (ticks or decades) if low <= tick <= high]
    axis.set_ticks(shown)
    axis.set_ticks([], minor=True)
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def darker(colour: str) -> str:
    """The same colour for a text: light ones are hard to read in thin strokes."""
    red, green, blue = to_rgb(colour)
    return to_hex((red * 0.7, green * 0.7, blue * 0.7))


def plain(value: float) -> str:
    """A number without exponent: 0.05, 2, 1,500, 200k."""
    if value >= 100_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def place(
    figure: Figure,
    axes: Axes,
    labels: Sequence[Label],
    points: Sequence[tuple[float, float]],
    lines: Sequence[Sequence[tuple[float, float]]] = (),
) -> None:
    """Write each label where it covers neither an earlier one nor a point, nor a line if that can be helped.

    A thin line leads to a distant label.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    inside = axes.get_window_extent(renderer)
    dots = [_around(axes, x, y) for x, y in points]
    paths = [[(float(x), float(y)) for x, y in axes.transData.transform(line)] for line in lines]
    taken = [text.get_window_extent(renderer) for text in axes.texts]
    for label in labels:
        text = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=7.5,
            color=label.colour,
            fontweight="bold" if label.bold else "normal",
            va="center",
            path_effects=[HALO],
        )
        best: tuple[float, tuple[float, float], str] | None = None
        for distance, dx, dy, side in _candidates():
            text.set(ha=side)
            text.set_position((dx, dy))
            box = text.get_window_extent(renderer)
            cost = distance + 40 * sum(_overlap(box, other) for other in (*taken, *dots)) + 100 * _outside(box, inside)
            cost += 4 * sum(_crossed(box, path) for path in paths)
            if best is None or cost < best[0]:
                best = (cost, (dx, dy), side)
            if cost <= distance:
                break
        if best is None:  # pragma: no cover  # there is always a candidate
            continue
        _, (dx, dy), side = best
        text.set(ha=side)
        text.set_position((dx, dy))
        taken.append(text.get_window_extent(renderer))
        if hypot(dx, dy) > NEAR:
            axes.annotate(
                "",
                (label.x, label.y),
                xytext=(dx, dy),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 4},
            )


def _candidates() -> Iterable[tuple[float, float, float, str]]:
    """(distance, dx, dy, alignment), in points, the nearest first: right, left, above and below, then further out."""
    for ring in range(1, 9):
        up = 9.0 * ring
        for dx, dy, side in (
            (7.0, 0.0, "left"),
            (-7.0, 0.0, "right"),
            (0.0, up, "center"),
            (0.0, -up, "center"),
            (7.0 + 3 * ring, up, "left"),
            (7.0 + 3 * ring, -up, "left"),
            (-7.0 - 3 * ring, up, "right"),
            (-7.0 - 3 * ring, -up, "right"),
        ):
            if ring == 1 or dy:
                yield (abs(dx) + abs(dy)) / 10, dx, dy, side


def _around(axes: Axes, x: float, y: float) -> Bbox:
    centre_x, centre_y = axes.transData.transform((x, y))
    return Bbox.from_extents(centre_x - 5, centre_y - 5, centre_x + 5, centre_y + 5)


def _overlap(one: Bbox, other: Bbox) -> float:
    """Whether two boxes come nearer than the gap, weighted by how much."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0) + GAP
    height = min(one.y1, other.y1) - max(one.y0, other.y0) + GAP
    return float(1 + width * height / 100) if width > 0 and height > 0 else 0.0


def _crossed(box: Bbox, path: Sequence[tuple[float, float]]) -> int:
    """How many pieces of a line pass behind a box."""
    found = 0
    for (x0, y0), (x1, y1) in pairwise(path):
        steps = max(2, int(max(abs(x1 - x0), abs(y1 - y0)) / 6))
        walk = ((x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps) for step in range(steps + 1))
        found += any(box.x0 <= x <= box.x1 and box.y0 - GAP <= y <= box.y1 + GAP for x, y in walk)
    return found


def _outside(box: Bbox, frame: Bbox) -> float:
    beyond = max(frame.x0 - box.x0, box.x1 - frame.x1, frame.y0 - box.y0, box.y1 - frame.y1)
    return float(max(0.0, beyond))


def overlapping(figure: Figure, axes: Axes) -> list[tuple[str, str]]:
    """Pairs of labels that cover each other: empty in a good picture."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in axes.texts if text.get_text()]
    return [
        (one, other)
        for place_of_one, (one, box) in enumerate(boxes)
        for other, other_box in boxes[place_of_one + 1 :]
        if box.overlaps(other_box)
    ]


@styled
def save(figure: Figure, path: Path) -> None:
    """Write PNG or SVG without anything that changes from run to run."""
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    try:
        figure.savefig(path, metadata=metadata)
    except OSError as error:
        raise BadInput(f"--output: {path}: {error.strerror}; name a file that can be written") from error
