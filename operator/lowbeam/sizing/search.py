"""The nearest number that works, by trying: doubling (or halving) away from a wish, then bisection back towards it.

Decides nothing about workloads. `works` must hold for every number beyond one that works (a looser limit never takes an
option away); an answer is always a number that was tried.
"""

from __future__ import annotations

from collections.abc import Callable


def least_that(works: Callable[[int], bool], *, above: int, highest: int) -> int | None:
    """The least number above `above` that works, rounded up to two digits; None when not even `highest` does."""
    fails, enough = above, max(2 * above, above + 1)
    while enough < highest and not works(enough):
        fails, enough = enough, 2 * enough
    enough = min(enough, highest)
    if enough == highest and not works(highest):
        return None
    while enough - fails > 1:
        middle = (fails + enough) // 2
        fails, enough = (fails, middle) if works(middle) else (middle, enough)
    step = 10 ** max(0, len(str(enough)) - 2)
    rounded = min(-(-enough // step) * step, highest)
    return rounded if works(rounded) else enough


def most_that(works: Callable[[int], bool], *, below: int, lowest: int) -> int | None:
    """The greatest number below `below` that works, down to `lowest`; None when not even that does."""
    if below <= lowest or not works(lowest):
        return None
    enough, fails = lowest, below
    while fails - enough > 1:
        middle = (fails + enough) // 2
        enough, fails = (middle, fails) if works(middle) else (enough, middle)
    return enough
