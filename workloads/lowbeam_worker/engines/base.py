"""What the front and the control port may ask of an engine, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One look at an engine. Counts of requests (decoder) or rows (encoder)."""

    running: int
    waiting: int
    restarts: int = 0
    """How often the engine's loop died and was started again."""
    cache_usage: float | None = None
    """Used share of the key-value cache; None for an encoder."""
    padding_efficiency: float | None = None
    """Real tokens per computed token since the start; None where nothing is padded."""


class Engine(Protocol):
    """A device loop in a thread of its own. Every method may be called from the event loop and returns at once."""

    @property
    def batch_limit(self) -> int:
        """Most requests (decoder) or rows (encoder) in one step."""

    @property
    def batch_limit_ceiling(self) -> int:
        """The highest batch limit that needs no restart."""

    @property
    def failed(self) -> str | None:
        """Why the engine gave up for good, or None."""

    def start(self) -> None:
        """Start the loop."""

    async def stop(self) -> None:
        """Stop it; requests still in it fail."""

    def set_batch_limit(self, limit: int) -> None:
        """From the next step on; what is running finishes."""

    def stats(self) -> EngineStats:
        """Counts right now."""
