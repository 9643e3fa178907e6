"""The agent's HTTP routes.

    GET /telemetry  -> lowbeam.api.wire.NodeTelemetry
    GET /metrics    -> lowbeam_agent_* for Prometheus
    GET /health     -> 200 while the readings are fresh, else 503
    GET /limits, PUT /limits -> LimitReport, with the bearer token; 403 where limits are off

The token's file is read at every request, so that a rotated Secret counts without a restart; a file that cannot be read
or is empty lets nobody in.
"""

from __future__ import annotations

import hmac
import logging
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lowbeam.api.wire import ChangeRefusal, LimitChange, LimitWish, WireModel
from lowbeam_agent.leases import ImpossibleLimitError, Leases, NotRecordedError, OldChangeError
from lowbeam_agent.metrics import AtScrape
from lowbeam_agent.sampler import FRESH_SECONDS, Sampler

log = logging.getLogger(__name__)

MAX_CHANGE_BYTES = 65536


class _StrictWish(LimitWish):
    """What this agent can carry out: a field that it does not know must not be taken for done."""

    model_config = LimitWish.model_config | {"extra": "forbid"}


class _StrictChange(LimitChange):
    model_config = LimitChange.model_config | {"extra": "forbid"}
    limits: tuple[_StrictWish, ...]


def agent_app(sampler: Sampler, leases: Leases | None, token_file: Path | None) -> Starlette:
    """The ASGI application; `leases` and `token_file` come together, or power limits are off."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(AtScrape(sampler))

    async def telemetry(_: Request) -> Response:
        return _json(sampler.last.model_copy(update={"limits_allowed": leases is not None}))

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def health(_: Request) -> Response:
        if sampler.age_s < FRESH_SECONDS:
            return PlainTextResponse("ok\n")
        return PlainTextResponse(f"the last NVML reading is {sampler.age_s:.0f} s old\n", 503)

    async def limits(request: Request) -> Response:
        if leases is None or token_file is None:
            off = "power limits are off on this node: they need --limit-token-file (chart: agent.powerLimits.enabled)"
            return _json(ChangeRefusal(error=off, generation=0), 403)
        if not _knows_the_token(request, token_file):
            needed = "a valid bearer token is needed: Authorization: Bearer TOKEN"
            return _json(ChangeRefusal(error=needed, generation=0), 401)
        return await (_change(request, leases) if request.method == "PUT" else _report(leases))

    return Starlette(
        routes=[
            Route("/telemetry", telemetry),
            Route("/metrics", metrics),
            Route("/health", health),
            Route("/limits", limits, methods=["GET", "PUT"]),
        ]
    )


async def _report(leases: Leases) -> Response:
    return _json(await run_in_threadpool(leases.report))


async def _change(request: Request, leases: Leases) -> Response:
    def problem(status: int, message: str) -> Response:
        return _json(ChangeRefusal(error=message, generation=leases.generation), status)

    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_CHANGE_BYTES:
            return problem(413, f"the body is larger than {MAX_CHANGE_BYTES} bytes")
    try:
        wish = LimitChange.model_validate(_StrictChange.model_validate_json(bytes(body), strict=True).model_dump())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return problem(422, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}")
    try:
        done = await run_in_threadpool(leases.change, wish)
    except OldChangeError as error:
        return problem(409, str(error))
    except ImpossibleLimitError as error:
        return problem(422, str(error))
    except NotRecordedError as error:
        return problem(503, str(error))
    return _json(done, 503 if any(state.problem for state in done.limits) else 200)


def _knows_the_token(request: Request, token_file: Path) -> bool:
    try:
        expected = token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        log.exception("the token of /limits cannot be read")
        return False
    given = request.headers.get("authorization", "")
    return bool(expected) and hmac.compare_digest(given.encode(), f"Bearer {expected}".encode())


def _json(model: WireModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(by_alias=True), status, media_type="application/json")
