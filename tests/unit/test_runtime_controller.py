"""The loops outlive whatever a cycle raises, a leader's first one included."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
from structlog.testing import capture_logs

from lowbeam.api.v1alpha1 import WorkloadMode
from lowbeam.kube import POWER_CAPS
from lowbeam.runtime.controller import Controller
from lowbeam.runtime.executor import Outcome
from lowbeam.runtime.fleet import NOT_CARRIED_OUT, Fleet, WorkloadMemory
from lowbeam.runtime.health import Health
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.world import Objects
from tests.fakes.clock import VirtualClock


class MirrorWithABug:
    """Nothing is in it, and for a while it cannot even say that."""

    def __init__(self) -> None:
        self.broken = True

    async def wait_synced(self) -> None:
        pass

    def objects(self) -> Objects:
        if self.broken:
            raise ValueError("no one thought of this object")
        return Objects()

    def never_seen(self) -> list[str]:
        return ["nodes"]  # enough for this test: a leader that would go on to plan

    def unreachable(self) -> bool:
        return False


def a_controller(clock: VirtualClock) -> Controller:
    parts: dict[str, Any] = {name: MagicMock() for name in ("poller", "executor", "reporter")}
    settings = OperatorSettings(identity="me")
    return Controller(settings=settings, clock=clock, health=Health(clock), leads=lambda: True, **parts)


@pytest.mark.parametrize(
    ("change", "renders"),
    [({"watts": 2}, False), ({"parent": "row"}, True), ({"mode": "Observe"}, True), ({"scope": {"cluster": {}}}, True)],
)
def test_templates_follow_what_decides_whose_nodes_are_whose(change: dict[str, Any], renders: bool) -> None:
    controller = a_controller(VirtualClock())
    old = {"metadata": {"name": "rack"}, "spec": {"watts": 1, "scope": {"nodePool": {"nodeSelector": {"rack": "7"}}}}}
    controller.input_changed(POWER_CAPS, old, {**old, "spec": {**old["spec"], **change}})
    assert controller._templates_changed is renders


async def test_a_leader_that_cannot_read_its_world_tries_again() -> None:
    clock = VirtualClock()
    controller = a_controller(clock)
    mirror = MirrorWithABug()
    controller.mirror = mirror  # type: ignore[assignment]
    with capture_logs() as said:  # written out, the traceback is broken into lines of the terminal's width
        running = asyncio.create_task(controller.run())
        await clock.advance(5)
        assert not running.done()
        assert {it["event"] for it in said} == {"cycle failed and is tried again"}
        assert all(it["exc_info"] for it in said)
        mirror.broken = False
        await clock.advance(5)
        assert not running.done()
        assert "leading" in [it["event"] for it in said]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("decides_anew", [lambda it: it.planned(2), lambda it: setattr(it, "decision", MagicMock())])
async def test_a_pass_of_before_a_decision_does_not_say_that_it_is_carried_out(
    decides_anew: Callable[[WorkloadMemory], object],
) -> None:
    controller, key, world = a_controller(VirtualClock()), ("shop", "search"), MagicMock()
    world.key_of.return_value, world.requirements = key, {key: None}
    world.workloads = {key: MagicMock()}
    world.workloads[key].spec.mode = WorkloadMode.ENFORCE
    controller._world, controller._fleet, controller._plan = world, Fleet(), MagicMock()
    controller.mirror = MagicMock()
    controller.mirror.never_seen.return_value = []
    memory = controller._fleet.of(key)
    memory.target = MagicMock()
    memory.planned(1)
    meanwhile: list[Callable[[WorkloadMemory], object]] = [decides_anew]

    async def carry_out(*_: object) -> Outcome:
        while meanwhile:
            meanwhile.pop()(memory)
        return Outcome()

    controller._executor.carry_out = carry_out  # type: ignore[method-assign]
    await controller._carry_out(key)
    assert memory.waiting_for == NOT_CARRIED_OUT
    await controller._carry_out(key)
    assert not memory.waiting_for
