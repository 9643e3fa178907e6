"""Spans of inference requests, for those who follow one through several services: OpenTelemetry, off unless wanted.

Decides when there are spans (`OTEL_EXPORTER_OTLP_ENDPOINT` is set and `lowbeam[otel]` is installed) and what is in
them; sampling, headers, batches and the rest are the SDK's own `OTEL_*` variables. Names are HTTP's, and vLLM's for
tokens and latencies, so that what was made for its spans reads ours; joules are ours.

It must never make a request fail or wait: a thread of the SDK sends the spans, and drops them when nobody takes them.
No word of a request or of an answer is in a span.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
Value = str | int | float | Sequence[str] | None


class RequestSpan:
    """The span of one request, from its arrival to its last byte."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def trace_id(self) -> str | None:
        """In hexadecimal; None when this trace is not sampled, so that nobody would find it."""
        return f"{self._span.get_span_context().trace_id:032x}" if self._span.is_recording() else None

    def note(self, values: Mapping[str, Value]) -> None:
        """Add what has become known; None is not known."""
        for name, value in values.items():
            if value is not None:
                self._span.set_attribute(name, value)

    def end(self, status: int | None) -> None:
        """Its answer is out; None: there was none, because sending it failed."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - not there without the extra

        self.note({"http.response.status_code": status})
        if status is None or status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


SPAN: ContextVar[RequestSpan | None] = ContextVar("span", default=None)
"""Of the request in hand, set by the front."""


def note(values: Mapping[str, Value]) -> None:
    """Add to the span of the request in hand, if it has one."""
    if (span := SPAN.get()) is not None:
        span.note(values)


class Tracer:
    """Begins spans as children of what the caller's `traceparent` says."""

    def __init__(self, pod: str, namespace: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        ours = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or "lowbeam-worker"}
        ours |= {"k8s.pod.name": pod} if pod else {}
        ours |= {"k8s.namespace.name": namespace} if namespace else {}
        # The provider is shut down, and what it still holds is sent, when the interpreter exits: after the drain.
        provider = TracerProvider(resource=Resource.create(ours))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = provider.get_tracer("lowbeam_worker")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, route: str, headers: Mapping[str, str], request_id: str) -> RequestSpan:
        """A request came to `route`, with these headers."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        span = self._tracer.start_span(
            f"POST {route}",
            self._propagator.extract(headers),
            SpanKind.SERVER,
            {"http.request.method": "POST", "http.route": route, "gen_ai.request.id": request_id},
        )
        return RequestSpan(span)


def open_tracer(pod: str, namespace: str) -> Tracer | None:
    """None where no spans are wanted, or the extra is missing: then the log says so once."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        return Tracer(pod, namespace)
    except ImportError:
        log.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this worker sends no spans: OpenTelemetry is not installed; "
            "install lowbeam[worker,otel] or unset the variable"
        )
        return None
