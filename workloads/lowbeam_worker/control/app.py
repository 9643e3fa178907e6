"""The control port: routes of `lowbeam.api.wire`, behind a bearer token where one is configured.

The token's file is read at every request, so that a rotated Secret counts without a restart; a file that cannot be read
lets nobody in.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lowbeam.api.wire import ChangeRefusal, DrainStarted, ProfileChange, WireModel
from lowbeam_worker.control.changes import REQUESTS_SHOWN, CannotChangeError, Changes, OldGenerationError
from lowbeam_worker.options import WorkerOptions
from lowbeam_worker.worker import Worker

log = logging.getLogger(__name__)

MAX_CHANGE_BYTES = 65536


class _StrictChange(ProfileChange):
    """What this worker can carry out: a field that it does not know must not be taken for done."""

    model_config = ProfileChange.model_config | {"extra": "forbid"}


def control_app(worker: Worker) -> Starlette:
    """The ASGI application of the control port."""
    changes = Changes(worker)

    async def telemetry(_: Request) -> Response:
        return _json(worker.telemetry())

    async def profile(_: Request) -> Response:
        return _json(worker.profile())

    async def change(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_CHANGE_BYTES:
                return problem(413, f"the body is larger than {MAX_CHANGE_BYTES} bytes")
        try:
            wish = _StrictChange.model_validate_json(bytes(body), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return problem(422, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}")
        try:
            return _json(await changes.make(wish))
        except OldGenerationError as error:
            return problem(409, str(error))
        except CannotChangeError as error:
            return problem(422 if worker.service else 503, str(error))

    async def drain(_: Request) -> Response:
        worker.drain()
        names = worker.requests_in_flight()
        started = DrainStarted(state=worker.state, requests_in_flight=len(names), requests=names[:REQUESTS_SHOWN])
        return _json(started, 202)

    def problem(status: int, message: str) -> Response:
        return _json(ChangeRefusal(error=message, generation=worker.generation), status)

    def guarded(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def check(request: Request) -> Response:
            expected, given = _token(worker.options), request.headers.get("authorization", "")
            if expected is None:
                return problem(401, "the file with this worker's token cannot be read: nobody is let in")
            if expected and not hmac.compare_digest(given.encode(), f"Bearer {expected}".encode()):
                return problem(401, "a valid bearer token is needed: Authorization: Bearer TOKEN")
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


def _token(options: WorkerOptions) -> str | None:
    """The token in force; empty: none is asked for; None: there is one that cannot be read."""
    if not options.control_token_file:
        return options.control_token
    try:
        return Path(options.control_token_file).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        log.exception("the control port's token cannot be read")
        return None


def _json(model: WireModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(by_alias=True), status, media_type="application/json")
