"""Messages between the operator and a worker pod (or the node agent, or the emulator): telemetry and control.

Decides the schema only. Both sides validate with these models, so a reading with a wrong unit or a missing field is
refused where it arrives and counts as stale (worst case), never as 0 W.

Routes on the control port (`CONTROL_PORT`), JSON bodies, `Authorization: Bearer TOKEN` where a token is configured:
    GET   /telemetry         -> WorkerTelemetry
    GET   /control/profile   -> RunningProfile
    PATCH /control/profile   ProfileChange -> ProfileChangeResult; 409 when `generation` is older than the one in force;
                             the same generation with the same body is answered again without a second change
    POST  /control/drain     -> 202; `/ready` turns 503, requests in flight finish

Invariants: watts and joules are totals over the devices of the pod; `None` means unknown, never zero.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

SERVING_PORT = 8080
CONTROL_PORT = 9465
AGENT_PORT = 9466


class WireModel(BaseModel):
    """Base: camelCase on the wire, unknown fields are ignored so that old operators read new workers."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore", allow_inf_nan=False
    )


class MeterMethod(StrEnum):
    """How the watts were obtained. `unavailable` comes with `None` in every energy field."""

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
    watts: float | None = None
    joules_total: float | None = Field(default=None, description="Monotonic energy counter since driver load")
    power_limit_watts: float | None = Field(default=None, description="Enforced limit, read back from the device")


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
    batch_limit: int = Field(ge=1, description="Most requests (decoders) or rows (encoders) in one engine step")
    generation: int = Field(default=0, ge=0, description="Generation of the last accepted change; 0 = as started")


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
    sampled_at_seconds: float = Field(gt=0, description="Unix time of the meter reading itself, not of the answer")
    watts: float | None = None
    devices: tuple[DeviceReading, ...] = ()
    energy_joules: EnergyParts | None = None
    requests_running: int = Field(default=0, ge=0)
    requests_waiting: int = Field(default=0, ge=0)
    requests_total: int = Field(default=0, ge=0, description="Completed since start")
    requests_received_total: int = Field(
        default=0, ge=0, description="Accepted or refused since start: the offered load"
    )
    input_tokens_total: int = Field(default=0, ge=0)
    output_tokens_total: int = Field(default=0, ge=0)
    cpu_seconds_total: float = Field(default=0.0, ge=0)


class NodeTelemetry(WireModel):
    """One sample of all boards of a node, from the node agent; served at GET /telemetry on `AGENT_PORT`."""

    schema_version: int = Field(default=1, ge=1)
    node: str = Field(min_length=1, description="Node name, from NODE_NAME")
    sampled_at_seconds: float = Field(gt=0, description="Unix time of the meter reading itself, not of the answer")
    devices: tuple[DeviceReading, ...] = ()


class ProfileChange(WireModel):
    """Body of PATCH /control/profile: desired values; fields left out stay as they are."""

    generation: int = Field(ge=1, description="Grows with every decision; makes the change idempotent")
    batch_limit: int | None = Field(default=None, ge=1, le=65536)


class ProfileChangeResult(WireModel):
    """What a change did and what it cost."""

    profile: RunningProfile
    changed: bool
    seconds: float = Field(ge=0)
    joules: float | None = None
