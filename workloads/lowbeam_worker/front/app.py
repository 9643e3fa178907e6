"""The serving port: which route goes where, and what every inference request passes on its way in.

An inference request is counted, refused while the worker is loading or leaving, cancelled when its client leaves, and
every error it meets is answered in OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lowbeam.api.wire import WorkerState
from lowbeam_worker.options import Task
from lowbeam_worker.refusal import Refusal, engine_failed, invalid, unavailable
from lowbeam_worker.worker import Worker

log = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""nginx's status for it; nobody reads it."""
_ROUTES = {
    "/v1/embeddings": ("embeddings", {Task.FEATURE_EXTRACTION}),
    "/predict": ("predict", {Task.TEXT_CLASSIFICATION}),
    "/v1/chat/completions": ("chat", {Task.TEXT_GENERATION, Task.CODE_COMPLETION}),
    "/v1/completions": ("completions", {Task.TEXT_GENERATION, Task.CODE_COMPLETION}),
}
Handler = Callable[[Request], Awaitable[Response]]


def serving_app(worker: Worker) -> Starlette:
    """The ASGI application of the serving port."""

    async def health(_: Request) -> Response:
        return _plain(worker, ok=worker.state is not WorkerState.FAILED)

    async def ready(_: Request) -> Response:
        return _plain(worker, ok=worker.state is WorkerState.READY)

    async def metrics(_: Request) -> Response:
        return Response(worker.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(_: Request) -> Response:
        owner = "random-weights" if worker.random_weights else "lowbeam"
        entry = {"id": worker.options.model, "object": "model", "created": worker.started_at, "owned_by": owner}
        return Response(orjson.dumps({"object": "list", "data": [entry]}), media_type="application/json")

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
            Route("/v1/models", models),
            *(Route(path, _Inference(worker, *target), methods=["POST"]) for path, target in _ROUTES.items()),
        ],
        exception_handlers={404: _no_such_route, 405: _no_such_route},
    )


class _Inference:
    """One inference route as an ASGI application: in flight until the last byte of the answer is out."""

    def __init__(self, worker: Worker, method: str, tasks: set[Task]) -> None:
        self._worker = worker
        self._method = method
        self._tasks = tasks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker = self._worker
        worker.enter()
        try:
            response = await self._answer(Request(scope, receive))
            if response.status_code >= 400:
                worker.metrics.refused()
            if worker.state is WorkerState.DRAINING:
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
        finally:
            worker.leave()

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
        if worker.options.task not in self._tasks:
            raise invalid(f"This worker serves {worker.options.task}; {request.url.path} is for another task.")
        if worker.state is not WorkerState.READY:
            raise unavailable(f"This worker is {worker.state}; another replica may answer.")
        handler: Handler = getattr(worker.service, self._method)
        return handler


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
    finally:
        watching.cancel()
        working.cancel()


def _plain(worker: Worker, *, ok: bool) -> Response:
    return PlainTextResponse("ok\n" if ok else worker.why_not_ready() + "\n", 200 if ok else 503)


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    message = f"{request.method} {request.url.path} does not exist here."
    return Refusal(status, message, kind="invalid_request_error", code="unknown_route").response()
