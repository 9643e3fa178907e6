"""One model in memory: what it was loaded from, the engine that runs it, and the routes that answer with it.

A worker has one that takes requests. While a model is changed there may be others: the next one, which warms up, and
those of before, which finish what they were asked.

Invariant: a request stays with the model that was running when it came, to its last byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from lowbeam_worker.engines.base import Engine
from lowbeam_worker.memory import Footprint
from lowbeam_worker.options import Precision

Handler = Callable[[Request], Awaitable[Response]]


class Service(Protocol):
    """What the front calls."""

    @property
    def routes(self) -> Mapping[str, Handler]:
        """Paths that it answers."""

    @property
    def max_tokens(self) -> int:
        """Longest input."""

    def model_type(self) -> dict[str, Any]:
        """What /info says about the kind of model."""

    async def warm_up(self) -> None:
        """One request of each shape through the engine, before anyone else's."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is loaded, and how."""

    name: str
    """Under which clients ask for it."""
    path: str
    """Where it is read from: see `models.py`."""
    precision: Precision


@dataclass(eq=False, slots=True)
class RunningModel:
    """A model with its engine around it; the engine is started by whoever built it."""

    source: Source
    """Its precision changes with the weights, in place."""
    engine: Engine
    service: Service
    footprints: Mapping[Precision, Footprint]
    """Memory that it needs at most at each precision, by what it is for."""
    random_weights: bool
    can_change_in_place: Callable[[Precision], bool]
    """Whether weights of a precision can be put in between two steps."""
    reload: Callable[[Precision], Callable[[], None]]
    """Reads the weights anew, at a precision; what it gives puts them in. Raises CannotLoadError."""

    @property
    def footprint(self) -> Footprint:
        """Memory that it needs at most as it runs now."""
        return self.footprints[self.source.precision]


class Ticket:
    """A request in flight."""

    __slots__ = ("gone", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.gone = asyncio.Event()
        """Set when the last byte of its answer is out, or its client left."""
