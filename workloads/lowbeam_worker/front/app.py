"""The serving port: which route goes where, and what every inference request passes on its way in.

An inference request is counted and named (`X-Request-Id`), refused while the worker is loading or leaving or over an
operator's limit, cancelled when its client leaves, and every error it meets is answered in OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import re
import secrets
import time
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lowbeam.api.wire import WorkerState
from lowbeam_worker.front.reading import MAX_BODY_BYTES, MAX_ROWS
from lowbeam_worker.metrics import TRACE, trace_id
from lowbeam_worker.refusal import Refusal, engine_failed, invalid, overloaded, shortened, unavailable, wrong_model
from lowbeam_worker.running import Handler, RunningModel
from lowbeam_worker.tracing import SPAN, Tracer, open_tracer
from lowbeam_worker.worker import Worker

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""nginx's status for it; nobody reads it."""
INFERENCE_PATHS = (
    "/v1/embeddings",
    "/embed",
    "/predict",
    "/rerank",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/tasks/{task}",
)
_FRESH_SECONDS = 5.0
"""An older reading of the meter holds nobody back."""
_NAME = re.compile(r"[!-~]{1,128}")


def serving_app(worker: Worker) -> Starlette:
    """The ASGI application of the serving port."""
    tracer = open_tracer(worker.options.pod, worker.options.namespace)

    async def health(_: Request) -> Response:
        return _plain(worker, ok=worker.state is not WorkerState.FAILED)

    async def ready(_: Request) -> Response:
        return _plain(worker, ok=worker.takes_requests)

    async def metrics(request: Request) -> Response:
        text, content_type = worker.metrics.exposition(request.headers.get("accept", ""))
        return Response(text, media_type=content_type)

    async def models(_: Request) -> Response:
        return _json({"object": "list", "data": [_entry(worker, name) for name in worker.names]})

    async def model(request: Request) -> Response:
        asked = request.path_params["name"]
        if asked not in worker.names:
            return wrong_model(asked, worker.names).response()
        return _json(_entry(worker, asked))

    async def info(_: Request) -> Response:
        running = worker.running
        return _json(_info(worker, running)) if running else _not_ready(worker).response()

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
            Route("/info", info),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            *(Route(path, _Inference(worker, path, tracer), methods=["POST"]) for path in INFERENCE_PATHS),
        ],
        exception_handlers={404: _no_such_route, 405: _no_such_method},
    )


class _Inference:
    """An inference route as an ASGI application: in flight until the last byte of the answer is out."""

    def __init__(self, worker: Worker, path: str, tracer: Tracer | None) -> None:
        self._worker = worker
        self._path = path
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker, request = self._worker, Request(scope, receive)
        given = request.headers.get("x-request-id", "")
        name = given if _NAME.fullmatch(given) else secrets.token_hex(12)
        span = self._tracer.begin(self._path, request.headers, name) if self._tracer else None
        SPAN.set(span)
        TRACE.set(span.trace_id if span else trace_id(request.headers.get("traceparent")))
        ticket = worker.enter(name)
        response = None
        try:
            response = await self._answer(request)
            if response.status_code >= 400 and response.status_code != CLIENT_LEFT:
                worker.metrics.refused()
            response.headers["X-Request-Id"] = name
            if not worker.takes_requests:
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
        finally:
            # A stream whose client left is closed here and now: its slot must not wait for the garbage collector.
            if (stream := getattr(response, "body_iterator", None)) is not None:
                await stream.aclose()
            worker.leave(ticket)
            if span is not None:
                span.end(response.status_code if response else None)

    async def _answer(self, request: Request) -> Response:
        try:
            handler = self._handler(request)
            return await _unless_client_leaves(request, handler)
        except Refusal as refusal:
            return refusal.response()
        except Exception:
            log.exception("a request failed in %s", request.url.path)
            return engine_failed("The request failed inside the worker; its log has the reason.").response()

    def _handler(self, request: Request) -> Handler:
        worker = self._worker
        if not worker.takes_requests or worker.service is None:
            raise _not_ready(worker)
        handler: Handler | None = worker.service.routes.get(request.url.path)
        if handler is None:
            own = ", ".join(worker.service.routes)
            raise invalid(
                f"This worker serves {worker.options.task} at {own}; {request.url.path} is for another task.",
                code="wrong_task",
            )
        self._admit()
        return handler

    def _admit(self) -> None:
        worker, watts = self._worker, fresh_watts(self._worker)
        if worker.admission.over_budget(watts):
            raise overloaded(
                f"This worker is over its power budget ({watts:.0f} W of {worker.admission.power_budget_watts:g} W); "
                "send the request again in a moment.",
                "power_budget",
            )
        wait = worker.admission.seconds_to_wait(time.monotonic())
        if wait is not None:
            rate = worker.admission.requests_per_second
            raise overloaded(
                f"This worker takes {rate:g} requests per second at present; send the request again in {wait} s.",
                "admission_rate",
                wait,
            )


def fresh_watts(worker: Worker) -> float | None:
    """What the devices use now; None where that is not known."""
    reading = worker.meter.last
    return reading.watts if reading and time.monotonic() - reading.at_monotonic_s < _FRESH_SECONDS else None


async def _unless_client_leaves(request: Request, handler: Handler) -> Response:
    """Run the handler; cancel it when the client closes the connection before the answer begins."""
    body_read = asyncio.Event()
    original = request.receive

    async def receive() -> object:
        message = await original()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body_read.set()
        return message

    async def left() -> None:
        await body_read.wait()
        while (await original())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(handler(Request(request.scope, receive)))  # type: ignore[arg-type]
    watching = asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
            return Response(status_code=CLIENT_LEFT)
        return working.result()
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    finally:
        watching.cancel()
        working.cancel()


def _entry(worker: Worker, name: str) -> dict[str, Any]:
    owner = "random-weights" if worker.running and worker.running.random_weights else "lowbeam"
    return {"id": name, "object": "model", "created": worker.started_at, "owned_by": owner}


def _info(worker: Worker, running: RunningModel) -> dict[str, Any]:
    """TEI's /info, with what this worker knows; for decoders its fields of the same meaning."""
    limits, service = running.engine.limits, running.service
    return {
        "model_id": running.source.name,
        "model_sha": None,
        "model_dtype": str(running.source.precision),
        "model_type": service.model_type(),
        "max_input_length": service.max_tokens,
        "max_batch_tokens": limits.step_tokens,
        "max_batch_requests": limits.batch,
        "max_client_batch_size": MAX_ROWS,
        "max_body_bytes": MAX_BODY_BYTES,
        "auto_truncate": False,
        "tokenization_workers": 1,
        "version": importlib.metadata.version("lowbeam"),
        "task": str(worker.options.task),
        "routes": list(service.routes),
        "memory_bytes": {
            "peak": worker.memory_promised_bytes,
            "runtime": worker.runtime_bytes,
            "loading": running.footprint.loading,
            "weights": running.footprint.weights,
            "cache": running.footprint.cache,
            "activations": running.footprint.activations,
        },
    }


def _not_ready(worker: Worker) -> Refusal:
    return unavailable(f"This worker is {worker.state}; another replica may answer.")


def _json(document: object) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


def _plain(worker: Worker, *, ok: bool) -> Response:
    return PlainTextResponse("ok\n" if ok else worker.why_not_ready() + "\n", 200 if ok else 503)


async def _no_such_route(request: Request, error: Exception) -> Response:
    message = f"{request.method} {shortened(request.url.path)} does not exist here."
    return Refusal(404, message, code="unknown_route").response()


async def _no_such_method(request: Request, error: Exception) -> Response:
    headers = getattr(error, "headers", None) or {}
    allowed = ", ".join(sorted(str(headers["Allow"]).split(", ")))
    message = f"{request.url.path} is for {allowed}, not for {request.method}."
    response = Refusal(405, message, code="method_not_allowed").response()
    response.headers["Allow"] = allowed
    return response
