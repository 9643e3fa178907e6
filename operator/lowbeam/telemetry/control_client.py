"""HTTP to one replica: a worker's telemetry and profile on its control port, or another engine's metrics.

Decides what counts as an answer. A wrong schema, a wrong pod, a time in the future is no answer, never 0 W; every
outcome is a value, so that one bad worker cannot raise into the loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from lowbeam.api.v1alpha1 import Engine
from lowbeam.api.wire import MeterMethod, MeterScope, ProfileChange, ProfileChangeResult, WorkerTelemetry
from lowbeam.telemetry import engine_metrics, pod_http
from lowbeam.telemetry.pod_http import Failure, PodHttp, first_problem
from lowbeam.telemetry.samples import CLOCK_TOLERANCE_MS, Sample, SampleError, SampleProblem, SampleSource

LARGEST_EXPOSITION_BYTES = 4 * 1024 * 1024
"""vLLM's has some 100 kB, many times that with several engine processes or adapters."""


@dataclass(frozen=True, slots=True)
class WorkerEndpoint:
    """One replica and where it tells of itself: `http://10.0.0.7:9465`, the control port of a native worker, or the
    serving port of another engine, which has its metrics."""

    pod_uid: str
    namespace: str
    pod: str
    url: str
    token: str | None = None
    engine: Engine = Engine.NATIVE
    node: str = ""
    """Where it runs: what the agent of another node says of it does not count."""


class ControlClient(PodHttp):
    """Connections to many control ports."""

    def __init__(self, *, monotonic_ms: Callable[[], int], now: Callable[[], datetime]) -> None:
        super().__init__()
        self._monotonic_ms = monotonic_ms
        self._now = now

    async def read(self, endpoint: WorkerEndpoint) -> Sample | SampleError:
        """GET /telemetry, or /metrics of an engine that is not ours."""
        if endpoint.engine is not Engine.NATIVE:
            return await self._read_engine(endpoint)
        answer = await self._ask(endpoint, "GET", "/telemetry", None, pod_http.READ_TIMEOUT_SECONDS)
        return answer if isinstance(answer, SampleError) else self._sample(endpoint, answer)

    async def change_profile(
        self, endpoint: WorkerEndpoint, change: ProfileChange
    ) -> ProfileChangeResult | SampleError:
        """PATCH /control/profile. Safe to repeat with the same generation."""
        body = change.model_dump_json(by_alias=True, exclude_unset=True).encode()
        answer = await self._ask(endpoint, "PATCH", "/control/profile", body, pod_http.CHANGE_TIMEOUT_SECONDS)
        if isinstance(answer, SampleError):
            return answer
        try:
            return ProfileChangeResult.model_validate_json(answer)
        except ValidationError as error:
            return self._error(endpoint, SampleProblem.BAD_SCHEMA, first_problem(error, "worker"))

    async def _read_engine(self, endpoint: WorkerEndpoint) -> Sample | SampleError:
        answer = await self._ask(
            endpoint, "GET", "/metrics", None, pod_http.READ_TIMEOUT_SECONDS, most_bytes=LARGEST_EXPOSITION_BYTES
        )
        if isinstance(answer, SampleError):
            return answer
        try:
            counts = engine_metrics.read(endpoint.engine, answer.decode(errors="replace"))
        except ValueError as error:
            what = f"/metrics is not what {endpoint.engine} exports: {error}; does the image match spec.engine?"
            return self._error(endpoint, SampleProblem.BAD_SCHEMA, what)
        now_ms = self._monotonic_ms()
        return Sample(
            pod_uid=endpoint.pod_uid,
            source=SampleSource.ENGINE,
            sampled_at_ms=now_ms,
            received_at_ms=now_ms,
            milliwatts=None,
            method=MeterMethod.UNAVAILABLE,
            scope=MeterScope.NONE,
            requests_running=counts.running,
            requests_waiting=counts.waiting,
            requests_received_total=counts.accepted,
            requests_completed_total=counts.completed,
            counted_at_ms=now_ms,
            input_tokens_total=counts.input_tokens,
            output_tokens_total=counts.output_tokens,
        )

    async def _ask(
        self,
        endpoint: WorkerEndpoint,
        method: str,
        path: str,
        body: bytes | None,
        seconds: float,
        *,
        most_bytes: int = pod_http.LARGEST_ANSWER_BYTES,
    ) -> bytes | SampleError:
        answer = await self.ask(
            method, endpoint.url + path, token=endpoint.token, body=body, seconds=seconds, most_bytes=most_bytes
        )
        if isinstance(answer, Failure):
            return self._error(endpoint, answer.problem, answer.what)
        if answer.status in (401, 403):
            return self._error(endpoint, SampleProblem.UNAUTHORIZED, _unauthorized(endpoint))
        if not 200 <= answer.status < 300:
            return self._error(endpoint, SampleProblem.REFUSED, f"HTTP {answer.status} {answer.detail}")
        return answer.content

    def _sample(self, endpoint: WorkerEndpoint, answer: bytes) -> Sample | SampleError:
        try:
            claim = WorkerTelemetry.model_validate_json(answer)
        except ValidationError as error:
            return self._error(endpoint, SampleProblem.BAD_SCHEMA, first_problem(error, "worker"))
        if claim.pod != endpoint.pod or (claim.namespace and claim.namespace != endpoint.namespace):
            who = f"{claim.namespace}/{claim.pod} answers"
            return self._error(endpoint, SampleProblem.OTHER_POD, f"{who}: its address was given to another pod")
        received_at_ms = self._monotonic_ms()
        age_ms = round(self._now().timestamp() * 1000 - claim.sampled_at_seconds * 1000)
        if age_ms < -CLOCK_TOLERANCE_MS:
            return self._error(
                endpoint, SampleProblem.CLOCK_AHEAD, f"its reading is stamped {-age_ms} ms ahead: check NTP on its node"
            )
        return Sample(
            pod_uid=endpoint.pod_uid,
            source=SampleSource.WORKER,
            sampled_at_ms=received_at_ms - max(0, age_ms),
            received_at_ms=received_at_ms,
            milliwatts=None if claim.watts is None else round(claim.watts * 1000),
            method=claim.method,
            scope=claim.scope,
            joules_total=None if claim.energy_joules is None else claim.energy_joules.counter,
            requests_running=claim.requests_running,
            requests_waiting=claim.requests_waiting,
            requests_received_total=claim.requests_received_total,
            requests_completed_total=claim.requests_total,
            counted_at_ms=received_at_ms,  # a worker counts as it answers, also where its meter is lost
            input_tokens_total=claim.input_tokens_total,
            output_tokens_total=claim.output_tokens_total,
            profile=claim.profile,
            state=claim.state,
            devices=claim.devices,
        )

    def _error(self, endpoint: WorkerEndpoint, problem: SampleProblem, what: str) -> SampleError:
        who = "worker" if endpoint.engine is Engine.NATIVE else f"{endpoint.engine} pod"
        message = f"{who} {endpoint.namespace}/{endpoint.pod} at {endpoint.url}: {what}"
        source = SampleSource.WORKER if endpoint.engine is Engine.NATIVE else SampleSource.ENGINE
        return SampleError(endpoint.pod_uid, source, self._monotonic_ms(), problem, message)


def _unauthorized(endpoint: WorkerEndpoint) -> str:
    if endpoint.engine is Engine.NATIVE:
        return "token refused: operator and worker need the same control key"
    return "/metrics asks for a key: take the API key out of spec.pod (args, env) and check keys before the Service"
