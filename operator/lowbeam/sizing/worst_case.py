"""What one replica may draw at most under a batch limit: the figure that sizing plans with and the ledger charges.

Decides it once for both. With two figures, a decision alone would change what a running pod is charged, and make room
for others that does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowbeam.catalog.facts import AcceleratorClass, EnergyProfile


def worst_of_points(profile: EnergyProfile, accelerator: AcceleratorClass, unlimited: EnergyProfile) -> list[int]:
    """`worst_cases` of a profile, which may be that of boards under a power limit; `unlimited`: the one without.

    A limit never adds to what boards may draw without it, and its own uncertainty is one of throughput: the worst case
    is that of the same batch without a limit, cut off at the limit. Boards that confirm a limit are charged the same.
    """
    boards, each = max(1, profile.accelerators), accelerator.max_milliwatts
    if profile.board_limit_watts:
        each = min(each, profile.board_limit_watts * 1000)
    worst = worst_cases(unlimited, limit_milliwatts=each * boards, idle_milliwatts=accelerator.idle_milliwatts * boards)
    if profile is unlimited:
        return worst
    return [worst_case_at(unlimited, worst, point.batch) for point in profile.points]


def worst_cases(profile: EnergyProfile, *, limit_milliwatts: int, idle_milliwatts: int) -> list[int]:
    """Per point: the highest draw at its batch or below, with the upper end of the profile's uncertainty, rounded up.

    Never above the boards' limit (0 = unknown), and never below their idle draw.
    """
    found, worst = [], idle_milliwatts
    for point in profile.points:
        upper = -(-point.milliwatts * (100 + profile.uncertainty_percent) // 100)
        worst = max(worst, min(upper, limit_milliwatts or upper))
        found.append(worst)
    return found


def worst_case_at(profile: EnergyProfile, worst: Sequence[int], batch_limit: int | None) -> int:
    """That of the largest batch that a limit allows (None: any); that of the smallest one where it allows none."""
    points = zip(profile.points, worst, strict=True)
    return max((it for point, it in points if batch_limit is None or point.batch <= batch_limit), default=worst[0])


def raised(worst_milliwatts: int, percent: int, limit_milliwatts: int) -> int:
    """With what live watts say that the profile counts: as `measured_power.corrected` does for several replicas."""
    more = -(-worst_milliwatts * percent // 100)
    return max(worst_milliwatts, min(more, limit_milliwatts or more))
