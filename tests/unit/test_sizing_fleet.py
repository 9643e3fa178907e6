"""A fleet is sized in batches: each workload gets the options, reasons and order that it would get alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from lowbeam.sizing import Inventory, Option, OptionSet, Requirements, Sizer, batches
from lowbeam.sizing.correction import Correction, digest_of, key_of
from tools.bench import instances

CATALOGUE = instances.fresh_catalogue()
CLASSES = ("h100", "l4", "a100")
INVENTORY = [Inventory(pool, name, boards, 8) for pool, boards in (("a", 5), ("b", 64)) for name in CLASSES]
PROFILES = {key_of(profile): profile for profile in CATALOGUE.profiles}
Asked = list[tuple[Requirements, Option | None]]

CHANGES: tuple[Callable[[Requirements], Requirements], ...] = (
    lambda it: it,
    lambda it: replace(it, max_milliwatts=400_000),
    lambda it: replace(it, max_millijoules_per_request=5_000),
    lambda it: replace(it, max_millijoules_per_request=200_000, max_milliwatts=2_000_000),
    lambda it: replace(it, fixed_replicas=3),
    lambda it: replace(it, fixed_replicas=0),
    lambda it: replace(it, min_replicas=2, max_replicas=9),
    lambda it: replace(it, end_to_end_ms=None, time_to_first_token_ms=None, inter_token_ms=None),
    lambda it: replace(it, end_to_end_ms=4000, time_to_first_token_ms=400),
    lambda it: replace(it, end_to_end_ms=1),
    lambda it: replace(it, floor_centi=it.floor_centi + 1500, below_floor_when_capped=True),
    lambda it: replace(it, reachable=(Inventory("a", "h100", 3, 2),)),
    lambda it: replace(it, model_names=("nobody",)),
    lambda it: replace(it, demand=replace(it.demand, requests_per_second_milli=0)),
    lambda it: replace(it, demand=replace(it.demand, requests_per_second_milli=10**6)),
    lambda it: replace(it, demand=replace(it.demand, input_tokens=40_000)),
)


def fleet(count: int) -> list[Requirements]:
    """Four tasks; every other workload has lengths and a burstiness of its own, and each three another wish."""
    found = []
    for number, it in enumerate(instances.requirements(count)):
        needs = replace(CHANGES[number // 3 % len(CHANGES)](it), own_engine=number % 5 == 0)
        if number % 2:
            cv = (80, 100, 150, 240, 1700)[number % 5]
            load = replace(needs.demand, input_tokens=needs.demand.input_tokens + number, arrival_cv_percent=cv)
            needs = replace(needs, demand=load)
        found.append(needs)
    return found


def alone(asked: Asked) -> list[OptionSet]:
    sizer = Sizer(CATALOGUE, INVENTORY)
    return [sizer.options_for(*it) for it in asked]


def running_of(needs: list[Requirements]) -> Asked:
    """Each workload with something that runs, some with one replica more than offered, some with corrected watts."""
    asked: Asked = []
    offered = Sizer(CATALOGUE, INVENTORY).options_for_all([(it, None) for it in needs])
    for number, (it, found) in enumerate(zip(needs, offered, strict=True)):
        if not found.options:
            asked.append((it, None))
            continue
        option = found.options[number % len(found.options)]
        corrections = it.corrections
        if number % 4 == 0:
            boards = option.accelerators_per_replica
            key = (option.model, option.precision, option.reasoning, option.accelerator_class, boards)
            corrections = (Correction(key, digest_of(PROFILES[key]), (60, 140)[number % 8 // 4]),)
        if number % 3 == 0:
            option = replace(option, replicas=option.replicas + 1)
        asked.append((replace(it, corrections=corrections), option))
    return asked


@pytest.mark.parametrize("profiles", [1, 150, 100_000])
def test_a_fleet_gets_what_each_workload_would_get_alone(profiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_PROFILES", profiles)
    asked: Asked = [(it, None) for it in fleet(60)]
    assert Sizer(CATALOGUE, INVENTORY).options_for_all(asked) == alone(asked)


def test_so_does_a_fleet_that_runs() -> None:
    asked = running_of(fleet(60))
    found = Sizer(CATALOGUE, INVENTORY).options_for_all(asked)
    assert sum(it.running is not None for it in found) > len(asked) // 3
    assert found == alone(asked)


def test_the_answers_come_in_the_order_of_the_questions_also_when_some_are_remembered() -> None:
    asked: Asked = [(it, None) for it in fleet(24)]
    sizer = Sizer(CATALOGUE, INVENTORY)
    sizer.options_for_all(asked[5:9])
    assert sizer.options_for_all([*asked, *asked[:3]]) == alone([*asked, *asked[:3]])


def test_nobody_asks_nothing() -> None:
    assert Sizer(CATALOGUE, INVENTORY).options_for_all([]) == []
