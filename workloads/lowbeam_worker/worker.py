"""One worker: its state, its profile, its counters. What the two ports show and change.

    LOADING -> READY -> DRAINING      DRAINING is final: a drained worker is replaced, not revived
         \\-> FAILED <-/               FAILED: the engine gave up; /health turns 503 so that the kubelet restarts the
         pod

Invariants: READY only after a warm-up request went through the engine; `generation` never decreases.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from lowbeam.api.wire import (
    EnergyParts,
    MeterMethod,
    MeterScope,
    ProfileChange,
    ProfileChangeResult,
    RunningProfile,
    WorkerState,
    WorkerTelemetry,
)
from lowbeam_worker.energy.ledger import Account, Ledger, Parts, Phase
from lowbeam_worker.energy.meter import Meter
from lowbeam_worker.engines.base import Engine
from lowbeam_worker.metrics import Metrics
from lowbeam_worker.options import WorkerOptions

ATTRIBUTION = "step-time-by-tokens"
"""Name of the rule in energy/ledger.py by which a request gets its joules."""


class OldGenerationError(Exception):
    """A change that was decided before the one in force."""


class CannotChangeError(Exception):
    """A change that this worker cannot make; the message names the field and the limit."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and joules of one answered request."""

    input_tokens: int
    output_tokens: int
    energy: dict[str, Any]

    def headers(self) -> dict[str, str]:
        """`X-Energy-*`; no joules header where there is no meter."""
        joules = self.energy["joules"]
        return {"X-Energy-Method": self.energy["method"]} | (
            {} if joules is None else {"X-Energy-Joules": f"{joules:.6f}"}
        )


class Worker:
    """Shared by both ports; used from the event loop only, except for the engine, the ledger and the meter."""

    def __init__(self, options: WorkerOptions, ledger: Ledger, metrics: Metrics) -> None:
        self.options = options
        self.ledger = ledger
        self.metrics = metrics
        self.meter = Meter(None, ledger)
        self.engine: Engine | None = None
        self.service: Any = None
        """What the routes call: set when the model is loaded, see front/app.py."""
        self.random_weights = False
        self.started_at = int(time.time())
        self.in_flight = 0
        self.idle = asyncio.Event()
        """Set while no request is in flight."""
        self.idle.set()
        self._loaded = False
        self._draining = False
        self._generation = 0
        self._last_change: tuple[ProfileChange, ProfileChangeResult] | None = None

    @property
    def state(self) -> WorkerState:
        """The readiness state machine."""
        if self._loaded and self.engine is not None and self.engine.failed:
            return WorkerState.FAILED
        if self._draining:
            return WorkerState.DRAINING
        return WorkerState.READY if self._loaded else WorkerState.LOADING

    def why_not_ready(self) -> str:
        """For people who call /ready or /health."""
        failed = self.engine.failed if self.engine else None
        return failed or f"the worker is {self.state}"

    def ready(self, service: Any) -> None:
        """The warm-up is through; `service` answers requests from now on."""
        self.service = service
        self._loaded = True

    def enter(self) -> None:
        """A request came; in flight until the last byte of its answer is out."""
        self.metrics.received()
        self.in_flight += 1
        self.idle.clear()

    def leave(self) -> None:
        """Its answer is out, or its client left."""
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()

    def drain(self) -> None:
        """No more traffic: new requests are refused, those in flight finish."""
        self._draining = True

    def profile(self) -> RunningProfile:
        """What runs now."""
        return RunningProfile(
            model=self.options.model,
            precision=self.options.precision,
            batch_limit=self.engine.batch_limit if self.engine else self.options.batch_limit,
            generation=self._generation,
        )

    def change(self, wish: ProfileChange) -> ProfileChangeResult:
        """Carry out a change once; the same change again gets the same answer."""
        if self._last_change is not None and self._last_change[0] == wish:
            return self._last_change[1]
        if wish.generation <= self._generation:
            raise OldGenerationError(
                f"generation {wish.generation} is not newer than {self._generation}, in force with other values; "
                "read /control/profile and decide again"
            )
        if self.engine is None:
            raise CannotChangeError("the model is still loading; try again when /ready answers 200")
        limit = wish.batch_limit
        if limit is not None and limit > self.engine.batch_limit_ceiling:
            raise CannotChangeError(
                f"batchLimit {limit} is above {self.engine.batch_limit_ceiling}, the ceiling of this worker; "
                "ask for less or start it with a higher --batch-limit"
            )
        began, before = time.monotonic(), self.ledger.parts()
        changed = limit is not None and limit != self.engine.batch_limit
        if limit is not None and changed:
            with self.ledger.phase(Phase.RECONFIGURE):
                self.engine.set_batch_limit(limit)
        self._generation = wish.generation
        cost_mj = self.ledger.parts().reconfigure_mj - before.reconfigure_mj
        result = ProfileChangeResult(
            profile=self.profile(),
            changed=changed,
            seconds=time.monotonic() - began,
            joules=cost_mj / 1000 if self.meter.counts_energy else None,
        )
        self._last_change = (wish, result)
        return result

    def usage(self, account: Account, input_tokens: int, output_tokens: int) -> Usage:
        """Close a request's account and count it."""
        charge = self.ledger.charge(account, time.monotonic())
        metered = charge.joules is not None
        self.metrics.completed(self.options.model, input_tokens, output_tokens, charge.elapsed_s, charge.joules)
        return Usage(
            input_tokens,
            output_tokens,
            {
                "joules": charge.joules,
                "idle_joules": charge.idle_joules,
                "method": str(self.meter.method if metered else MeterMethod.UNAVAILABLE),
                "attribution": ATTRIBUTION if metered else None,
                "scope": str(self.meter.scope if metered else MeterScope.NONE),
                "window_s": charge.window_s,
            },
        )

    def telemetry(self) -> WorkerTelemetry:
        """One sample for the operator."""
        reading, counts = self.meter.last, self.metrics.counts
        stats = self.engine.stats() if self.engine else None
        return WorkerTelemetry(
            pod=self.options.pod,
            namespace=self.options.namespace,
            state=self.state,
            profile=self.profile(),
            method=self.meter.method,
            scope=self.meter.scope,
            sampled_at_seconds=reading.at_unix_s if reading else time.time(),
            watts=reading.watts if reading else None,
            devices=reading.devices if reading else (),
            energy_joules=_joules(self.ledger.parts()) if self.meter.counts_energy else None,
            requests_running=stats.running if stats else 0,
            requests_waiting=stats.waiting if stats else 0,
            requests_total=counts.completed,
            requests_received_total=counts.received,
            input_tokens_total=counts.input_tokens,
            output_tokens_total=counts.output_tokens,
            cpu_seconds_total=time.process_time(),
        )


def _joules(parts: Parts) -> EnergyParts:
    return EnergyParts(
        active=parts.active_mj / 1000,
        idle=parts.idle_mj / 1000,
        load=parts.load_mj / 1000,
        reconfigure=parts.reconfigure_mj / 1000,
        counter=parts.counter_mj / 1000,
    )
