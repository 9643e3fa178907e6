"""The node agents' port, once per agent pod: the boards of its node and their power limits.

Decides routes, tokens and status codes, exactly as lowbeam-agent does; figures come from the fleet. Part of the
emulator (tests and demos only).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path

from aiohttp import web
from pydantic import BaseModel, ValidationError

from lowbeam.api.wire import ChangeRefusal, LimitChange
from lowbeam.emulator.boards import ImpossibleLimit, OldChange
from lowbeam.emulator.faults import Fault
from lowbeam.emulator.fleet import Fleet
from lowbeam.emulator.nodes import PlayedAgent
from lowbeam.emulator.pod_ports import PodPorts, called_address, hang_up

Handler = Callable[[PlayedAgent, web.Request], Awaitable[web.StreamResponse]]


class AgentPorts(PodPorts):
    """The ports of all agents; `token_file`: None = they set no limits."""

    def __init__(self, fleet: Fleet, token_file: Path | None) -> None:
        self._fleet = fleet
        self._token_file = token_file
        app = web.Application()
        app.add_routes(
            [
                web.get("/telemetry", self._to(self._telemetry)),
                web.get("/limits", self._to(self._with_token(self._limits))),
                web.put("/limits", self._to(self._with_token(self._change))),
            ]
        )
        super().__init__(app)

    def _to(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Find the agent by the address that was called, then ask it."""

        async def handle(request: web.Request) -> web.StreamResponse:
            played = self._fleet.nodes.agent_at(called_address(request))
            if played is None or Fault.SILENT in played.faults:
                raise hang_up(request)
            return await handler(played, request)

        return handle

    def _with_token(self, handler: Handler) -> Handler:
        async def handle(played: PlayedAgent, request: web.Request) -> web.StreamResponse:
            if self._token_file is None:
                off = "power limits are off: lowbeam emulate needs --agent-token-file"
                return _refusal(HTTPStatus.FORBIDDEN, off, 0)
            if not _knows_the_token(request, self._token_file):
                needed = "a valid bearer token is needed: Authorization: Bearer TOKEN"
                return _refusal(HTTPStatus.UNAUTHORIZED, needed, 0)
            return await handler(played, request)

        return handle

    async def _telemetry(self, played: PlayedAgent, _request: web.Request) -> web.Response:
        return _answer(self._fleet.node_telemetry(played, limits_allowed=self._token_file is not None))

    async def _limits(self, played: PlayedAgent, _request: web.Request) -> web.Response:
        return _answer(self._fleet.limits(played))

    async def _change(self, played: PlayedAgent, request: web.Request) -> web.Response:
        generation = self._fleet.limits(played).generation
        try:
            wish = LimitChange.model_validate_json(await request.read(), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {first['msg']}", generation)
        try:
            return _answer(self._fleet.set_limits(played, wish))
        except OldChange as error:
            return _refusal(HTTPStatus.CONFLICT, str(error), generation)
        except ImpossibleLimit as error:
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), generation)


def _knows_the_token(request: web.Request, token_file: Path) -> bool:
    """The file is read at each request, as the agent reads a Secret that is mounted."""
    try:
        expected = token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return False
    given = request.headers.get("Authorization", "")
    return bool(expected) and hmac.compare_digest(given.encode(), f"Bearer {expected}".encode())


def _refusal(status: HTTPStatus, message: str, generation: int) -> web.Response:
    return _answer(ChangeRefusal(error=message, generation=generation), status)


def _answer(model: BaseModel, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    body = model.model_dump_json(by_alias=True).encode()
    return web.Response(status=status, body=body, content_type="application/json")
