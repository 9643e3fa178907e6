"""Once a second: every board's figures, who holds it, and whose limit it has, as one sample with one time.

Decides nothing. The newest sample is served as it is, so an old one is seen to be old.
"""

from __future__ import annotations

import logging
import threading
import time

from lowbeam.api.wire import BoardReading, DeviceReading, LimitOrigin, NodeTelemetry
from lowbeam_agent.boardlimits import NvmlLimits
from lowbeam_agent.holders import Holders, PodList
from lowbeam_agent.leases import Leases, origin_without_agent
from lowbeam_worker.energy.boards import Boards

log = logging.getLogger(__name__)

READ_SECONDS = 1.0
FRESH_SECONDS = 10.0
"""Older readings are not those of now: NVML hangs, as it does where a board is falling off the bus."""


class Sampler:
    """Reads the boards in a thread of its own, and lets leases end there."""

    def __init__(self, node: str, boards: Boards, limits: NvmlLimits, holders: Holders, leases: Leases | None) -> None:
        self._node = node
        self._boards = boards
        self._limits = limits
        self._holders = holders
        self._leases = leases
        self._stopping = threading.Event()
        self._read_at_s = time.monotonic()
        self._last = self._sample()
        self._thread = threading.Thread(target=self._run, name="boards", daemon=True)
        for board in self._last.devices:
            if board.limit_origin is LimitOrigin.OTHER:
                log.warning(
                    "%s: its limit is %s W, not the default of %s W, and no record says why: it is left alone",
                    *(board.uuid, board.power_limit_watts, board.default_limit_watts),
                )

    @property
    def last(self) -> NodeTelemetry:
        """The newest sample."""
        return self._last

    @property
    def age_s(self) -> float:
        """Seconds since the newest sample."""
        return time.monotonic() - self._read_at_s

    def start(self) -> None:
        """Start reading once a second."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.wait(READ_SECONDS):
            if self._leases is not None:
                self._leases.tick()
            self._last, self._read_at_s = self._sample(), time.monotonic()

    def _sample(self) -> NodeTelemetry:
        reading, pods = self._boards.read(), self._holders.last
        return NodeTelemetry(
            node=self._node,
            sampled_at_seconds=reading.at_unix_s,
            pods_listed_at_seconds=pods.at_unix_s if pods else None,
            devices=tuple(self._board(device, pods) for device in reading.devices),
        )

    def _board(self, device: DeviceReading, pods: PodList | None) -> BoardReading:
        facts = self._limits.read(device.uuid)
        origin = self._leases.origin(device.uuid, facts) if self._leases else origin_without_agent(facts)
        return BoardReading(
            **device.model_dump(),
            holders=pods.by_board.get(device.uuid, ()) if pods else None,
            min_limit_watts=_watts(facts.min_milliwatts),
            max_limit_watts=_watts(facts.max_milliwatts),
            default_limit_watts=_watts(facts.default_milliwatts),
            limit_origin=origin,
        )


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
