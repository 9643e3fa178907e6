"""One worker: its state, its profile, its counters. What the two ports show and change.

    LOADING -> READY <-> RECONFIGURING    RECONFIGURING: new weights are put in; requests go on
         |       |
         |       +-> DRAINING             final: a drained worker is replaced, not revived
         +-> FAILED <-- any               the engine gave up; /health turns 503 so that the kubelet restarts the pod

Invariants: READY only after warm-up requests went through the engine; `generation` never decreases.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lowbeam.api.wire import (
    EnergyParts,
    RunningProfile,
    WorkerState,
    WorkerTelemetry,
)
from lowbeam_worker.energy.ledger import Account, Ledger, Parts
from lowbeam_worker.energy.meter import Meter
from lowbeam_worker.energy.statement import energy_headers, energy_statement
from lowbeam_worker.engines.base import Engine
from lowbeam_worker.limits import Admission, AnswerLimits
from lowbeam_worker.metrics import Metrics
from lowbeam_worker.options import Precision, WorkerOptions


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and joules of one answered request."""

    input_tokens: int
    output_tokens: int
    energy: dict[str, Any]

    def headers(self) -> dict[str, str]:
        """`X-Energy-*`; no joules header where there is no meter."""
        return energy_headers(self.energy)


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
        self.precision = options.precision
        self.answers = AnswerLimits(options.max_output_tokens, options.max_output_tokens)
        self.admission = Admission()
        self.generation = 0
        """Of the last accepted change."""
        self.reload: Callable[[Precision], Callable[[], None]] | None = None
        """Reads the weights anew, at another precision; what it gives puts them in. None: not for this model."""
        self.why_not_precision: Callable[[Precision], str] = lambda _: "the model is still loading"
        """Why the weights cannot be put in at a precision while requests run; empty: they can."""
        self.reconfiguring = False
        self.idle = asyncio.Event()
        """Set while no request is in flight."""
        self.idle.set()
        self.last_request_s = 0.0
        """When the newest request came, monotonic."""
        self._in_flight: dict[object, str] = {}
        self._loaded = False
        self._draining = False

    @property
    def state(self) -> WorkerState:
        """The readiness state machine."""
        if self._loaded and self.engine is not None and self.engine.failed:
            return WorkerState.FAILED
        if self._draining:
            return WorkerState.DRAINING
        if not self._loaded:
            return WorkerState.LOADING
        return WorkerState.RECONFIGURING if self.reconfiguring else WorkerState.READY

    @property
    def takes_requests(self) -> bool:
        """True from the end of the warm-up to the beginning of the end."""
        return self.state in {WorkerState.READY, WorkerState.RECONFIGURING}

    def why_not_ready(self) -> str:
        """For people who call /ready or /health."""
        failed = self.engine.failed if self.engine else None
        return failed or f"the worker is {self.state}"

    def ready(self, service: Any) -> None:
        """The warm-up is through; `service` answers requests from now on."""
        self.service = service
        self._loaded = True

    def enter(self, name: str) -> object:
        """A request came; in flight until the last byte of its answer is out. The result is for `leave`."""
        self.metrics.received()
        self.last_request_s = time.monotonic()
        ticket = object()
        self._in_flight[ticket] = name
        self.idle.clear()
        return ticket

    def leave(self, ticket: object) -> None:
        """Its answer is out, or its client left."""
        del self._in_flight[ticket]
        if not self._in_flight:
            self.idle.set()

    def requests_in_flight(self) -> tuple[str, ...]:
        """Names of the requests that are here, oldest first."""
        return tuple(self._in_flight.values())

    def drain(self) -> None:
        """No more traffic: new requests are refused, those in flight finish."""
        self._draining = True

    def profile(self) -> RunningProfile:
        """What runs now."""
        limits, writes = self.engine.limits if self.engine else None, self.options.task.writes
        return RunningProfile(
            model=self.options.model,
            precision=self.precision,
            batch_limit=limits.batch if limits else self.options.batch_limit,
            generation=self.generation,
            token_budget=limits.step_tokens if limits else None,
            default_output_tokens=self.answers.usual if writes else None,
            max_output_tokens=self.answers.longest if writes else None,
            default_thinking_tokens=self.answers.usual_thinking,
            max_thinking_tokens=self.answers.most_thinking,
            requests_per_second=self.admission.requests_per_second,
            power_budget_watts=self.admission.power_budget_watts,
        )

    def usage(self, account: Account, input_tokens: int, output_tokens: int, finished_reason: str = "stop") -> Usage:
        """Close a request's account and count it."""
        charge = self.ledger.charge(account, time.monotonic())
        self.metrics.completed(
            self.options.model,
            input_tokens,
            output_tokens,
            charge.elapsed_s,
            charge.joules,
            finished_reason=finished_reason,
        )
        return Usage(input_tokens, output_tokens, energy_statement(charge, self.meter))

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
