"""Traces: the caller's goes on in the worker's span and in its metrics, and a collector that is gone harms nobody.

Spans are received by a small OTLP/HTTP collector in this file, from a worker in a process of its own.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from lowbeam_worker.tracing import open_tracer
from tests.worker.conftest import LLAMA, LocalWorker, WorkerProcess

messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="lowbeam[otel]")
CHAT = ("--task", "text-generation", "--model", "tiny", "--model-path", LLAMA)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
ERROR = 2


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps the spans, each as one dict with its resource."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        for resource in messages.ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        {
                            "name": span.name,
                            "kind": span.kind,
                            "trace": span.trace_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "status": span.status.code,
                            "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                            **_values(resource.resource.attributes),
                            **_values(span.attributes),
                        }
                    )


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.server.take(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


def _values(attributes: Any) -> dict[str, Any]:
    found = {}
    for one in attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        found[one.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.shutdown()
    made.server_close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_collector_gets_one_span_for_each_request_with_its_tokens_latencies_and_joules(
    worker_process: type[WorkerProcess], collector: Collector, nvml_stub: Path
) -> None:
    worker = worker_process(
        *CHAT,
        LD_LIBRARY_PATH=str(nvml_stub),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="50",
        POD_NAME="chat-0",
        POD_NAMESPACE="shop",
    )
    worker.wait_until_ready()
    assert collector.spans == [], "the warm-up is nobody's request"
    body = {"model": "tiny", "prompt": "Power is", "max_tokens": 8, "temperature": 0}
    with httpx.Client(base_url=worker.url, timeout=60) as http:
        answer = http.post("/v1/completions", json=body, headers={"traceparent": SAMPLED, "X-Request-Id": "mine"})
        usage = answer.json()["usage"]
        until(lambda: len(collector.spans) == 1)
        (span,) = collector.spans
        named = {"name": "POST /v1/completions", "kind": 2, "trace": TRACE, "parent": PARENT, "status": 0}
        named |= {"service.name": "lowbeam-worker", "k8s.pod.name": "chat-0", "k8s.namespace.name": "shop"}
        named |= {"http.route": "/v1/completions", "http.response.status_code": 200, "gen_ai.request.id": "mine"}
        named |= {"gen_ai.request.model": "tiny", "gen_ai.response.finish_reasons": ["length"]}
        named |= {"gen_ai.usage.prompt_tokens": usage["prompt_tokens"], "gen_ai.usage.completion_tokens": 8}
        assert {key: span[key] for key in named} == named
        assert span["lowbeam.energy.joules"] == usage["energy"]["joules"] > 0
        parts = ("time_in_queue", "time_in_model_prefill", "time_in_model_decode")
        assert sum(span[f"gen_ai.latency.{part}"] for part in parts) <= span["gen_ai.latency.e2e"] <= span["seconds"]
        assert 0 < span["gen_ai.latency.time_to_first_token"] < span["gen_ai.latency.e2e"]
        assert not [value for value in span.values() if "Power" in str(value)], "no word of a prompt leaves the worker"

        http.post("/v1/completions", json=body, headers={"traceparent": NOT_SAMPLED})
        http.post("/v1/completions", json=body | {"max_tokens": 0})
        until(lambda: len(collector.spans) == 2)
        refused = collector.spans[1]
        assert refused["http.response.status_code"] == 400
        assert refused["status"] != ERROR, "the client's mistake, not the server's"
        assert refused["trace"] != TRACE
        assert refused["parent"] == ""
        http.post("/v1/completions", json=body | {"stream": True}, headers={"traceparent": SAMPLED})
    worker.terminate()
    code, log = worker.end()
    assert code == 0, log
    assert collector.spans[2]["trace"] == TRACE, "what the worker still holds is sent before it ends"
    assert collector.spans[2]["gen_ai.usage.completion_tokens"] == 8


def test_a_collector_that_is_not_there_costs_nobody_anything(worker_process: type[WorkerProcess]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        worker = worker_process(
            *CHAT,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
            OTEL_EXPORTER_OTLP_TIMEOUT="5",
            OTEL_BSP_SCHEDULE_DELAY="50",
        )
        worker.wait_until_ready()
        with httpx.Client(base_url=worker.url, timeout=60) as http:
            for _ in range(20):
                began = time.monotonic()
                body = {"model": "tiny", "prompt": "Power is", "max_tokens": 2}
                assert http.post("/v1/completions", json=body).status_code == 200
                assert time.monotonic() - began < 4.5, "a request waited for the collector"
        worker.terminate()
        code, log = worker.end()
    assert code == 0, log


@pytest.mark.asyncio(loop_scope="session")
async def test_a_callers_trace_is_an_exemplar_of_its_latency(minilm: LocalWorker) -> None:
    body = {"model": "minilm", "input": "How many joules is this?"}
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = await minilm.serving.post("/v1/embeddings", json=body, headers={"traceparent": f"00-{trace}-{PARENT}-01"})
    assert answer.status_code == 200
    await minilm.serving.post("/v1/embeddings", json=body | {"input": ["one"] * 40}, headers={"traceparent": "junk"})
    shown = await minilm.serving.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    found = {
        sample.exemplar.labels["trace_id"]
        for family in parse_openmetrics(shown.text)  # type: ignore[no-untyped-call]
        if family.name == "lowbeam_worker_request_seconds"
        for sample in family.samples
        if sample.exemplar
    }
    assert found == {trace}


def test_without_the_variable_there_are_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert open_tracer("chat-0", "shop") is None


def test_a_worker_without_the_extra_says_that_it_sends_no_spans(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with caplog.at_level(logging.WARNING):
        assert open_tracer("chat-0", "shop") is None
    assert "install lowbeam[worker,otel] or unset the variable" in caplog.text
