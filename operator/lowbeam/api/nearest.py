"""Names that somebody may have meant. Decides what is near: capital letters never tell names apart."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(given: str, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> list[str]:
    """At most `n` of the known names that read most like the given one, the nearest first, in their own spelling."""
    spelt: dict[str, str] = {}
    for name in sorted(known):
        spelt.setdefault(name.lower(), name)
    return [spelt[name] for name in get_close_matches(given.lower(), spelt, n=n, cutoff=cutoff)]
