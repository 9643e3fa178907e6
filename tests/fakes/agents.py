"""Node agents for tests of what is around them."""

from __future__ import annotations

from lowbeam.runtime.board_limits import BoardLimits
from lowbeam.telemetry import AgentPoller
from tests.fakes.clock import VirtualClock


def no_agents(clock: VirtualClock | None = None) -> BoardLimits:
    """The power limits of a cluster without agents."""
    clock = clock or VirtualClock()
    agents = AgentPoller(monotonic_ms=clock.monotonic_ms, now=clock.now, sleep=clock.sleep)
    return BoardLimits(agents, clock, allowed=False, tick_seconds=2.0)
