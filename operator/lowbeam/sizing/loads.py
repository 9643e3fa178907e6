"""Loads: the latency of every (profile, batch limit) at every load, and the rate that a replica may be given.

Decides how much a replica may be given so that all latency targets hold at p95 under arrivals of the observed
burstiness. Never above MAX_UTILISATION of what was measured. A target per token must hold with every slot taken; a
target for the first token or the whole answer must hold at the load that the replica is given.

Replicas of one workload share its arrivals: the more there are, the nearer each one's are to Poisson. Burstiness is
taken from the next smaller count of STEPS, so that a count is never judged calmer than it is.

Many shapes at once: the points of all of them lie end to end, and each call of numpy works on all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowbeam.sizing import latency
from lowbeam.sizing.curves import Curves
from lowbeam.sizing.requirements import Requirements

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

LEAST_UTILISATION = 0.1
"""A batch limit that keeps the target only on a replica idle for 90 % of the time is not worth offering."""
_LEAST_INDEX = latency.LOADS.index(LEAST_UTILISATION)
STEPS = (1, 4, 16)
"""Replica counts from which a workload's burstiness is spread over more of them."""


class Targets(NamedTuple):
    """Latency at p95 in ms; infinite where there is no target."""

    end_to_end: float
    first_token: float
    inter_token: float


@dataclass(frozen=True)
class Loads:
    """Curves of one or more shapes, and where their points lie in the latency tables of each one's burstiness."""

    table: latency.LatencyTable
    """Of both queues, or of the only one that occurs."""
    curves: Curves
    bounds: Ints
    """Per shape: its first profile, and the number of profiles at the end."""
    steps: Ints
    """Replica counts from which each layer of burstiness holds."""
    cells: latency.Cells
    """Of each point, in the first layer of its shape's burstiness."""
    delay: Floats
    """Sheets of DELAY_P95, by burstiness and layer, flattened."""
    own: Floats
    """Those of OWN_P95; empty where all answers come as a whole."""
    own_ms: Floats
    """p95 of a request's time in its slot with all slots taken; of an encoder, what comes on top of its delay."""
    encoder: Flags
    """Per point."""

    def first_tokens(self, layer: Ints, at: Ints) -> latency.Times:
        """p95 in ms from arrival to the first token, of points in a layer. An encoder's answer is its first token."""
        spot, weights = self._place(layer, at)
        service = self.curves.service_ms[at]
        after = np.where(self.encoder[at], self.own_ms[at], self.curves.first_token_ms[at])

        def times(index: Ints) -> Floats:
            found = self.table.read(self.delay, spot + index * self.table.corners, weights)
            found *= service
            found += after
            return found

        return times

    def answers(self, layer: Ints, at: Ints) -> latency.Times:
        """p95 in ms from arrival to the whole answer, of points in a layer."""
        table, (spot, weights) = self.table, self._place(layer, at)
        service, own = self.curves.service_ms[at], self.own_ms[at]

        def times(index: Ints) -> Floats:
            place = spot + index * table.corners
            found = table.read(self.delay, place, weights)
            found *= service
            if not self.own.size:
                found += own
                return found
            share = table.read(self.own, place, weights)  # 1 for encoders
            share *= own
            share += found
            return share

        return times

    @cached_property
    def fastest(self) -> tuple[Floats, Floats, Floats]:
        """Per profile, at the best of its points: p95 in ms between tokens, to the first one, of a whole answer."""
        curves = self.curves
        idle = np.zeros(1, dtype=np.int64)
        answers = self.answers(idle, np.arange(curves.batch.size))(idle)
        between, first, whole = (
            np.minimum.reduceat(times, curves.first[:-1])
            for times in (curves.inter_token_p95_ms, curves.first_token_ms, answers)
        )
        return between, first, whole

    def _place(self, layer: Ints, at: Ints) -> tuple[Ints, Floats]:
        """Where no load lies in the sheets, and the weights of its corners."""
        first = layer * (self.table.load.size * self.table.corners) + self.cells.corner[at]
        return first, self.cells.weights.take(at, axis=1)


@dataclass(frozen=True, slots=True)
class Capacities:
    """What one replica may be given under latency targets; 0 where it cannot keep them."""

    per_second: Floats
    """(steps, points)"""
    useful: Ints
    """Points whose capacity is above that of every smaller batch of the same profile, for some count of replicas."""
    bounds: Ints
    """Per shape: its first useful point, and their number at the end."""


def loads_of(curves: Curves, bounds: Ints, cvs: Sequence[float]) -> Loads:
    """The tables' place of every point for arrivals of each shape's burstiness."""
    encoder = curves.is_encoder[curves.of]
    alike = bool(encoder.all() or not encoder.any())
    table = latency.one_queue(bool(encoder.all())) if alike else latency.latency_table()
    distinct = {cv: number for number, cv in enumerate(sorted(set(cvs)))}
    steps = STEPS if max(cvs) > 1 else STEPS[:1]
    local = [latency.replica_cv(cv, step) for cv in distinct for step in steps]
    figures = [latency.DELAY_P95] if encoder.all() else [latency.DELAY_P95, latency.OWN_P95]
    delay, *own = (table.sheets(figure, local) for figure in figures)
    cells = table.cells(False if alike else encoder, curves.batch, curves.slope())
    burstiness = np.array([distinct[cv] for cv in cvs]).repeat(np.diff(curves.first[bounds]))
    # An encoder's delay holds the service itself: only what the measured p95 is above it comes on top.
    beyond = np.maximum(curves.latency_p95_ms - curves.service_ms, 0.0)
    return Loads(
        table=table,
        curves=curves,
        bounds=bounds,
        steps=np.array(steps, dtype=np.int64),
        cells=latency.Cells(cells.corner + burstiness * (len(steps) * table.load.size * table.corners), cells.weights),
        delay=delay,
        own=own[0] if own else np.zeros(0),
        own_ms=np.where(encoder, beyond, curves.latency_p95_ms),
        encoder=encoder,
    )


def spread_cv(cv: float, replicas: int) -> float:
    """The burstiness that a layer for so many replicas assumes at each of them."""
    return latency.replica_cv(cv, max(step for step in STEPS if step <= replicas)) if cv > 1 else 1.0


def targets_of(needs: Requirements) -> Targets:
    """The targets of a workload."""
    asked = (needs.end_to_end_ms, needs.time_to_first_token_ms, needs.inter_token_ms)
    return Targets(*(np.inf if it is None else float(it) for it in asked))


def capacities_of(loads: Loads, targets: Sequence[Targets]) -> Capacities:
    """The rate at which every target of its shape still holds at p95."""
    curves = loads.curves
    edges = curves.first[loads.bounds]
    whole, first, between = np.array(targets, dtype=np.float64).T.repeat(np.diff(edges), axis=1)
    able = np.flatnonzero(curves.inter_token_p95_ms <= between)
    load = np.zeros((loads.steps.size, curves.batch.size))
    load[:, able] = _highest_loads(loads, able, whole[able], first[able])
    per_second = load * curves.throughput
    useful = np.flatnonzero(_rises(curves, per_second))
    return Capacities(per_second, useful, useful.searchsorted(edges))


def _highest_loads(loads: Loads, able: Ints, whole: Floats, first: Floats) -> Floats:
    """(steps, able points): the highest load at which the targets for a request hold; 0 below LEAST_UTILISATION."""
    table, steps = loads.table, loads.steps.size
    layer, at = np.arange(steps).repeat(able.size), np.tile(able, steps)
    found = np.full(at.size, latency.MAX_UTILISATION)
    for times, limit in ((loads.answers, whole), (loads.first_tokens, first)):
        if np.isfinite(limit).any():
            highest = latency.highest_load(
                table,
                lambda some, times=times: times(layer[some], at[some]),  # type: ignore[misc]
                np.tile(limit, steps),
                _LEAST_INDEX,
            )
            np.minimum(found, highest, out=found)
    return found.reshape(steps, able.size)


def end_to_end_p95_ms(loads: Loads, layer: Ints, at: Ints, rate: Floats) -> Floats:
    """p95 from arrival to answer at `rate` per replica, by layer and point."""
    load = np.minimum(rate / loads.curves.throughput[at], latency.MAX_UTILISATION)
    index, share = latency.place_of_load(loads.table, load)
    low, high = loads.answers(layer, at)(np.stack([index, index + 1]))
    result: Floats = low + (high - low) * share
    return result


def _rises(curves: Curves, per_second: Floats) -> Flags:
    """Points whose capacity is above that of all smaller batches of the profile, in some layer."""
    profiles = curves.profile_count()
    result = np.zeros(curves.batch.size, dtype=np.bool_)
    highest = np.zeros(curves.rate_grid.shape)
    before, cells = curves.cell - profiles, highest.ravel()
    for capacity in per_second:
        cells[curves.cell] = capacity
        np.maximum.accumulate(highest, axis=0, out=highest)
        result |= capacity > cells.take(before)
    return result
