"""One to five stars for energy: fixed bands of joules per request, per task, reasoning on and off apart.

Decides how many stars a figure earns, never which model is chosen. Unlike a rating between the best and the worst of a
list, a star here does not move when a model is added: the bands are constants of a version. Each band is 2.5 times as
wide as the one before it, because the measured spread within a task is two orders of magnitude.

Only measured and published figures earn stars; a modelled one is unrated (None), whatever it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lowbeam.catalog.facts import Basis, Reasoning

VERSION = "2026.11"
"""Changes when any band changes; shown wherever stars are."""

BEST = 5
WORST = 1
RATIO_PERCENT = 250

FIVE_STAR_MILLIJOULES: Mapping[tuple[str, bool], int] = MappingProxyType(
    {
        # (task, reasoning on): most millijoules per request of five stars.
        # Chat: the best published 8 B models answer for 28 to 47 J at an SLO of 50 ms/token.
        ("text-generation", False): 40_000,
        # Answers are 5 to 20 times as long: gpt-oss-20b at medium effort needs 69 to 109 J for one.
        ("text-generation", True): 200_000,
        # Completions are short: half of chat. Qwen3-Coder-30B-A3B needs 38 to 77 J.
        ("code-completion", False): 20_000,
        # One pass through an encoder of 100 M parameters at a good batch is a few hundredths of a joule.
        ("text-classification", False): 50,
        ("feature-extraction", False): 50,
    }
)


def stars(task: str, reasoning: Reasoning, millijoules_per_request: int, basis: Basis) -> int | None:
    """Five (best) to one; None = unrated: modelled, or a task without bands."""
    edge = FIVE_STAR_MILLIJOULES.get((task, reasoning is not Reasoning.OFF))
    if edge is None or basis is Basis.MODELLED:
        return None
    for rating in range(BEST, WORST, -1):
        if millijoules_per_request <= edge:
            return rating
        edge = edge * RATIO_PERCENT // 100
    return WORST


def bands(task: str, reasoning: Reasoning) -> tuple[int, ...]:
    """Most millijoules per request of five, four, three and two stars; empty where nothing is rated."""
    edge = FIVE_STAR_MILLIJOULES.get((task, reasoning is not Reasoning.OFF))
    edges: list[int] = []
    while edge is not None and len(edges) < BEST - WORST:
        edges.append(edge)
        edge = edge * RATIO_PERCENT // 100
    return tuple(edges)
