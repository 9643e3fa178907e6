"""One emulated worker: what it draws, serves and keeps waiting, second by second.

Decides figures only; no sockets, no cluster, and time comes in as an argument. Part of the emulator (tests and demos
only).

How it is played
- A replica serves what is offered, up to the throughput of the profile at its batch limit; the rest waits in a queue of
  bounded length and is refused beyond it, as the worker does.
- Watts are the profile's at the running batch, down to the class's idle watts at no load; interpolated by the same
  functions as sizing uses, with a small seeded noise on top, because meters have one.
- A new batch limit is reached in a straight line over the settle time: requests that run already are finished.
- After its start a replica loads for a while: it draws watts like a busy one at batch 1 and serves nothing.
- Boards under a power limit draw no more than that. The settle time passes before a new limit has its effect.

Invariant: the parts of the energy add up to the counter.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from lowbeam.api.wire import (
    DeviceReading,
    EnergyParts,
    MeterMethod,
    MeterScope,
    ProfileChange,
    ProfileChangeResult,
    RunningProfile,
    WorkerState,
    WorkerTelemetry,
)
from lowbeam.sizing.operating_point import Curve, expected_milliwatts, running_batch

STEP_SECONDS = 0.5
"""Longest step of the integration; settle times are several of them."""
QUEUE_PER_SLOT = 4
"""Waiting requests per batch slot before new ones are refused."""
NOISE = 0.01
"""Standard deviation of the draw, as a share; three of them are the most that happens."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an emulated worker starts and changes."""

    start_seconds: float = 5.0
    settle_seconds: float = 2.0


class StaleGeneration(Exception):
    """A change with an older generation than the one in force, or another change under the same generation."""


class StillLoading(Exception):
    """A change before there is anything to change."""


@dataclass(slots=True)
class EmulatedReplica:
    """State of one worker. Call `advance` (or anything that takes `now`) with times that never go back."""

    namespace: str
    pod: str
    uid: str
    model: str
    precision: str
    reasoning: str
    curve: Curve | None
    """None: the catalogue has no profile for it; then its meter is unavailable and it serves nothing."""
    boards: int
    """Accelerators; 0 = it runs on the CPU."""
    pace: Pace
    started: float
    """Time of the start, on the clock of `now`."""
    first_batch_limit: int = 1
    """As it starts: another engine's flag, a worker's 1."""
    offered_rps: float = 0.0
    """Requests per second that arrive; changed by the fleet after `advance`."""
    tokens: tuple[int, int] = (0, 0)
    """Of a request and of its answer; 0 = it counts none."""
    draining: bool = False
    deaf: bool = False
    """Fault IgnoreControl: changes are acknowledged and not carried out."""

    _most_watts: float = field(init=False, default=float("inf"))
    """What its boards let it draw."""
    _coming: tuple[float, Curve | None, float] | None = field(init=False, default=None)
    """From when on it has another curve and may draw other watts."""
    _now: float = field(init=False)
    _limit: int = field(init=False)
    _claimed_limit: int = field(init=False)
    _generation: int = field(init=False, default=0)
    _last_change: tuple[ProfileChange, ProfileChangeResult] | None = field(init=False, default=None)
    _settle_from: float = field(init=False, default=1.0)
    _settle_until: float = field(init=False)
    _queue: float = field(init=False, default=0.0)
    _running: float = field(init=False, default=0.0)
    _watts: float = field(init=False, default=0.0)
    _joules: dict[str, float] = field(init=False)
    _received: float = field(init=False, default=0.0)
    _done: float = field(init=False, default=0.0)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._now = self._settle_until = self.started
        self._limit = self._claimed_limit = self.first_batch_limit
        self._joules = dict.fromkeys(("active", "idle", "load", "reconfigure"), 0.0)
        # Seeded by the pod's uid: the same pod draws the same noise in every run.
        self._random = random.Random(self.uid)  # noqa: S311 - noise of a meter

    # --- time --------------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Play until `now` under the load that was offered since the last call."""
        while self._now < now:
            self._turn()
            seconds = min(STEP_SECONDS, now - self._now, *self._until_a_change())
            self._step(seconds)
            self._now += seconds

    def _turn(self) -> None:
        if self._coming is not None and self._coming[0] <= self._now:
            (_, self.curve, self._most_watts), self._coming = self._coming, None

    def _until_a_change(self) -> list[float]:
        """Seconds to the ends of loading and of settling: no step spans one."""
        moments = [self.started + self.pace.start_seconds, self._settle_until]
        if self._coming is not None:
            moments.append(self._coming[0])
        return [moment - self._now for moment in moments if moment > self._now]

    def _step(self, seconds: float) -> None:
        state = self.state
        arriving = self.offered_rps * seconds if state in (WorkerState.READY, WorkerState.RECONFIGURING) else 0.0
        self._received += arriving
        if self.curve is None:
            return
        if state is WorkerState.LOADING:
            self._draw(float(np.interp(1.0, self.curve.batch, self.curve.milliwatts)) / 1000, "load", seconds)
            return
        limit = self._limit_at(self._now + seconds)
        capacity = float(np.interp(limit, np.r_[0.0, self.curve.batch], np.r_[0.0, self.curve.throughput]))
        served = min(arriving + self._queue, capacity * seconds)
        room = QUEUE_PER_SLOT * limit
        self._queue = min(self._queue + arriving - served, room)
        self._done += served
        rate = np.array([served / seconds])
        self._running = float(running_batch(self.curve, rate)[0])
        watts = float(expected_milliwatts(self.curve, rate)[0]) / 1000
        busy = "reconfigure" if state is WorkerState.RECONFIGURING else "active" if served > 0 else "idle"
        self._draw(watts, busy, seconds)

    def _draw(self, watts: float, part: str, seconds: float) -> None:
        noise = max(-3 * NOISE, min(3 * NOISE, self._random.gauss(0.0, NOISE)))
        self._watts = min(watts * (1 + noise), self._most_watts)
        self._joules[part] += self._watts * seconds

    def _limit_at(self, moment: float) -> float:
        if moment >= self._settle_until or self.pace.settle_seconds <= 0:
            return float(self._limit)
        left = (self._settle_until - moment) / self.pace.settle_seconds
        return self._limit + (self._settle_from - self._limit) * left

    # --- what it says ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> WorkerState:
        """Where the worker is in its life, at the time it was advanced to."""
        if self.draining:
            return WorkerState.DRAINING
        if self._now < self.started + self.pace.start_seconds:
            return WorkerState.LOADING
        return WorkerState.RECONFIGURING if self._now < self._settle_until else WorkerState.READY

    @property
    def accepts(self) -> bool:
        """Whether a share of the load goes here."""
        return self.state in (WorkerState.READY, WorkerState.RECONFIGURING)

    @property
    def latency_p95_ms(self) -> float | None:
        """p95 of the service at the running batch plus the time to work off the queue; None when nothing runs."""
        if self.curve is None or self._running <= 0:
            return None
        service = float(np.interp(self._running, self.curve.batch, self.curve.latency_p95_ms))
        capacity = float(np.interp(self._limit, np.r_[0.0, self.curve.batch], np.r_[0.0, self.curve.throughput]))
        return service + 1000 * self._queue / capacity

    def profile(self) -> RunningProfile:
        """What runs, as the worker reports it."""
        return RunningProfile(
            model=self.model,
            precision=self.precision,
            reasoning=self.reasoning,
            batch_limit=self._claimed_limit,
            generation=self._generation,
        )

    def drawn(self, now: float) -> tuple[float, float] | None:
        """Watts at `now`, and joules since the start; None without a meter."""
        self.advance(now)
        return None if self.curve is None else (self._watts, sum(self._joules.values()))

    def telemetry(self, now: float, unix_seconds: float, devices: tuple[DeviceReading, ...] = ()) -> WorkerTelemetry:
        """One sample at `now`, stamped `unix_seconds`, with the boards as the node tells them."""
        self.advance(now)
        metered = self.curve is not None
        total = sum(self._joules.values())
        return WorkerTelemetry(
            pod=self.pod,
            namespace=self.namespace,
            state=self.state,
            profile=self.profile(),
            method=MeterMethod.EMULATED if metered else MeterMethod.UNAVAILABLE,
            scope=MeterScope.NONE if not metered else MeterScope.DEVICE if self.boards else MeterScope.SHARED,
            sampled_at_seconds=unix_seconds,
            watts=self._watts if metered else None,
            devices=devices if metered else (),
            energy_joules=EnergyParts(**self._joules, counter=total) if metered else None,
            requests_running=round(self._running),
            requests_waiting=round(self._queue),
            requests_total=int(self._done),
            requests_received_total=int(self._received),
            input_tokens_total=int(self._done) * self.tokens[0],
            output_tokens_total=int(self._done) * self.tokens[1],
        )

    # --- what it is told ---------------------------------------------------------------------------------------------

    def run_on(self, curve: Curve | None, most_watts: float, *, settle: bool) -> None:
        """Serve by another curve and draw no more than so much; `settle`: after the settle time, else at once."""
        self._coming = (self._now + (self.pace.settle_seconds if settle else 0.0), curve, most_watts)
        self._turn()

    def change(self, wanted: ProfileChange, now: float) -> ProfileChangeResult:
        """Carry out a change as the worker does.

        The same change again gets the same answer. Raises StaleGeneration for an older generation, or for another
        change under the generation in force, and StillLoading before the worker is ready.
        """
        self.advance(now)
        if self._last_change is not None and wanted == self._last_change[0]:
            return self._last_change[1]
        if wanted.generation <= self._generation:
            raise StaleGeneration(f"generation {wanted.generation} is not newer than {self._generation}")
        if self.state is WorkerState.LOADING:
            raise StillLoading("the model is still loading; try again when the worker is ready")
        self._generation = wanted.generation
        changed = wanted.batch_limit is not None and wanted.batch_limit != self._claimed_limit
        if wanted.batch_limit is not None and changed:
            self._claimed_limit = wanted.batch_limit
            if not self.deaf:
                self._settle_from = self._limit_at(self._now)
                self._settle_until = self._now + self.pace.settle_seconds
                self._limit = wanted.batch_limit
        seconds = self.pace.settle_seconds if changed else 0.0
        result = ProfileChangeResult(profile=self.profile(), changed=changed, seconds=seconds)
        self._last_change = (wanted, result)
        return result
