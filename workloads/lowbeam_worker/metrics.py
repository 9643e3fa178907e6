"""What Prometheus sees: our `lowbeam_worker_*` series, and the `vllm:` names of the model-server protocol, so that
pickers, autoscalers and load generators made for those work unchanged. Joules per token is a query, not a series.

The `vllm:` names, labels and buckets are those of vLLM's `vllm/v1/metrics/loggers.py` (V1 engine; the deprecated
`gpu_cache_usage_perc` and `time_per_output_token_seconds` are gone there, and absent here). Names that we have no value
for are left out rather than shown as 0. Histograms carry the trace id of a request that came with a `traceparent`
header as an exemplar, for scrapers that accept OpenMetrics. What is counted of a request stands in its span as well,
where it has one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics

from lowbeam.api.wire import WorkerState, WorkerTelemetry
from lowbeam_worker.energy.meter import Meter
from lowbeam_worker.engines.base import EngineStats
from lowbeam_worker.tracing import note

FRESH_SECONDS = 10.0
"""Older watts have no series: to Prometheus, a figure is as old as its scrape."""
FIRST_TOKEN_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
TOKEN_SECONDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
    *(1920.0, 7680.0),
)
TOKENS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))[:-2]
"""1, 2, 5 to 100000, as vLLM makes them for a context of that length."""
OWN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""vLLM's request buckets begin at 0.3 s, above most answers of an encoder."""
ENGINE = "0"
"""vLLM numbers its engines; this worker has one."""
LABELS = ("model_name", "engine")

TRACE: ContextVar[str | None] = ContextVar("trace", default=None)
"""Trace id of the request in hand, set by the front."""
_TAKES_REQUESTS = {WorkerState.READY, WorkerState.RECONFIGURING}
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

Look = Callable[[], tuple[WorkerTelemetry, EngineStats | None, Meter]]


def trace_id(traceparent: str | None) -> str | None:
    """The trace id in a W3C `traceparent` header, or None."""
    found = _TRACEPARENT.fullmatch((traceparent or "").strip())
    return found.group(1) if found and int(found.group(1), 16) else None


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
        self._seconds = self._histogram("lowbeam_worker_request_seconds", "Arrival to last byte", OWN_SECONDS)
        self._end_to_end = self._histogram(
            "vllm:e2e_request_latency_seconds", "From the request's arrival to its last token", REQUEST_SECONDS
        )
        self._first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "From the request's arrival to its first token", FIRST_TOKEN_SECONDS
        )
        self._next_token = self._histogram(
            "vllm:inter_token_latency_seconds", "From one token of an answer to the next", TOKEN_SECONDS
        )
        self._per_token = self._histogram(
            "vllm:request_time_per_output_token_seconds",
            "A request's mean time per token after the first",
            TOKEN_SECONDS,
        )
        self._queue = self._histogram("vllm:request_queue_time_seconds", "Waiting for a slot", REQUEST_SECONDS)
        self._inference = self._histogram(
            "vllm:request_inference_time_seconds", "In the engine's loop", REQUEST_SECONDS
        )
        self._prefill = self._histogram(
            "vllm:request_prefill_time_seconds", "From its slot to its first token", REQUEST_SECONDS
        )
        self._decode = self._histogram(
            "vllm:request_decode_time_seconds", "From its first token to its last", REQUEST_SECONDS
        )
        self._prompt_tokens = self._histogram("vllm:request_prompt_tokens", "Tokens read per request", TOKENS)
        self._answer_tokens = self._histogram("vllm:request_generation_tokens", "Tokens written per request", TOKENS)
        self._finished = Counter(
            "vllm:request_success",
            "Requests by how they ended",
            [*LABELS, "finished_reason"],
            registry=self._registry,
        )

    def show(self, look: Look) -> None:
        """Read everything else at scrape time from `look`."""
        self._registry.register(_AtScrape(look, self.counts))

    def serves(self, model: str, *, generates: bool) -> None:
        """Requests for `model` may come: what is counted of them begins at 0, so that the first ones show in a rate."""
        for reason in ("stop", *(("length",) if generates else ()), "abort", "error"):
            self._finished.labels(model, ENGINE, reason)
        self._seconds.labels(model)
        own = (
            self._first_token,
            self._next_token,
            self._per_token,
            self._queue,
            self._inference,
            self._prefill,
            self._decode,
        )
        for histogram in (self._end_to_end, self._prompt_tokens, self._answer_tokens, *(own if generates else ())):
            histogram.labels(model, ENGINE)

    def received(self) -> None:
        """A request arrived, whatever becomes of it: the offered load."""
        self.counts.received += 1

    def refused(self) -> None:
        """A request got an error; one whose client left got nothing."""
        self.counts.refused += 1

    def completed(
        self,
        model: str,
        input_tokens: int,
        output_tokens: int,
        seconds: float,
        joules: float | None,
        *,
        finished_reason: str,
    ) -> None:
        """A request got its whole answer."""
        self.counts.completed += 1
        self.counts.input_tokens += input_tokens
        self.counts.output_tokens += output_tokens
        self.counts.charged_joules += joules or 0.0
        self.ended(model, finished_reason)
        note({"gen_ai.usage.prompt_tokens": input_tokens, "gen_ai.usage.completion_tokens": output_tokens})
        note({"gen_ai.latency.e2e": seconds, "lowbeam.energy.joules": joules})
        for histogram, value in (
            (self._seconds, seconds),
            (self._end_to_end, seconds),
            (self._prompt_tokens, input_tokens),
            (self._answer_tokens, output_tokens),
        ):
            _observe(histogram, model, value)

    def ended(self, model: str, finished_reason: str) -> None:
        """How a request ended: `stop` or `length` with its answer, `abort` when its client left, `error`."""
        self._finished.labels(model, ENGINE, finished_reason).inc()
        note({"gen_ai.request.model": model, "gen_ai.response.finish_reasons": (finished_reason,)})

    def first_token(self, model: str, seconds: float) -> None:
        """A decoder gave the first token of an answer."""
        _observe(self._first_token, model, seconds)
        note({"gen_ai.latency.time_to_first_token": seconds})

    def next_token(self, model: str, seconds: float) -> None:
        """A decoder gave one more token of an answer."""
        _observe(self._next_token, model, seconds)

    def generated(self, model: str, queue_s: float, prefill_s: float, decode_s: float, tokens: int) -> None:
        """Where the time of one decoder's request went, once it is over."""
        _observe(self._queue, model, queue_s)
        _observe(self._prefill, model, prefill_s)
        _observe(self._decode, model, decode_s)
        _observe(self._inference, model, prefill_s + decode_s)
        note({"gen_ai.latency.time_in_queue": queue_s, "gen_ai.latency.time_in_model_prefill": prefill_s})
        note({"gen_ai.latency.time_in_model_decode": decode_s})
        if tokens > 1:
            _observe(self._per_token, model, decode_s / (tokens - 1))

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What a scraper with this Accept header gets, and its content type."""
        if "application/openmetrics-text" not in accept:
            return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4
        # prometheus_client's own choice would turn the colon of `vllm:` into an underscore for a scraper that does not
        # ask for UTF-8 names, Prometheus 2 among them (0.26). All our names are valid in every version: leave them.
        encode: Callable[..., bytes] = openmetrics.generate_latest
        text = encode(self._registry, escaping=openmetrics.ALLOWUTF8, version="1.0.0")
        return text, "application/openmetrics-text; version=1.0.0; charset=utf-8"

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        labels = LABELS if name.startswith("vllm:") else ("model",)
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)


def _observe(histogram: Histogram, model: str, value: float) -> None:
    labels = (model, ENGINE) if len(histogram._labelnames) > 1 else (model,)
    trace = TRACE.get()
    histogram.labels(*labels).observe(value, {"trace_id": trace} if trace else None)


class _AtScrape:
    def __init__(self, look: Look, counts: Counts) -> None:
        self._look = look
        self._counts = counts

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        now, stats, meter = self._look()
        model = now.profile.model
        yield _gauge("lowbeam_worker_batch_limit", "Most requests or rows in one step", model, now.profile.batch_limit)
        ready = float(now.state in _TAKES_REQUESTS)
        yield _gauge("lowbeam_worker_ready", "1 when the worker takes traffic", model, ready)
        received, refused = self._counts.received, self._counts.refused
        yield _counter("lowbeam_worker_requests_received", "Requests that arrived: the offered load", model, received)
        yield _counter("lowbeam_worker_requests_refused", "Requests answered with an error", model, refused)
        yield _counter("lowbeam_worker_cpu_seconds", "CPU time of this process", model, now.cpu_seconds_total)
        if stats is not None:
            yield from _engine(model, stats)
        yield from _energy(now, meter, self._counts.charged_joules)
        yield from _model_server_protocol(now, stats)


def _engine(model: str, stats: EngineStats) -> Iterator[Metric]:
    yield _counter("lowbeam_worker_engine_restarts", "Deaths of the engine's loop", model, stats.restarts)
    yield _counter("lowbeam_worker_steps", "Steps of the engine", model, stats.steps)
    yield _counter("lowbeam_worker_step_tokens", "Real tokens in steps", model, stats.tokens)
    text = "Tokens computed in steps, padding included"
    yield _counter("lowbeam_worker_step_padded_tokens", text, model, stats.padded_tokens)
    if stats.padding_efficiency is not None:
        text = "Real tokens per computed token since the start"
        yield _gauge("lowbeam_worker_padding_efficiency", text, model, stats.padding_efficiency)
    if stats.prices is not None:
        family = GaugeMetricFamily(
            "lowbeam_worker_step_price_seconds",
            "Measured cost by which joules of a step are split: of a step, a token read, a token written",
            labels=["model", "of"],
        )
        family.add_metric([model, "step"], stats.prices.step)
        family.add_metric([model, "prefill_token"], stats.prices.prefill_token)
        family.add_metric([model, "decode_token"], stats.prices.decode_token)
        yield family


def _energy(now: WorkerTelemetry, meter: Meter, charged_joules: float) -> Iterator[Metric]:
    model = now.profile.model
    age = max(0.0, time.time() - now.sampled_at_seconds)
    yield _gauge("lowbeam_worker_sample_age_seconds", "Age of the last meter reading", model, age)
    method = InfoMetricFamily("lowbeam_worker_energy_method", "How joules are obtained")
    method.add_metric((), {"method": str(now.method), "scope": str(now.scope), "source": meter.source or "none"})
    yield method
    text = "1 while an energy counter that is there cannot be read or believed"
    yield _gauge("lowbeam_worker_energy_meter_trouble", text, model, float(meter.trouble is not None))
    if now.energy_joules is not None:
        family = CounterMetricFamily(
            "lowbeam_worker_energy_joules", "Device energy by what it was for", labels=["phase"]
        )
        for phase in ("active", "idle", "load", "reconfigure"):
            family.add_metric([phase], getattr(now.energy_joules, phase))
        yield family
        text, counted = "Device counter's difference; sum of phases", now.energy_joules.counter
        yield _counter("lowbeam_worker_energy_counter_joules", text, model, counted)
        yield _counter("lowbeam_worker_energy_charged_joules", "Joules stated in responses", model, charged_joules)
        text = "Books against the counter: anything but 0 is a defect, alarm on it"
        yield _gauge("lowbeam_worker_energy_ledger_error_joules", text, model, meter.error_joules())
        yield _counter("lowbeam_worker_energy_counter_resets", "Counter ran backwards", model, meter.counter_resets)
    if meter.agreement is not None:
        text = "Joules counted per joule sensed over the last minute"
        yield _gauge("lowbeam_worker_energy_cross_check_ratio", text, model, meter.agreement)
    if now.watts is not None and age < FRESH_SECONDS:
        yield _gauge("lowbeam_worker_power_watts", "Power of the worker's devices", model, now.watts)


def _model_server_protocol(now: WorkerTelemetry, stats: EngineStats | None) -> Iterator[Metric]:
    model = now.profile.model
    yield _vllm_gauge("vllm:num_requests_running", "Requests in the engine", model, now.requests_running)
    yield _vllm_gauge("vllm:num_requests_waiting", "Requests in the queue", model, now.requests_waiting)
    yield _vllm_counter("vllm:prompt_tokens", "Tokens read", model, now.input_tokens_total)
    yield _vllm_counter("vllm:generation_tokens", "Tokens written", model, now.output_tokens_total)
    if stats is None or stats.cache_usage is None:
        return
    yield _vllm_gauge("vllm:kv_cache_usage_perc", "Used share of the KV cache, 0 to 1", model, stats.cache_usage)
    if stats.cache_tokens is not None and stats.cache_page_tokens is not None:
        family = GaugeMetricFamily(
            "vllm:cache_config_info", "Size of the KV cache", labels=["block_size", "num_gpu_blocks", "engine"]
        )
        pages = stats.cache_tokens // stats.cache_page_tokens
        family.add_metric([str(stats.cache_page_tokens), str(pages), ENGINE], 1)
        yield family


def _gauge(name: str, text: str, model: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["model"])
    family.add_metric([model], value)
    return family


def _counter(name: str, text: str, model: str, value: float) -> Metric:
    family = CounterMetricFamily(name, text, labels=["model"])
    family.add_metric([model], value)
    return family


def _vllm_gauge(name: str, text: str, model: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text, labels=LABELS)
    family.add_metric([model, ENGINE], value)
    return family


def _vllm_counter(name: str, text: str, model: str, value: float) -> Metric:
    family = CounterMetricFamily(name, text, labels=LABELS)
    family.add_metric([model, ENGINE], value)
    return family
