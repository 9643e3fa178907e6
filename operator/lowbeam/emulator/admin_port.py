"""The emulator's own port, for tests: look at the replicas, change the load, break a worker.

Decides routes and input checks only. It listens on 127.0.0.1 and only where `--admin-port` asks for it. Part of the
emulator (tests and demos only).

    GET /replicas                                              -> what each worker does, with its latency
    PUT /load    {"factor": 1.5}                               factor on every workload's declared load, from now on
    PUT /faults  {"namespace": "a", "pod": "p", "faults": ["Silent"]}   exactly these; [] heals; "workload" instead of
                                                               "pod" means all its pods, neither means the namespace's;
                                                               the pod of a node agent takes Silent and IgnoreControl
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lowbeam.emulator.faults import Fault
from lowbeam.emulator.fleet import Fleet


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class LoadBody(_Body):
    """Body of PUT /load."""

    factor: float = Field(ge=0)


class FaultsBody(_Body):
    """Body of PUT /faults."""

    namespace: str
    workload: str = ""
    pod: str = ""
    faults: set[Fault]


def admin_app(fleet: Fleet) -> web.Application:
    """The routes above, over one fleet."""

    async def replicas(_request: web.Request) -> web.Response:
        fleet.share_load()
        return web.json_response([_row(fleet, address) for address in sorted(fleet.addresses())])

    async def load(request: web.Request) -> web.Response:
        fleet.share_load()  # what was offered until now stays at the old factor
        fleet.load_factor = LoadBody.model_validate_json(await request.read()).factor
        fleet.share_load()
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def faults(request: web.Request) -> web.Response:
        body = FaultsBody.model_validate_json(await request.read())
        matched = fleet.set_faults(body.faults, body.namespace, workload=body.workload, pod=body.pod)
        status = HTTPStatus.OK if matched else HTTPStatus.NOT_FOUND
        return web.json_response({"matched": matched}, status=status)

    app = web.Application(middlewares=[_refuse_bad_bodies])
    app.add_routes([web.get("/replicas", replicas), web.put("/load", load), web.put("/faults", faults)])
    return app


@web.middleware
async def _refuse_bad_bodies(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        return web.json_response({"error": f"{where}: {problem['msg']}"}, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return answer


def _row(fleet: Fleet, address: str) -> dict[str, Any]:
    played = fleet.everyone()[address]
    sample = played.replica.telemetry(fleet.now(), 1.0)
    return {
        "namespace": played.member.namespace,
        "pod": played.member.name,
        "workload": played.member.workload,
        "address": address,
        "state": sample.state,
        "model": sample.profile.model,
        "batchLimit": sample.profile.batch_limit,
        "boardLimitWatts": played.limit_watts,
        "watts": sample.watts,
        "offeredRequestsPerSecond": played.replica.offered_rps,
        "requestsRunning": sample.requests_running,
        "requestsWaiting": sample.requests_waiting,
        "requestsTotal": sample.requests_total,
        "latencyP95Milliseconds": played.replica.latency_p95_ms,
        "faults": sorted(played.faults),
    }
