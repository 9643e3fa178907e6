"""The control port: routes of `lowbeam.api.wire`, behind a bearer token where one is configured."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lowbeam.api.wire import ProfileChange
from lowbeam_worker.worker import CannotChangeError, OldGenerationError, Worker

MAX_CHANGE_BYTES = 65536


def control_app(worker: Worker) -> Starlette:
    """The ASGI application of the control port."""

    async def telemetry(_: Request) -> Response:
        return _json(worker.telemetry())

    async def profile(_: Request) -> Response:
        return _json(worker.profile())

    async def change(request: Request) -> Response:
        body = await request.body()
        if len(body) > MAX_CHANGE_BYTES:
            return _problem(413, "the body is too large for a profile change")
        try:
            wish = ProfileChange.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return _problem(422, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}")
        try:
            return _json(worker.change(wish))
        except OldGenerationError as error:
            return _problem(409, str(error))
        except CannotChangeError as error:
            return _problem(422 if worker.engine else 503, str(error))

    async def drain(_: Request) -> Response:
        worker.drain()
        return Response(status_code=202)

    def guarded(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def check(request: Request) -> Response:
            expected = worker.options.control_token
            given = request.headers.get("authorization", "")
            if expected and not hmac.compare_digest(given.encode(), f"Bearer {expected}".encode()):
                return _problem(401, "a valid bearer token is needed: Authorization: Bearer TOKEN")
            return await handler(request)

        return check

    return Starlette(
        routes=[
            Route("/telemetry", guarded(telemetry)),
            Route("/control/profile", guarded(profile)),
            Route("/control/profile", guarded(change), methods=["PATCH"]),
            Route("/control/drain", guarded(drain), methods=["POST"]),
        ]
    )


def _json(model: BaseModel) -> Response:
    return Response(model.model_dump_json(by_alias=True), media_type="application/json")


def _problem(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
