"""One worker: its state, its profile, its counters. What the two ports show and change.

    LOADING -> READY <-> RECONFIGURING    RECONFIGURING: other weights are loaded; requests go on
         |       |
         |       +-> DRAINING             final: a drained worker is replaced, not revived
         +-> FAILED <-- any               the engine gave up; /health turns 503 so that the kubelet restarts the pod

Invariants: READY only after warm-up requests went through the engine; a model takes requests only after its own
warm-up; `generation` never decreases.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from lowbeam.api.wire import (
    EnergyParts,
    RunningProfile,
    WorkerState,
    WorkerTelemetry,
)
from lowbeam_worker.energy.ledger import Account, Ledger, Parts, Phase
from lowbeam_worker.energy.meter import Meter
from lowbeam_worker.energy.statement import energy_headers, energy_statement
from lowbeam_worker.engines.base import Engine
from lowbeam_worker.limits import Admission, AnswerLimits
from lowbeam_worker.memory import give_back
from lowbeam_worker.metrics import Metrics
from lowbeam_worker.options import WorkerOptions
from lowbeam_worker.running import RunningModel, Service, Source, Ticket

log = logging.getLogger(__name__)


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
        self.running: RunningModel | None = None
        """The model that takes requests; None while the first one is loading."""
        self.started_at = int(time.time())
        self.runtime_bytes = 0
        """Resident before the first model."""
        self.answers = AnswerLimits(options.max_output_tokens, options.max_output_tokens)
        self.admission = Admission()
        self.generation = 0
        """Of the last accepted change."""
        self.reconfiguring = False
        self.idle = asyncio.Event()
        """Set while no request is in flight."""
        self.idle.set()
        self.last_request_s = 0.0
        """When the newest request came, monotonic."""
        self._in_flight: dict[Ticket, None] = {}
        self._retiring: dict[RunningModel, asyncio.Task[None]] = {}
        self._draining = False

    @property
    def source(self) -> Source:
        """What runs, or what is loading first."""
        given = self.options
        return self.running.source if self.running else Source(given.model, given.model_path, given.precision)

    @property
    def names(self) -> tuple[str, ...]:
        """Under which clients may ask: the name of what runs, and the one that stays whatever runs."""
        return tuple(dict.fromkeys(name for name in (self.source.name, self.options.served_name) if name))

    @property
    def engine(self) -> Engine | None:
        """Of the model that takes requests."""
        return self.running.engine if self.running else None

    @property
    def service(self) -> Service | None:
        """Routes of the model that takes requests."""
        return self.running.service if self.running else None

    @property
    def memory_promised_bytes(self) -> int:
        """What this process may grow to with the models that it has, where they run on the CPU."""
        models = [self.running, *self._retiring] if self.running else []
        return self.runtime_bytes + sum(model.footprint.peak_bytes for model in models)

    @property
    def retiring(self) -> int:
        """How many models are still here for requests that came before they were replaced."""
        return len(self._retiring)

    @property
    def state(self) -> WorkerState:
        """The readiness state machine."""
        if self.engine is not None and self.engine.failed:
            return WorkerState.FAILED
        if self._draining:
            return WorkerState.DRAINING
        if self.running is None:
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

    def take_over(self, fresh: RunningModel) -> None:
        """`fresh` has warmed up: every request from now on is its; the model of before finishes what it has."""
        self.metrics.serves(fresh.source.name, generates=self.options.task.generative)
        before, self.running = self.running, fresh
        if before is not None:
            task = asyncio.get_running_loop().create_task(self._retire(before, tuple(self._in_flight)))
            self._retiring[before] = task

    async def _retire(self, model: RunningModel, theirs: tuple[Ticket, ...]) -> None:
        """Stop a model when the last request that came under it has left, and give its memory back."""
        try:
            for ticket in theirs:
                await ticket.gone.wait()
            await model.engine.drain()
            with self.ledger.phase(Phase.RECONFIGURE):
                await model.engine.stop()
            log.info("%s at %s is unloaded", model.source.name, model.source.precision)
        finally:
            del self._retiring[model]
        del model
        await asyncio.to_thread(give_back)

    async def stop(self) -> None:
        """End every engine; requests in them fail."""
        retiring = list(self._retiring.items())
        for _, task in retiring:
            task.cancel()
        await asyncio.gather(*(task for _, task in retiring), return_exceptions=True)
        for model in (*(model for model, _ in retiring), self.running):
            if model is not None:
                await model.engine.stop()

    def enter(self, name: str) -> Ticket:
        """A request came; in flight until the last byte of its answer is out. The result is for `leave`."""
        self.metrics.received()
        self.last_request_s = time.monotonic()
        ticket = Ticket(name)
        self._in_flight[ticket] = None
        self.idle.clear()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Its answer is out, or its client left."""
        del self._in_flight[ticket]
        ticket.gone.set()
        if not self._in_flight:
            self.idle.set()

    def requests_in_flight(self) -> tuple[str, ...]:
        """Names of the requests that are here, oldest first."""
        return tuple(ticket.name for ticket in self._in_flight)

    def drain(self) -> None:
        """No more traffic: new requests are refused, those in flight finish."""
        self._draining = True

    def profile(self) -> RunningProfile:
        """What runs now."""
        limits, writes = self.engine.limits if self.engine else None, self.options.task.writes
        return RunningProfile(
            model=self.source.name,
            precision=self.source.precision,
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

    def usage(
        self, model: str, account: Account, input_tokens: int, output_tokens: int, finished_reason: str = "stop"
    ) -> Usage:
        """Close the account of a request that `model` has answered, and count it."""
        charge = self.ledger.charge(account, time.monotonic())
        self.metrics.completed(
            model,
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
        models = [self.running, *self._retiring] if self.running else []
        stats = [model.engine.stats() for model in models]
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
            requests_running=sum(one.running for one in stats),
            requests_waiting=sum(one.waiting for one in stats),
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
