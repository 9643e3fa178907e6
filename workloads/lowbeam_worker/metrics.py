"""What Prometheus sees: our `lowbeam_worker_*` series, and the `vllm:` names of the model-server protocol, so that
pickers, autoscalers and load generators made for those work unchanged. Joules per token is a query, not a series.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from lowbeam.api.wire import WorkerTelemetry
from lowbeam_worker.engines.base import EngineStats

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
Look = Callable[[], tuple[WorkerTelemetry, EngineStats | None]]


@dataclass(slots=True)
class Counts:
    """Totals since the start, for telemetry and metrics alike."""

    received: int = 0
    completed: int = 0
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    charged_joules: float = 0.0


class Metrics:
    """One registry per worker, so that two workers can live in one test process."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._registry = CollectorRegistry(auto_describe=False)
        self._end_to_end = Histogram(
            "vllm:e2e_request_latency_seconds",
            "From the request's arrival to its last token",
            ["model_name"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first_token = Histogram(
            "vllm:time_to_first_token_seconds",
            "From the request's arrival to its first token",
            ["model_name"],
            buckets=_SECONDS,
            registry=self._registry,
        )

        self._next_token = Histogram(
            "vllm:inter_token_latency_seconds",
            "From one token of an answer to the next",
            ["model_name"],
            buckets=_SECONDS,
            registry=self._registry,
        )

    def show(self, look: Look) -> None:
        """Read everything else at scrape time from `look`."""
        self._registry.register(_AtScrape(look, self.counts))

    def received(self) -> None:
        """A request arrived, whatever becomes of it: the offered load."""
        self.counts.received += 1

    def refused(self) -> None:
        """A request got an error."""
        self.counts.refused += 1

    def completed(
        self, model: str, input_tokens: int, output_tokens: int, seconds: float, joules: float | None
    ) -> None:
        """A request got its whole answer."""
        self.counts.completed += 1
        self.counts.input_tokens += input_tokens
        self.counts.output_tokens += output_tokens
        self.counts.charged_joules += joules or 0.0
        self._end_to_end.labels(model).observe(seconds)

    def first_token(self, model: str, seconds: float) -> None:
        """A decoder gave the first token of an answer."""
        self._first_token.labels(model).observe(seconds)

    def next_token(self, model: str, seconds: float) -> None:
        """A decoder gave one more token of an answer."""
        self._next_token.labels(model).observe(seconds)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class _AtScrape:
    def __init__(self, look: Look, counts: Counts) -> None:
        self._look = look
        self._counts = counts

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        now, stats = self._look()
        model = now.profile.model
        yield _gauge("lowbeam_worker_batch_limit", "Most requests or rows in one step", model, now.profile.batch_limit)
        yield _gauge("lowbeam_worker_ready", "1 when the worker takes traffic", model, float(now.state == "ready"))
        received = self._counts.received
        yield _counter("lowbeam_worker_requests_received", "Requests that arrived: the offered load", model, received)
        yield _counter(
            "lowbeam_worker_requests_refused", "Requests answered with an error", model, self._counts.refused
        )
        yield _counter("lowbeam_worker_cpu_seconds", "CPU time of this process", model, now.cpu_seconds_total)
        age = max(0.0, time.time() - now.sampled_at_seconds)
        yield _gauge("lowbeam_worker_sample_age_seconds", "Age of the last meter reading", model, age)
        method = InfoMetricFamily("lowbeam_worker_energy_method", "How joules are obtained")
        method.add_metric((), {"method": str(now.method), "scope": str(now.scope)})
        yield method
        if now.energy_joules is not None:
            family = CounterMetricFamily(
                "lowbeam_worker_energy_joules", "Device energy by what it was for", labels=["phase"]
            )
            for phase in ("active", "idle", "load", "reconfigure"):
                family.add_metric([phase], getattr(now.energy_joules, phase))
            yield family
            counter = now.energy_joules.counter
            yield _counter(
                "lowbeam_worker_energy_counter_joules", "Device counter's difference; sum of phases", model, counter
            )
            charged = self._counts.charged_joules
            yield _counter("lowbeam_worker_energy_charged_joules", "Joules stated in responses", model, charged)
        if now.watts is not None:
            yield _gauge("lowbeam_worker_power_watts", "Power of the worker's devices", model, now.watts)
        if stats is not None:
            yield _counter("lowbeam_worker_engine_restarts", "Deaths of the engine's loop", model, stats.restarts)
            if stats.padding_efficiency is not None:
                text = "Real tokens per computed token"
                yield _gauge("lowbeam_worker_padding_efficiency", text, model, stats.padding_efficiency)
        yield from _model_server_protocol(now, stats)


def _model_server_protocol(now: WorkerTelemetry, stats: EngineStats | None) -> Iterator[Metric]:
    """The names that vLLM gave them; `lora_requests_info` and others that we have no value for are left out."""
    model = now.profile.model
    label = "model_name"
    yield _gauge("vllm:num_requests_running", "Requests in the engine", model, now.requests_running, label)
    yield _gauge("vllm:num_requests_waiting", "Requests in the queue", model, now.requests_waiting, label)
    if stats is not None and stats.cache_usage is not None:
        yield _gauge("vllm:kv_cache_usage_perc", "Used share of the KV cache, 0 to 1", model, stats.cache_usage, label)
    yield _counter("vllm:prompt_tokens", "Tokens read", model, now.input_tokens_total, label)
    yield _counter("vllm:generation_tokens", "Tokens written", model, now.output_tokens_total, label)
    yield _counter("vllm:request_success", "Requests that got their whole answer", model, now.requests_total, label)


def _gauge(name: str, text: str, model: str, value: float, label: str = "model") -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    family.add_metric([model], value)
    return family


def _counter(name: str, text: str, model: str, value: float, label: str = "model") -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    family.add_metric([model], value)
    return family
