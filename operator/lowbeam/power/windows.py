"""A cap's recent power as a value: means for shedding, a maximum for restoring.

Decides which samples a figure may use. Never mixes samples from before and after a shed in one mean, so that no second
shed is decided on old data. The maximum does look across sheds: leaving a peak out would let watts back
early. A figure for which there is not enough history is None, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

KEEP_MS = 3_600_000
"""The longest restore window that the API allows."""


@dataclass(frozen=True, slots=True)
class PowerSample:
    """Measured milliwatts of everything under a cap at one time."""

    at_ms: int
    milliwatts: int


@dataclass(frozen=True, slots=True)
class PowerWindow:
    """The history of one cap, oldest first."""

    samples: tuple[PowerSample, ...] = ()
    began_ms: int | None = None
    """The first sample ever: after a start of the operator there is no history."""
    shed_ms: int | None = None
    """The last shed for the cap: means begin after it."""
    keep_ms: int = 60_000

    def append(self, at_ms: int, milliwatts: int) -> PowerWindow:
        """The window with one more sample; one that is not newer than the last replaces nothing and is left out."""
        if self.samples and at_ms <= self.samples[-1].at_ms:
            return self
        oldest = at_ms - min(self.keep_ms, KEEP_MS)
        kept = tuple(s for s in self.samples if s.at_ms > oldest)
        began = at_ms if self.began_ms is None else self.began_ms
        return replace(self, samples=(*kept, PowerSample(at_ms, milliwatts)), began_ms=began)

    def restarted(self, at_ms: int) -> PowerWindow:
        """The window after a shed at `at_ms`: no mean uses an older sample."""
        return replace(self, shed_ms=at_ms)

    def latest(self) -> int | None:
        """The last sample."""
        return self.samples[-1].milliwatts if self.samples else None

    def mean(self, seconds: int, now_ms: int) -> int | None:
        """Rounded-up mean of the last `seconds`; None until that long has passed since the last shed."""
        since = now_ms - seconds * 1000
        if self.began_ms is None or self.began_ms > since or (self.shed_ms is not None and self.shed_ms > since):
            return None
        inside = [s.milliwatts for s in self.samples if since < s.at_ms <= now_ms]
        return -(-sum(inside) // len(inside)) if inside else None

    def maximum(self, seconds: int, now_ms: int) -> int | None:
        """Largest sample of the last `seconds`; None until the history is that long or when the last sample is old."""
        since = now_ms - seconds * 1000
        if self.began_ms is None or self.began_ms > since:
            return None
        inside = [s.milliwatts for s in self.samples if since < s.at_ms <= now_ms]
        return max(inside) if inside else None
