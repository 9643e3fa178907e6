"""What the front and the control port may ask of an engine, whichever it is.

    submit, cancel     one request (decoder) or one row (encoder); their arguments differ, see the engines
    set_limits         at once, for the next step; drops nothing
    swap               change the weights between two steps, with everything in flight kept
    drain              take no more, finish what is inside
    stats              one look, cheap enough for every request

Every method is called from the event loop and returns at once or is awaited; the device runs in a thread of the engine.
A change that an engine cannot make in place (another model, another key-value dtype) is made by a second engine beside
the first: start it, send new requests there, `drain` and `stop` the old one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

from lowbeam_worker.energy.cost import Prices

Asked = ParamSpec("Asked")
Ticket = TypeVar("Ticket")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step may hold at most."""

    batch: int
    """Requests (decoder) or rows (encoder)."""
    step_tokens: int
    """Tokens: a longer prompt is read in pieces (decoder); tokens of a batch, with its padding where that is computed,
    except for a row that is longer than this and goes alone (encoder)."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One look at an engine. Counts of requests (decoder) or rows (encoder)."""

    running: int
    waiting: int
    restarts: int = 0
    """How often the engine's loop died and was started again."""
    cache_usage: float | None = None
    """Used share of the key-value cache; None for an encoder."""
    cache_tokens: int | None = None
    """Size of the key-value cache; None for an encoder."""
    cache_page_tokens: int | None = None
    """Tokens in a page of it; None for an encoder."""
    steps: int = 0
    """Steps since the start."""
    tokens: int = 0
    """Real tokens that went through steps since the start."""
    padded_tokens: int = 0
    """Tokens computed since the start, padding included; the same as `tokens` where nothing is padded."""
    prices: Prices | None = None
    """Measured cost of a decoder's step and tokens; None before enough steps were seen, and for an encoder."""

    @property
    def padding_efficiency(self) -> float | None:
        """Real tokens per computed token since the start; None before the first."""
        return self.tokens / self.padded_tokens if self.padded_tokens else None


class EngineClosedError(RuntimeError):
    """The engine drains, is stopped or gave up; the message says which. Another replica may answer."""


class EngineOf(Protocol[Asked, Ticket]):
    """A device loop in a thread of its own."""

    @property
    def limits(self) -> Limits:
        """In force from the next step on."""

    @property
    def ceilings(self) -> Limits:
        """The highest limits that need no restart: buffers are reserved for so many."""

    @property
    def failed(self) -> str | None:
        """Why the engine gave up for good, or None."""

    def start(self) -> None:
        """Start the loop."""

    async def stop(self) -> None:
        """Stop it; requests still in it fail."""

    def submit(self, *asked: Asked.args, **more: Asked.kwargs) -> Ticket:
        """Queue one piece of work. Raises EngineClosedError, or ValueError for work that would break the engine."""

    def cancel(self, ticket: Ticket) -> None:
        """Free its slot at once; does nothing for one that is over."""

    def set_limits(self, limits: Limits) -> None:
        """From the next step on; what is running finishes. Raises ValueError above the ceilings or below 1."""

    async def swap(self, change: Callable[[], None]) -> int:
        """Run `change`, which alters the model's weights in place, between two steps.

        Returns how many requests or rows were in the engine: they go on with the new weights. What `change` raises
        comes out here, with the engine running on whatever weights it left.
        """

    async def drain(self) -> None:
        """Take nothing new; return when nothing is inside any more."""

    def stats(self) -> EngineStats:
        """Counts right now."""


Engine = EngineOf[..., Any]
"""An engine of either kind."""


def check_limits(limits: Limits, ceilings: Limits) -> None:
    """Raises ValueError with the limit that is out of range."""
    for name, value, ceiling in (
        ("batch limit", limits.batch, ceilings.batch),
        ("tokens per step", limits.step_tokens, ceilings.step_tokens),
    ):
        if not 1 <= value <= ceiling:
            raise ValueError(f"{name} {value} is outside 1 to {ceiling}")
