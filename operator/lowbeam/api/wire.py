"""Messages between the operator and a worker pod (or the node agent, or the emulator): telemetry and control.

Decides the schema only. Both sides validate with these models, so a reading with a wrong unit or a missing field is
refused where it arrives and counts as stale (worst case), never as 0 W.

Routes on the control port (`CONTROL_PORT`), JSON bodies, `Authorization: Bearer TOKEN` where a token is configured:
    GET   /telemetry         -> WorkerTelemetry
    GET   /control/profile   -> RunningProfile
    PATCH /control/profile   ProfileChange -> ProfileChangeResult; 409 ChangeRefusal when `generation` is not newer than
                             the one in force; the same generation with the same body is answered again without a second
                             change; 422 when one of the values cannot be had, and then none of them is changed
    POST  /control/drain     -> 202 DrainStarted; `/ready` turns 503, requests in flight finish

Routes on the node agent's port (`AGENT_PORT`):
    GET   /telemetry         -> NodeTelemetry
    GET   /limits            -> LimitReport (with the bearer token)
    PUT   /limits            LimitChange -> LimitReport (with the bearer token): 200 when every board was read back at
                             or below its limit, 503 when one was not; ChangeRefusal with 403 where limits are off, 409
                             for an old generation, 422 for a limit that a board cannot have: none of them is changed

Invariants: watts and joules are totals over the devices of the pod; `None` means unknown, never zero.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

SERVING_PORT = 8080
CONTROL_PORT = 9465
AGENT_PORT = 9466

LARGEST_COUNT = 2**63 - 1
"""A worker that counts beyond it is not believed: its answer is refused as a whole."""
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Counted = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
"""A `Count` of at least one."""


BoardWatts = Annotated[float, Field(ge=-1e15, le=1e15)]
"""A wrong unit fits: the guard judges it."""


class WireModel(BaseModel):
    """Base: camelCase on the wire, unknown fields are ignored so that old operators read new workers."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore", allow_inf_nan=False
    )


class MeterMethod(StrEnum):
    """How the watts were obtained. `unavailable`: there is no meter, or it was lost, and its last reading is told."""

    NVML = "nvml"
    RAPL = "rapl"
    EMULATED = "emulated"
    UNAVAILABLE = "unavailable"


class MeterScope(StrEnum):
    """What the meter covers: boards that are ours alone, or boards shared with others (an estimate)."""

    DEVICE = "device"
    SHARED = "shared"
    NONE = "none"


class DeviceReading(WireModel):
    """One accelerator board. Units: watts, joules."""

    uuid: str = Field(min_length=1, max_length=128)
    watts: BoardWatts | None = None
    joules_total: float | None = Field(default=None, description="Monotonic energy counter since driver load")
    power_limit_watts: BoardWatts | None = Field(default=None, description="Enforced limit, read back from the device")


class EnergyParts(WireModel):
    """Where the device's joules went since the worker started; the parts add up to `counter`."""

    active: float = 0.0
    idle: float = 0.0
    load: float = 0.0
    reconfigure: float = 0.0
    counter: float = Field(default=0.0, description="Difference of the device counter over the same time, joules")


class RunningProfile(WireModel):
    """What the worker runs now."""

    model: str
    precision: str
    reasoning: str = "Off"
    batch_limit: Counted = Field(description="Most requests (decoders) or rows (encoders) in one engine step")
    generation: Count = Field(default=0, description="Generation of the last accepted change; 0 = as started")
    token_budget: Counted | None = Field(default=None, description="Most tokens (encoders: padded) in one engine step")
    default_output_tokens: Counted | None = Field(default=None, description="Longest answer where none is asked for")
    max_output_tokens: Counted | None = Field(default=None, description="Longest answer that may be asked for")
    default_thinking_tokens: Count | None = Field(default=None, description="None = thinking ends by itself")
    max_thinking_tokens: Count | None = Field(default=None, description="None = no ceiling")
    requests_per_second: float | None = Field(default=None, gt=0, description="Admission rate; None = no limit")
    power_budget_watts: float | None = Field(
        default=None, gt=0, description="Admission pauses above it; None = no limit"
    )


class WorkerState(StrEnum):
    """The readiness state machine of a worker."""

    LOADING = "loading"
    READY = "ready"
    RECONFIGURING = "reconfiguring"
    DRAINING = "draining"
    FAILED = "failed"


class WorkerTelemetry(WireModel):
    """One sample of one worker pod."""

    schema_version: int = Field(default=1, ge=1)
    pod: str = Field(description="Pod name, from POD_NAME")
    namespace: str = ""
    state: WorkerState
    profile: RunningProfile
    method: MeterMethod
    scope: MeterScope
    sampled_at_seconds: float = Field(
        gt=0, le=1e11, description="Unix time of the meter reading itself, not of the answer"
    )
    watts: float | None = Field(default=None, ge=-1e15, le=1e15, description="A wrong unit fits; the guard judges it")
    devices: tuple[DeviceReading, ...] = ()
    energy_joules: EnergyParts | None = None
    requests_running: Count = 0
    requests_waiting: Count = 0
    requests_total: Count = Field(default=0, description="Completed since start")
    requests_received_total: Count = Field(default=0, description="Accepted or refused since start: the offered load")
    input_tokens_total: Count = 0
    output_tokens_total: Count = 0
    cpu_seconds_total: float = Field(default=0.0, ge=0)


class DeviceHolder(WireModel):
    """A container that the kubelet has given a board, or a part of it."""

    namespace: str
    pod: str
    container: str


class LimitOrigin(StrEnum):
    """Who set the power limit of a board."""

    DEFAULT = "default"
    AGENT = "agent"
    OTHER = "other"


class BoardReading(DeviceReading):
    """A board as the node agent sees it."""

    holders: tuple[DeviceHolder, ...] | None = Field(
        default=None, description="() = the kubelet says that nobody holds it; None = the kubelet was never heard"
    )
    min_limit_watts: BoardWatts | None = None
    max_limit_watts: BoardWatts | None = None
    default_limit_watts: BoardWatts | None = None
    limit_origin: LimitOrigin | None = None


class NodeTelemetry(WireModel):
    """One sample of all boards of a node, from the node agent; served at GET /telemetry on `AGENT_PORT`."""

    schema_version: int = Field(default=1, ge=1)
    node: str = Field(min_length=1, description="Node name, from NODE_NAME")
    sampled_at_seconds: float = Field(
        gt=0, le=1e11, description="Unix time of the meter reading itself, not of the answer"
    )
    pods_listed_at_seconds: float | None = Field(
        default=None, description="Unix time of the kubelet's answer behind `holders`; a failed list keeps the last one"
    )
    limits_allowed: bool = Field(default=False, description="Whether PUT /limits sets power limits here")
    devices: tuple[BoardReading, ...] = ()


LIMIT_LEASE_SECONDS = 30.0


class LimitWish(WireModel):
    """The power limit that one board shall have while the lease runs."""

    uuid: str = Field(min_length=1, max_length=128)
    watts: float | None = Field(description="None = give the board back the limit it had before", gt=0, le=1e5)
    safe_watts: float | None = Field(
        default=None, gt=0, le=1e5, description="Limit after a lease that was not renewed; None = the one found before"
    )


class LimitChange(WireModel):
    """Body of PUT /limits on `AGENT_PORT`; the same body again renews the leases of its boards.

    A board that a newer generation leaves out keeps its limit until its own lease ends.
    """

    generation: int = Field(ge=1, description="Grows with every decision; makes the change idempotent")
    lease_seconds: float = Field(default=LIMIT_LEASE_SECONDS, ge=1, le=300)
    limits: tuple[LimitWish, ...] = Field(min_length=1, max_length=64)


class LimitState(WireModel):
    """A board's limit as read back from the board."""

    uuid: str
    watts: float | None = Field(description="What was asked for (or fell to after the lease); None = not held")
    enforced_watts: float | None = Field(description="Read back: the smallest of all limiters; None = not readable")
    found_watts: float | None = Field(description="The limit before the agent's first change, which it gives back")
    lease_ends_in_seconds: float | None = Field(description="None = no lease runs")
    problem: str | None = Field(default=None, description="Why the board does not enforce what was asked for")


class LimitReport(WireModel):
    """Answer to PUT and GET /limits."""

    generation: int = Field(ge=0)
    limits: tuple[LimitState, ...]


class ProfileChange(WireModel):
    """Body of PATCH /control/profile: desired values; fields left out stay as they are.

    An explicit null lifts `default_thinking_tokens`, `max_thinking_tokens`, `requests_per_second` and
    `power_budget_watts`; of the other fields, which have no "no limit", it changes nothing.
    """

    generation: int = Field(ge=1, description="Grows with every decision; makes the change idempotent")
    batch_limit: int | None = Field(default=None, ge=1, le=65536)
    token_budget: int | None = Field(default=None, ge=1, le=1 << 20)
    default_output_tokens: int | None = Field(default=None, ge=1, le=1 << 20)
    max_output_tokens: int | None = Field(default=None, ge=1, le=1 << 20)
    default_thinking_tokens: int | None = Field(default=None, ge=0, le=1 << 20)
    max_thinking_tokens: int | None = Field(default=None, ge=0, le=1 << 20)
    requests_per_second: float | None = Field(default=None, gt=0, le=1e6)
    power_budget_watts: float | None = Field(default=None, gt=0, le=1e6)
    precision: str | None = Field(default=None, min_length=1, max_length=16)
    model: str | None = Field(default=None, min_length=1, max_length=253, description="Name that clients ask for")
    model_path: str | None = Field(
        default=None, min_length=1, max_length=4096, description="Where it is read from; None = under its name"
    )


class ProfileChangeResult(WireModel):
    """What a change did and what it cost."""

    profile: RunningProfile
    changed: bool
    seconds: float = Field(ge=0)
    joules: float | None = Field(default=None, description="Of the change itself; requests go on and pay their own")
    requests_touched: int = Field(default=0, ge=0, description="In flight when it was made: they go on under it")
    requests: tuple[str, ...] = Field(default=(), description="Their X-Request-Id, oldest first, at most 256 of them")


class ChangeRefusal(WireModel):
    """Body of every refusal of the control port."""

    error: str
    generation: int = Field(ge=0, description="The one in force")


class DrainStarted(WireModel):
    """Answer to POST /control/drain, the first one and any later one."""

    state: WorkerState
    requests_in_flight: int = Field(ge=0, description="They finish; nothing new is taken")
    requests: tuple[str, ...] = Field(default=(), description="Their X-Request-Id, oldest first, at most 256 of them")
