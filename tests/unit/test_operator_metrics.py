"""What the operator's metrics say of conditions, of its own event loop, and after it led."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning import Plan
from lowbeam.runtime.controller import Controller
from lowbeam.runtime.fleet import Fleet
from lowbeam.runtime.health import Health, watch_the_event_loop
from lowbeam.runtime.metrics import REGISTRY, workload_dimmed
from lowbeam.runtime.object_metrics import ObjectMetrics
from lowbeam.runtime.reporter import Reporter
from lowbeam.runtime.settings import OperatorSettings
from lowbeam.runtime.world import Objects
from tests.fakes.agents import no_agents
from tests.fakes.clock import VirtualClock
from tests.unit.test_runtime_cap_status import CAP


def an_object(name: str, namespace: str | None = None, **conditions: str) -> dict[str, Any]:
    metadata = {"name": name} | ({} if namespace is None else {"namespace": namespace})
    status = {"conditions": [{"type": type_, "status": value} for type_, value in conditions.items()]}
    return {"metadata": metadata, **({"status": status} if conditions else {})}


def served(objects: Objects) -> dict[tuple[str, ...], float]:
    samples = (it for family in ObjectMetrics(lambda: objects).collect() for it in family.samples)
    return {(it.name, *it.labels.values()): it.value for it in samples}


def test_conditions_are_series_of_their_objects() -> None:
    found = served(
        Objects(
            workloads=(an_object("chat", "shop", Ready="False", Dimmed="Unknown"), an_object("new", "shop")),
            power_caps=(an_object("row", WithinCap="True"),),
            model_cards=(an_object("good", Ready="True"), an_object("bad", Ready="False"), an_object("unseen")),
        )
    )
    assert found["lowbeam_workload_condition", "shop", "chat", "Ready"] == 0
    assert math.isnan(found["lowbeam_workload_condition", "shop", "chat", "Dimmed"])
    assert found["lowbeam_cap_condition", "row", "WithinCap"] == 1
    assert [found["lowbeam_catalogue_objects", "ModelCard", it] for it in ("True", "False", "Unknown")] == [1, 1, 1]
    assert found["lowbeam_catalogue_objects", "EnergyProfile", "False"] == 0
    assert not [key for key in found if "new" in key], "nothing is said of it yet"


def test_what_a_request_takes_is_a_series_of_what_runs() -> None:
    rated = an_object("chat", "shop", Ready="True")
    rated["status"]["energy"] = {"joulesPerRequest": "61.25", "stars": "****"}
    unrated = an_object("words", "shop", Ready="True")
    unrated["status"]["energy"] = {"joulesPerRequest": "0.030", "stars": "Unrated"}
    found = served(Objects(workloads=(rated, unrated, an_object("paused", "shop", Ready="False"))))
    assert found["lowbeam_workload_joules_per_request", "shop", "chat"] == 61.25
    assert found["lowbeam_workload_stars", "shop", "chat"] == 4
    assert found["lowbeam_workload_joules_per_request", "shop", "words"] == 0.03
    assert ("lowbeam_workload_stars", "shop", "words") not in found
    assert {key[0] for key in found if "paused" in key} == {"lowbeam_workload_condition"}


async def test_a_loop_that_is_held_up_is_seen() -> None:
    def over_a_tenth() -> float:
        total = REGISTRY.get_sample_value("lowbeam_event_loop_lag_seconds_count") or 0.0
        return total - (REGISTRY.get_sample_value("lowbeam_event_loop_lag_seconds_bucket", {"le": "0.1"}) or 0.0)

    before, watching = over_a_tenth(), asyncio.create_task(watch_the_event_loop())
    await asyncio.sleep(0)
    time.sleep(0.5)  # noqa: ASYNC251 - this is what must not be done
    await asyncio.sleep(0.01)
    watching.cancel()
    assert over_a_tenth() == before + 1


async def test_who_leads_no_longer_shows_no_figures() -> None:
    clock = VirtualClock()
    parts: dict[str, Any] = {name: MagicMock() for name in ("poller", "executor", "applier", "recorder")}
    reporter = Reporter(parts.pop("applier"), parts.pop("recorder"), clock)
    settings, health = OperatorSettings(identity="me"), Health(clock)
    controller = Controller(
        settings=settings,
        clock=clock,
        health=health,
        reporter=reporter,
        board_limits=no_agents(clock),
        leads=lambda: False,
        **parts,
    )
    controller.mirror = MagicMock()
    controller._fleet = Fleet()
    reporter.forget([("shop", "chat")], [])  # a tick that has shown it
    workload_dimmed.labels("shop", "chat").set(1)
    written = asyncio.get_running_loop().create_future()

    async def report() -> None:
        await written
        workload_dimmed.labels("shop", "chat").set(1)

    controller._reporting = asyncio.create_task(report())
    await asyncio.sleep(0)
    assert await controller._lead() is None
    if not written.done():
        written.set_result(None)
    await asyncio.gather(controller._reporting, return_exceptions=True)
    labels = {"namespace": "shop", "workload": "chat"}
    assert REGISTRY.get_sample_value("lowbeam_workload_dimmed", labels) is None


@pytest.mark.parametrize(
    ("enforced", "problem", "shown"),
    [(True, "", 1), (False, "", 0), (True, reasons.CAP_PARENT_MISSING, 0), (True, reasons.CAP_SCHEDULE_INVALID, 1)],
)
async def test_a_cap_counts_as_enforced_only_while_it_is_kept(enforced: bool, problem: str, shown: int) -> None:
    applier = MagicMock()
    applier.apply_status = AsyncMock()
    raw = {"metadata": {"name": "row", "uid": "u", "generation": 1}}
    facts = replace(CAP, enforced=enforced, problem=problem, problem_reason=problem)
    await Reporter(applier, MagicMock(), VirtualClock()).cap(raw, facts)
    assert REGISTRY.get_sample_value("lowbeam_cap_enforced", {"cap": "row"}) == shown


def test_a_plan_that_may_not_be_the_best_is_counted() -> None:
    def counted() -> list[float]:
        names = [("lowbeam_plans_total", {"proven": it}) for it in ("True", "False")]
        names.append(("lowbeam_planner_passes_given_up_total", {}))
        return [REGISTRY.get_sample_value(*name) or 0.0 for name in names]

    reporter, before = Reporter(MagicMock(), MagicMock(), VirtualClock()), counted()
    for made in (Plan(()), Plan((), proven=False), Plan((), proven=False, passes_given_up=3)):
        reporter.planned(made, {}, Fleet(), ())
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 2, 3]
