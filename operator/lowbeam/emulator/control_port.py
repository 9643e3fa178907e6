"""The workers' control port, once per pod address: telemetry, profile, drain.

Decides routes, tokens and status codes, exactly as lowbeam-worker does; figures come from the fleet. Part of the
emulator (tests and demos only).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from lowbeam.api.wire import CONTROL_PORT, ProfileChange
from lowbeam.emulator.faults import Fault
from lowbeam.emulator.fleet import Fleet, Played
from lowbeam.emulator.replica import StaleGeneration, StillLoading

log = structlog.get_logger(__name__)

_BACKLOG = 16
Handler = Callable[[Played, web.Request], Awaitable[web.StreamResponse]]


class ControlPorts:
    """One listening socket per pod address, all with the same routes."""

    def __init__(self, fleet: Fleet, port: int = CONTROL_PORT) -> None:
        self._fleet = fleet
        self._port = port
        app = web.Application()
        app.add_routes(
            [
                web.get("/telemetry", self._to(self._telemetry)),
                web.get("/control/profile", self._to(self._profile)),
                web.patch("/control/profile", self._to(self._change)),
                web.post("/control/drain", self._to(self._drain)),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        self._sites: dict[str, web.TCPSite] = {}
        self._refused: set[str] = set()

    async def __aenter__(self) -> ControlPorts:
        await self._runner.setup()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        self._sites.clear()

    async def follow(self, addresses: set[str]) -> None:
        """Listen on exactly these addresses; one that cannot be bound is logged once and tried again each time."""
        for address in set(self._sites) - addresses:
            await self._sites.pop(address).stop()
        self._refused &= addresses
        for address in sorted(addresses - set(self._sites)):
            site = web.TCPSite(self._runner, address, self._port, backlog=_BACKLOG)
            try:
                await site.start()
            except OSError as error:
                # A site registers itself before it binds; without this the next try would be refused.
                await site.stop()
                if address not in self._refused:
                    log.warning(
                        "cannot listen on a pod's address; the pod stays silent",
                        address=address,
                        port=self._port,
                        error=error.strerror,
                        advice="make KWOK's pod range local: ip route add local RANGE dev lo",
                    )
                self._refused.add(address)
                continue
            self._sites[address] = site
            self._refused.discard(address)

    def listening(self) -> set[str]:
        """Addresses that are bound."""
        return set(self._sites)

    def _to(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Find the worker by the address that was called, check its token, then ask it."""

        async def handle(request: web.Request) -> web.StreamResponse:
            transport = request.transport
            if transport is None:
                raise web.HTTPServiceUnavailable
            played = self._fleet.at(transport.get_extra_info("sockname")[0])
            if played is None or Fault.SILENT in played.faults:
                transport.abort()
                raise web.HTTPServiceUnavailable
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
