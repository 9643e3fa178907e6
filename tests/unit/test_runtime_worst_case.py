"""What a replica is charged is one figure, whoever asks for it: sizing of an option, or the ledger of a pod."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lowbeam.api.wire import MeterMethod, MeterScope, RunningProfile
from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import ProfilePoint
from lowbeam.planning.committed import replica_milliwatts
from lowbeam.render import Placement
from lowbeam.runtime.meters import Meters, worst_case_milliwatts
from lowbeam.runtime.replicas import Child, Replica
from lowbeam.runtime.world import Objects, Observation, Parser, World, build_world
from lowbeam.sizing import Inventory, Option, Sizer
from lowbeam.sizing.correction import Correction, digest_of, key_of
from lowbeam.sizing.worst_case import worst_case_at, worst_cases
from lowbeam.telemetry import Sample, SampleSource
from tests.raw_objects import TODAY

CATALOGUE = load_builtin()
KEY = ("team", "chat")
MODEL = "qwen3-4b-instruct-2507"
STOCK = (Inventory("", "h100", 16, 8), Inventory("", "h200", 16, 8))


def world(*percents: int) -> World:
    raw: dict[str, Any] = {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {"name": "chat", "namespace": "team", "uid": "u", "resourceVersion": "1", "generation": 1},
        "spec": {
            "task": "text-generation",
            "load": {"requestsPerMinute": 600, "inputTokens": 500, "outputTokens": 400},
            "latency": {"timeToFirstTokenMilliseconds": 60_000, "interTokenMilliseconds": 1000},
            "model": {"pinned": MODEL},
        },
    }
    profiles = CATALOGUE.profiles_of(MODEL, "text-generation")
    told = tuple(Correction(key_of(it), digest_of(it), percent) for it in profiles for percent in percents)
    return build_world(Objects(workloads=(raw,)), TODAY, Parser(), {KEY: Observation(corrections=told)})


@pytest.mark.parametrize("percents", [(), (80,), (137,)])
def test_a_pod_is_charged_the_same_whether_it_is_at_its_target_or_not(percents: tuple[int, ...]) -> None:
    needs = world(*percents).requirements[KEY]
    options = Sizer(CATALOGUE, STOCK).options_for(needs).options
    assert {option.accelerator_class for option in options} == {"h100", "h200"}, "a published and a modelled profile"
    for option in options:
        boards = CATALOGUE.accelerator_classes[option.accelerator_class].max_milliwatts
        charged = worst_case_milliwatts(
            CATALOGUE,
            Placement.of(option),
            needs.task,
            option.batch_limit,
            boards * option.accelerators_per_replica,
            corrections=needs.corrections,
        )
        assert charged == replica_milliwatts(option), option.id


@pytest.mark.parametrize("percents", [(), (112,)])
def test_a_decision_alone_changes_nothing_about_what_a_running_pod_is_charged(percents: tuple[int, ...]) -> None:
    seen = world(*percents)
    options = Sizer(CATALOGUE, STOCK).options_for(seen.requirements[KEY]).options
    modelled = next(it for it in options if it.accelerator_class == "h200" and it.accelerators_per_replica == 1)
    alike = [it for it in options if it.placement_key == modelled.placement_key]
    alike.sort(key=replica_milliwatts)
    low, high = alike[0], alike[-1]
    placement = Placement.of(high)
    pod = Replica("pod-1", "chat-1", KEY, "d", "10.0.0.1", "n1", 1, True, True, False, "")
    running = replace(seen, replicas={KEY: [pod]}, children={KEY: [Child("chat-d", "u", placement, "d", 1, 1, {})]})
    profile = RunningProfile(model=high.model, precision=high.precision, batch_limit=high.batch_limit)
    told = Sample(
        "pod-1", SampleSource.WORKER, 1000, 1000, None, MeterMethod.UNAVAILABLE, MeterScope.NONE, profile=profile
    )

    def charged(decided: Option | None) -> int:
        return Meters().read(running, {KEY: decided}, {"pod-1": told}, 1500).charges[0].milliwatts

    assert low.batch_limit < high.batch_limit
    assert {charged(it) for it in (high, low, None, replace(high, model="other"))} == {replica_milliwatts(high)}


def test_the_worst_case_has_the_uncertainty_and_smaller_batches_in_it_and_ends_at_the_boards_limit() -> None:
    points = tuple(
        ProfilePoint(batch, milliwatts, 1000, 10, 20) for batch, milliwatts in ((2, 101), (4, 160), (8, 150), (16, 900))
    )
    profile = replace(CATALOGUE.profiles[0], points=points, uncertainty_percent=0)
    worst = worst_cases(replace(profile, uncertainty_percent=24), limit_milliwatts=400, idle_milliwatts=30)
    assert worst == [126, 199, 199, 400]
    assert [worst_case_at(profile, worst, limit) for limit in (1, 2, 9, None)] == [126, 126, 199, 400]
    assert worst_cases(profile, limit_milliwatts=0, idle_milliwatts=950) == [950] * 4
