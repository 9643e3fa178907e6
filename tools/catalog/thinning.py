"""Fewer points per curve, with little lost: the catalogue is read at every start and sized at every plan.

Keeps both ends and the cheapest point. Of the others the one that a straight line between its neighbours describes best
(in logarithms) leaves first, so that knees stay.
"""

from __future__ import annotations

import math

from tools.catalog.rows import Manifest

MOST_POINTS = 10


def thinned(points: list[Manifest], most: int = MOST_POINTS) -> list[Manifest]:
    """At most `most` of the points of a curve, in their order."""
    kept = list(points)
    cheapest = min(points, key=_joules, default=None)
    while len(kept) > most:
        middle = [place for place in range(1, len(kept) - 1) if kept[place] is not cheapest]
        del kept[min(middle, key=lambda place: _bend(*kept[place - 1 : place + 2]))]
    return kept


def _joules(point: Manifest) -> float:
    return float(point["watts"]) / float(point["requestsPerSecond"])


def _bend(before: Manifest, point: Manifest, after: Manifest) -> float:
    """How far joules and latency of a point are from the line between its neighbours, in logarithms."""
    x0, x, x1 = (math.log(p["batch"]) for p in (before, point, after))
    share = (x - x0) / (x1 - x0)
    total = 0.0
    for figure in (_joules, _latency):
        y0, y, y1 = (math.log(figure(p)) for p in (before, point, after))
        total += abs(y - (y0 + share * (y1 - y0)))
    return total


def _latency(point: Manifest) -> float:
    return float(point["latencyP95Milliseconds"])
