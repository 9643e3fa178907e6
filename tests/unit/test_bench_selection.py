"""The replay behind the selection benchmark: energy adds up, waits are right, targets are judged by their own unit."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from itertools import islice

import numpy as np
import pytest

from lowbeam.api.v1alpha1 import InferenceWorkloadSpec
from lowbeam.catalog import load_builtin
from lowbeam.sizing import Demand, Requirements, requirements_of
from tools.bench.selection_cases import Moment, cases_of
from tools.bench.selection_policies import POLICIES, Bench, bench_of, exhaustive, lowbeam
from tools.bench.selection_replay import Outcome, Setting, keeps, replay
from tools.latency import replay as other
from tools.traces.servegen import WINDOW_SECONDS, clients


@pytest.fixture(scope="module")
def bench() -> Bench:
    return bench_of(load_builtin())


@pytest.fixture(scope="module")
def moment() -> Moment:
    manifest = {"task": "text-generation", "load": {"requestsPerMinute": 60, "inputTokens": 500, "outputTokens": 400}}
    spec = InferenceWorkloadSpec.model_validate({**manifest, "pod": {"image": "example.org/engine:1"}})
    needs = requirements_of("n", "w", "u", spec, load_builtin(), None, date(2026, 11, 21))
    assert isinstance(needs, Requirements)
    return Moment(needs, needs, np.zeros(0), np.zeros(0))


def setting(bench: Bench, needs: Requirements, name: str, batch: int, replicas: int = 1) -> Setting:
    profile = next(p for p in bench.catalogue.profiles if p.name == name)
    curve = bench.curve(profile, needs)
    return bench.setting(profile, needs, curve, int(np.searchsorted(curve.batch, batch, side="right")) - 1, replicas)


def with_rate(moment: Moment, per_second: float) -> Moment:
    arrivals = np.linspace(0, WINDOW_SECONDS, int(per_second * WINDOW_SECONDS), endpoint=False)
    return replace(moment, arrivals=arrivals, work=np.ones_like(arrivals))


@pytest.mark.parametrize("name", ["qwen3-8b-bf16-h100-x1", "roberta-base-sst2-bf16-l4-x1"])
def test_one_request_costs_the_idle_watts_of_every_replica_and_little_more(
    bench: Bench, moment: Moment, name: str
) -> None:
    chosen = setting(bench, moment.known, name, 8, replicas=3)
    idle = 3 * float(chosen.curve.idle_milliwatts[0]) / 1000 * WINDOW_SECONDS
    joules = replay(chosen, with_rate(moment, 1 / WINDOW_SECONDS), 0).joules
    most = float(chosen.curve.milliwatts[chosen.at]) / 1000 * float(chosen.curve.service_ms[chosen.at]) / 1000
    assert idle < joules <= idle + most


def test_a_saturated_replica_costs_what_its_profile_says(bench: Bench, moment: Moment) -> None:
    chosen = setting(bench, moment.known, "qwen3-8b-bf16-h100-x1", 64)
    full = float(chosen.curve.throughput[chosen.at])
    outcome = replay(chosen, with_rate(moment, full), 0)
    per_request = float(chosen.curve.milliwatts[chosen.at]) / 1000 / full
    assert outcome.joules / outcome.whole_ms.size == pytest.approx(per_request, rel=0.1)


@pytest.mark.parametrize("name", ["qwen3-8b-bf16-h100-x1", "roberta-base-sst2-bf16-l4-x1"])
def test_answers_end_when_the_replay_that_checks_the_tables_says_so(bench: Bench, moment: Moment, name: str) -> None:
    chosen = setting(bench, moment.known, name, 16)
    service = float(chosen.curve.service_ms[chosen.at])
    encoder = bool(chosen.curve.is_encoder[0])
    arrivals = np.sort(np.random.default_rng(1).uniform(0, 50 * service / 1000, 600))
    busy = replace(moment, arrivals=arrivals, work=np.random.default_rng(2).exponential(1.0, arrivals.size))
    slope, limit = float(chosen.curve.slope()[chosen.at]), int(chosen.curve.batch[chosen.at])
    expected = other.replay(other.Replica(encoder, limit, slope, service / 1000), arrivals, busy.work).wholes * 1000
    spread = max(0.0, float(chosen.curve.latency_p95_ms[chosen.at]) - service) if encoder else 0.0
    assert replay(chosen, busy, 0).whole_ms == pytest.approx(expected + spread)


def outcome(whole: list[float], first: list[float], between: list[float], tokens: list[float]) -> Outcome:
    return Outcome(1.0, *(np.array(column) for column in (whole, first, between, tokens)))


def test_targets_hold_for_95_of_100_and_not_for_94(moment: Moment) -> None:
    needs = replace(moment.known, end_to_end_ms=100, time_to_first_token_ms=None, inter_token_ms=None)
    one, other_one = ([99.0] * 95 + [1000.0] * 5), ([99.0] * 94 + [1000.0] * 6)
    assert keeps(needs, [outcome(one, one, [], [])])
    assert not keeps(needs, [outcome(other_one, other_one, [], [])])
    assert not keeps(replace(needs, time_to_first_token_ms=50), [outcome(one, one, [], [])])


def test_a_target_per_token_is_judged_by_tokens_and_not_by_requests(moment: Moment) -> None:
    needs = replace(moment.known, end_to_end_ms=None, time_to_first_token_ms=None, inter_token_ms=50)
    assert keeps(needs, [outcome([1.0], [1.0], [40.0, 60.0], [95.0, 5.0])])
    assert not keeps(needs, [outcome([1.0], [1.0], [40.0, 60.0], [90.0, 10.0])])


def test_the_planner_finds_what_the_exhaustive_search_finds(bench: Bench, moment: Moment) -> None:
    def watts(chosen: Setting | None, needs: Requirements) -> float:
        assert chosen is not None
        rate = needs.demand.requests_per_second_milli / 1000 / chosen.replicas
        grid = chosen.curve
        return chosen.replicas * float(np.interp(rate, grid.rate_grid[0], grid.milliwatt_grid[0]))

    for rate in (200, 3_000, 40_000):
        demand = Demand(rate, 500, 400, arrival_cv_percent=200)
        needs = replace(moment.known, demand=demand, target_centi=moment.known.floor_centi)
        ours, best = watts(lowbeam(bench, needs), needs), watts(exhaustive(bench, needs), needs)
        assert ours == pytest.approx(best, rel=0.02)


def test_every_policy_but_the_largest_model_keeps_the_floor(bench: Bench, moment: Moment) -> None:
    needs = replace(moment.known, floor_centi=7000, target_centi=7000)
    for name, policy in POLICIES.items():
        chosen = policy(bench, needs)
        assert chosen is not None, name
        assert name == "largest model" or (chosen.quality_centi or 0) >= 7000, name


def test_the_cases_are_the_same_every_time_and_keep_what_they_promise() -> None:
    catalogue, players = load_builtin(), clients()
    task = catalogue.tasks["text-to-image"]
    first, second = (list(islice(cases_of(task, catalogue, players), 3)) for _ in range(2))
    assert len(first) == 3
    for one, two in zip(first, second, strict=True):
        assert one.name == two.name
        for a, b in zip(one.moments, two.moments, strict=True):
            assert (a.known, a.forecast) == (b.known, b.forecast)
            assert (a.arrivals == b.arrivals).all()
            assert (np.diff(a.arrivals) >= 0).all()
            assert a.arrivals[-1] <= WINDOW_SECONDS
            assert a.known.floor_centi == one.floor_centi >= task.floor_centi
