"""Misses: why a profile that passed the filters has no way, in words with the figure that missed.

Decides which ways a limit of joules or watts takes away. Latency targets and memory are asked in `sizing.loads` and
`sizing.ways`; here it is only said which of them it was.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lowbeam.api.v1alpha1 import reasons
from lowbeam.sizing.feasibility import Miss
from lowbeam.sizing.loads import Loads
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.ways import Ways
from lowbeam.sizing.words import above

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def within_limits(needs: Requirements, ways: Ways, joules: Floats) -> tuple[Ways, dict[int, Miss]]:
    """The ways of one workload within its limits, and the profiles that lose all of theirs; `joules` by way, in mJ."""
    if needs.max_millijoules_per_request is None and needs.max_milliwatts is None:
        return ways, {}
    profile, misses = ways.profile, {}
    keep = np.ones(profile.size, dtype=np.bool_)
    if needs.max_millijoules_per_request is not None:
        keep &= joules <= needs.max_millijoules_per_request
        for row in np.setdiff1d(profile, profile[keep]):
            misses[int(row)] = _too_much_energy(needs, float(joules[profile == row].min()))
    if needs.max_milliwatts is not None:
        before, keep = keep, keep & (ways.worst <= needs.max_milliwatts)
        for row in np.setdiff1d(profile[before], profile[keep]):
            misses[int(row)] = _too_many_watts(needs, float(ways.worst[before & (profile == row)].min()))
    return Ways(*(getattr(ways, name)[keep] for name in Ways.__slots__)), misses


def misses_of(needs: Requirements, context_room: Ints, ways: Ways, loads: Loads, shape: int) -> dict[int, Miss]:
    """Why profiles (by their row among what passed) have no way, if it is not for a limit of joules or watts.

    `context_room` is by profile; `shape` is the workload's in `loads`.
    """
    without = np.flatnonzero(np.bincount(ways.profile, minlength=context_room.size) == 0).tolist()
    first = int(loads.bounds[shape])
    return {
        row: _too_long(needs, loads, first + row, int(context_room[row]))
        or _too_slow(needs, *(float(times[first + row]) for times in loads.fastest))
        for row in without
    }


def _too_long(needs: Requirements, loads: Loads, profile: int, room: int) -> Miss | None:
    """Whether not even the smallest measured batch of such requests fits into the memory."""
    batch = int(loads.curves.batch[loads.curves.first[profile]])
    tokens = needs.demand.input_tokens + needs.demand.output_tokens
    if batch * tokens <= room:
        return None
    text = f"memory beside the weights holds {room} tokens of context, a batch of {batch} needs {batch * tokens}"
    return Miss(reasons.OUT_OF_MEMORY, f"{text} (spec.load)")


def _too_slow(needs: Requirements, between: float, first: float, whole: float) -> Miss:
    """Which target is missed at the point that comes nearest."""
    if needs.inter_token_ms is not None and between > needs.inter_token_ms:
        figure = f"{above(between, needs.inter_token_ms, 1)} ms per token > {needs.inter_token_ms} ms"
    elif needs.time_to_first_token_ms is not None and first > needs.time_to_first_token_ms:
        figure = f"first token {above(first, needs.time_to_first_token_ms, 1)} ms > {needs.time_to_first_token_ms} ms"
    elif needs.end_to_end_ms is not None and whole > needs.end_to_end_ms:
        figure = f"end to end {above(whole, needs.end_to_end_ms, 1)} ms > {needs.end_to_end_ms} ms"
    else:
        return Miss(
            reasons.TOO_SLOW,
            "each batch meets some of the latency targets and misses another, or leaves no time for a queue (p95)",
        )
    return Miss(reasons.TOO_SLOW, f"{figure} (p95, at the fastest measured batch)")


def _too_much_energy(needs: Requirements, least_millijoules: float) -> Miss:
    limit = (needs.max_millijoules_per_request or 0) / 1000
    least = above(least_millijoules / 1000, limit)
    text = f"{least} J per request > {limit:.12g} J (spec.energy.maxJoulesPerRequest)"
    return Miss(reasons.TOO_MUCH_ENERGY, text)


def _too_many_watts(needs: Requirements, least_milliwatts: float) -> Miss:
    limit = (needs.max_milliwatts or 0) / 1000
    least = above(least_milliwatts / 1000, limit, 1)
    text = f"{least} W at its batch limit > {limit:.12g} W (spec.energy.maxWatts)"
    return Miss(reasons.TOO_MANY_WATTS, text)
