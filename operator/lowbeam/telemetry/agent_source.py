"""Node agents: what the boards of each node draw, who holds them, and the way to their power limits.

Decides what counts as a node's answer. An agent that answers for another node, or whose reading is from the future, is
not heard. Which board gets which limit is `runtime.board_limits`' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from lowbeam.api.wire import ChangeRefusal, LimitChange, LimitReport, NodeTelemetry
from lowbeam.telemetry import pod_http
from lowbeam.telemetry.pod_http import Failure, PodHttp, first_problem
from lowbeam.telemetry.polling import Poller
from lowbeam.telemetry.samples import CLOCK_TOLERANCE_MS, SampleError, SampleProblem, SampleSource


@dataclass(frozen=True, slots=True)
class AgentEndpoint:
    """The agent of one node, and where it answers: `http://10.0.0.9:9466`."""

    pod_uid: str
    namespace: str
    pod: str
    node: str
    url: str


@dataclass(frozen=True, slots=True)
class NodeReading:
    """What an agent last said; times as those of a `Sample`."""

    telemetry: NodeTelemetry
    sampled_at_ms: int
    received_at_ms: int

    def age_ms(self, now_ms: int) -> int:
        """Age of the reading itself."""
        return now_ms - self.sampled_at_ms


@dataclass(frozen=True, slots=True)
class LimitRefusal:
    """Limits that were not set as asked for, and why; nothing may be concluded about any board."""

    message: str
    generation: int | None = None
    """The one in force, where the agent told it: a change needs a larger one."""


class AgentPoller(Poller[AgentEndpoint, NodeReading]):
    """Telemetry of many node agents, and their limits."""

    def __init__(
        self,
        *,
        monotonic_ms: Callable[[], int],
        now: Callable[[], datetime],
        token: Callable[[], str] = str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        poll_seconds: float = 2.0,
    ) -> None:
        """`token`: the agents' bearer token, asked for at every change; empty where limits are not ours to set."""
        self._http = PodHttp()
        self._now = now
        self._token = token
        super().__init__(self._http, monotonic_ms=monotonic_ms, sleep=sleep, poll_seconds=poll_seconds)

    def endpoints(self) -> list[AgentEndpoint]:
        """The agents that are asked."""
        return list(self._endpoints.values())

    async def set_limits(self, endpoint: AgentEndpoint, change: LimitChange) -> LimitReport | LimitRefusal:
        """PUT /limits. A report tells the boards as read back, with a `problem` where one does not obey; safe to
        repeat with the same generation, which renews the leases."""
        body = change.model_dump_json(by_alias=True).encode()
        answer = await self._http.ask(
            "PUT",
            f"{endpoint.url}/limits",
            token=self._token(),
            body=body,
            seconds=pod_http.CHANGE_TIMEOUT_SECONDS,
        )
        if isinstance(answer, Failure):
            return LimitRefusal(f"{_who(endpoint)}: {answer.what}")
        try:
            if answer.status in (200, 503):
                return LimitReport.model_validate_json(answer.content)
            refusal = ChangeRefusal.model_validate_json(answer.content)
        except ValidationError:
            return LimitRefusal(f"{_who(endpoint)}: HTTP {answer.status} {answer.detail}")
        return LimitRefusal(f"{_who(endpoint)}: {refusal.error}", refusal.generation)

    async def _read(self, endpoint: AgentEndpoint) -> NodeReading | SampleError:
        answer = await self._http.ask("GET", f"{endpoint.url}/telemetry", seconds=pod_http.READ_TIMEOUT_SECONDS)
        if isinstance(answer, Failure):
            return self._error(endpoint, answer.problem, answer.what)
        if answer.status != 200:
            return self._error(endpoint, SampleProblem.REFUSED, f"HTTP {answer.status} {answer.detail}")
        try:
            claim = NodeTelemetry.model_validate_json(answer.content)
        except ValidationError as error:
            return self._error(endpoint, SampleProblem.BAD_SCHEMA, first_problem(error, "agent"))
        if claim.node != endpoint.node:
            what = f"the agent of node {claim.node} answers: its address was given to another pod"
            return self._error(endpoint, SampleProblem.OTHER_POD, what)
        received_at_ms = self._monotonic_ms()
        age_ms = round(self._now().timestamp() * 1000 - claim.sampled_at_seconds * 1000)
        if age_ms < -CLOCK_TOLERANCE_MS:
            what = f"its reading is stamped {-age_ms} ms ahead: check NTP on its node"
            return self._error(endpoint, SampleProblem.CLOCK_AHEAD, what)
        return NodeReading(claim, received_at_ms - max(0, age_ms), received_at_ms)

    def _error(self, endpoint: AgentEndpoint, problem: SampleProblem, what: str) -> SampleError:
        message = f"{_who(endpoint)}: {what}"
        return SampleError(endpoint.pod_uid, SampleSource.AGENT, self._monotonic_ms(), problem, message)


def _who(endpoint: AgentEndpoint) -> str:
    return f"agent {endpoint.namespace}/{endpoint.pod} of node {endpoint.node} at {endpoint.url}"
