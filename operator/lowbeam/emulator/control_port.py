"""The workers' control port, once per pod address: telemetry, profile, drain.

Decides routes, tokens and status codes, exactly as lowbeam-worker does; figures come from the fleet. Part of the
emulator (tests and demos only).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web
from pydantic import BaseModel, ValidationError

from lowbeam.api.wire import ProfileChange
from lowbeam.emulator.faults import Fault
from lowbeam.emulator.fleet import Fleet, Played
from lowbeam.emulator.pod_ports import PodPorts, called_address, hang_up
from lowbeam.emulator.replica import StaleGeneration, StillLoading

Handler = Callable[[Played, web.Request], Awaitable[web.StreamResponse]]


class ControlPorts(PodPorts):
    """The control ports of all workers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        app = web.Application()
        app.add_routes(
            [
                web.get("/telemetry", self._to(self._telemetry)),
                web.get("/control/profile", self._to(self._profile)),
                web.patch("/control/profile", self._to(self._change)),
                web.post("/control/drain", self._to(self._drain)),
            ]
        )
        super().__init__(app)

    def _to(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Find the worker by the address that was called, check its token, then ask it."""

        async def handle(request: web.Request) -> web.StreamResponse:
            played = self._fleet.at(called_address(request))
            if played is None or Fault.SILENT in played.faults:
                raise hang_up(request)
            if not _authorized(request, played.member.token):
                return _error(HTTPStatus.UNAUTHORIZED, "missing or wrong bearer token")
            return await handler(played, request)

        return handle

    async def _telemetry(self, played: Played, _request: web.Request) -> web.Response:
        return _answer(self._fleet.telemetry(played))

    async def _profile(self, played: Played, _request: web.Request) -> web.Response:
        return _answer(played.replica.profile())

    async def _change(self, played: Played, request: web.Request) -> web.Response:
        try:
            wanted = ProfileChange.model_validate_json(await request.read())
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"]) or "body"
            return _error(HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {problem['msg']}")
        try:
            return _answer(played.replica.change(wanted, self._fleet.now()))
        except StaleGeneration as error:
            return _error(HTTPStatus.CONFLICT, str(error))
        except StillLoading as error:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    async def _drain(self, played: Played, _request: web.Request) -> web.Response:
        played.replica.advance(self._fleet.now())
        played.replica.draining = True
        return web.Response(status=HTTPStatus.ACCEPTED)


def _authorized(request: web.Request, token: str) -> bool:
    if not token:
        return True
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())


def _answer(model: BaseModel) -> web.Response:
    return web.Response(body=model.model_dump_json(by_alias=True).encode(), content_type="application/json")


def _error(status: HTTPStatus, message: str) -> web.Response:
    return web.Response(status=status, body=json.dumps({"message": message}).encode(), content_type="application/json")
