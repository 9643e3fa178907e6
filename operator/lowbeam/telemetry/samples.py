"""One reading of one pod, wherever it came from: with its unit, its source and its age.

Decides the vocabulary. Whether a reading is believed is `power.trust`'s business, so values arrive here as they were
claimed. Never turns a failure into a number: there is a `Sample`, or a `SampleError` that says why there is none.

Times: `sampled_at_ms` and `received_at_ms` are on the *operator's monotonic* clock. A worker stamps its reading with
wall time; the age that it had on arrival is subtracted from the arrival, so later jumps of a wall clock change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lowbeam.api.wire import DeviceReading, MeterMethod, MeterScope, RunningProfile, WorkerState

CLOCK_TOLERANCE_MS = 2000
"""Clocks of nodes under NTP agree within milliseconds; a reading more than this in the future is a wrong clock."""


class SampleSource(StrEnum):
    """Who was asked."""

    WORKER = "worker"
    ENGINE = "engine"
    """The metrics of an engine that is not ours: it counts requests and knows no watts."""
    PROMETHEUS = "prometheus"
    AGENT = "agent"
    """The agent of its node."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one meter claims for one pod, all its boards together. `None` = not known, never zero."""

    pod_uid: str
    source: SampleSource
    sampled_at_ms: int
    """When the meter was read."""
    received_at_ms: int
    """When the answer arrived."""
    milliwatts: int | None
    method: MeterMethod
    scope: MeterScope
    joules_total: float | None = None
    """Energy counter of the boards since the worker started; grows only."""
    requests_running: int | None = None
    requests_waiting: int | None = None
    requests_received_total: int | None = None
    """Offered load: accepted or refused since start."""
    requests_completed_total: int | None = None
    counted_at_ms: int | None = None
    """When the counters of requests and tokens were read, where that is another moment than the meter's."""
    counted_by: SampleSource | None = None
    """Who counted requests and tokens, where that is somebody else than `source`. Each counts others: a worker all that
    arrives, an engine's series what was not refused."""
    input_tokens_total: int | None = None
    output_tokens_total: int | None = None
    profile: RunningProfile | None = None
    """What the worker runs; None from sources that cannot know."""
    state: WorkerState | None = None
    devices: tuple[DeviceReading, ...] = ()
    limit_milliwatts: int = 0
    """Power limit that those of its boards enforce together that the agent of the node has limited."""
    limited_boards: int = 0
    """How many these are; 0 where others hold one of its boards too."""

    def age_ms(self, now_ms: int) -> int:
        """Age of the reading itself."""
        return now_ms - self.sampled_at_ms


class SampleProblem(StrEnum):
    """Why there is no sample: a metric label and a log field."""

    UNREACHABLE = "Unreachable"
    TIMEOUT = "Timeout"
    REFUSED = "Refused"
    """Answered with another status than 200."""
    UNAUTHORIZED = "Unauthorized"
    BAD_SCHEMA = "BadSchema"
    TOO_LARGE = "TooLarge"
    OTHER_POD = "OtherPod"
    """Another pod answers at this address."""
    CLOCK_AHEAD = "ClockAhead"
    """The reading is stamped in the future."""
    NO_DATA = "NoData"


@dataclass(frozen=True, slots=True)
class SampleError:
    """No sample, and why. `message` says what happened, to which pod, and what to do."""

    pod_uid: str
    source: SampleSource
    at_ms: int
    problem: SampleProblem
    message: str

    @property
    def disproves(self) -> bool:
        """Whether the last good sample of this pod must not be used any longer, whatever its age."""
        return self.problem in (SampleProblem.BAD_SCHEMA, SampleProblem.OTHER_POD, SampleProblem.CLOCK_AHEAD)
