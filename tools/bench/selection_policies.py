"""Ways to choose a model and how to run it, Lowbeam's and others': each answers one workload at one moment.

All see the same catalogue, the same unlimited stock of every class, the same forecast of the load and the same latency
tables. They differ only in what they look for:
- `largest`: the model with the most parameters, sized for p95. Nobody asks for its quality.
- `official stars`: of the models that keep the floor the one with the most stars by the rule of the AI Energy Score at
  the smallest measured batch on H100 (its hardware), the best score among equals; sized for p95.
- `cheapest devices`: the first class, from the smallest board up, on which something keeps floor and p95, with the
  fewest boards (as INFaaS takes the cheapest device; no prices are carried, so a board's power limit stands for one).
- `mean latency`: least expected watts, as Lowbeam, but a setting is good enough when its median latency without a queue
  keeps the targets and its mean throughput the load.
- `lowbeam`: the planner.
- `exhaustive`: every profile, batch and count of replicas one by one, by the readable model of one replica
  (`sizing.operating_point`); least expected watts among those that keep the targets at p95.

Decides nothing else. A policy whose model cannot keep the targets at any setting gets them relaxed until it can: it
then misses them in the replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from lowbeam.catalog import Catalogue, largest_model
from lowbeam.catalog.comparison import millijoules_per_request
from lowbeam.catalog.facts import EnergyProfile, Reasoning
from lowbeam.catalog.official_stars import equal_width_stars
from lowbeam.planning import Snapshot, WorkloadState, plan
from lowbeam.power.caps import CapTree
from lowbeam.sizing import Inventory, Option, Requirements, Sizer
from lowbeam.sizing.curves import Floats, Ints
from lowbeam.sizing.latency import MAX_UTILISATION
from lowbeam.sizing.loads import LEAST_UTILISATION, spread_cv
from lowbeam.sizing.operating_point import Curve, at_lengths, expected_milliwatts, measured_curve, operating_point
from tools.bench.selection_replay import Setting

PLENTY = 100_000
"""Accelerators of each class."""
NODE = 8
ONE_BY_ONE = 24
"""So many counts from the least that serves are tried one by one: more replicas may keep a target that fewer miss."""
RELAXED = (1, 2, 5, 20, 100, 1000)
"""Factors on the latency targets of a policy whose model keeps none."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every policy sees."""

    catalogue: Catalogue
    inventory: tuple[Inventory, ...]
    sizer: Sizer

    def curve(self, profile: EnergyProfile, needs: Requirements) -> Curve:
        """The curve of a profile at a workload's lengths."""
        model = self.catalogue.models[profile.model]
        accelerator = self.catalogue.accelerator_classes[profile.accelerator_class]
        return at_lengths(
            measured_curve(profile, accelerator),
            profile,
            model,
            accelerator,
            input_tokens=needs.demand.input_tokens,
            output_tokens=needs.demand.output_tokens,
        )

    def setting(self, profile: EnergyProfile, needs: Requirements, curve: Curve, at: int, replicas: int) -> Setting:
        """A choice, with the score of the variant on the workload's benchmark."""
        variants = self.catalogue.models[profile.model].variants
        key = (profile.model, profile.precision, profile.reasoning)
        score = next((v.quality_centi(needs.benchmark) for v in variants if v.key == key), None)
        return Setting(profile.name, score, curve, at, replicas)


Policy = Callable[[Bench, Requirements], Setting | None]


def bench_of(catalogue: Catalogue) -> Bench:
    """One pool with plenty of every class."""
    inventory = tuple(Inventory("", name, PLENTY, NODE) for name in sorted(catalogue.accelerator_classes))
    return Bench(catalogue, inventory, Sizer(catalogue, inventory))


def lowbeam(bench: Bench, needs: Requirements) -> Setting | None:
    """What the planner chooses without a cap."""
    answer = plan(Snapshot(bench.catalogue, CapTree(), bench.inventory, (WorkloadState(needs),)), explain=False)
    return _setting(bench, needs, answer.choices[0].option)


def largest(bench: Bench, needs: Requirements) -> Setting | None:
    """The model with the most parameters."""
    model = largest_model(bench.catalogue, needs.task)
    return None if model is None else _pinned(bench, replace(needs, floor_centi=0, target_centi=0), model.name)


def official_stars(bench: Bench, needs: Requirements) -> Setting | None:
    """The most stars at the smallest batch on H100 among the models that keep the floor."""
    joules: dict[str, int] = {}
    for profile in bench.catalogue.profiles:
        if (profile.task, profile.accelerator_class, profile.reasoning) == (needs.task, "h100", Reasoning.OFF):
            least = millijoules_per_request(profile.points[0])
            joules[profile.model] = min(least, joules.get(profile.model, least))
    rated = dict(zip(joules, equal_width_stars(list(joules.values())), strict=True))
    good = {
        passed.profile.model: passed.quality_centi or 0
        for passed in bench.sizer.ways(needs)[0].passed
        if passed.profile.model in rated
    }
    if not good:
        return None
    return _pinned(bench, needs, max(sorted(good), key=lambda name: (rated[name], good[name], -joules[name])))


def cheapest_devices(bench: Bench, needs: Requirements) -> Setting | None:
    """The smallest board on which something keeps floor and p95."""
    classes = bench.catalogue.accelerator_classes
    for name in sorted(classes, key=lambda name: (classes[name].max_milliwatts, name)):
        options = bench.sizer.options_for(replace(needs, accelerator_classes=(name,))).options
        good = [option for option in options if option.unserved_millirps == 0 and not option.below_floor]
        if good:
            size = bench.catalogue.models
            best = min(good, key=lambda o: (o.accelerators, size[o.model].total_parameters_millions, o.id))
            return _setting(bench, needs, best)
    return None


def mean_latency(bench: Bench, needs: Requirements) -> Setting | None:
    """Least expected watts where medians without a queue keep the targets."""
    rate = needs.demand.requests_per_second_milli / 1000
    found: list[tuple[float, Setting]] = []
    for profile in _profiles(bench, needs):
        curve = bench.curve(profile, needs)
        for at in range(curve.batch.size):
            times = (
                (needs.end_to_end_ms, curve.latency_p50_ms[at]),
                (needs.time_to_first_token_ms, curve.first_token_ms[at]),
                (needs.inter_token_ms, curve.inter_token_p50_ms[at]),
            )
            if any(limit is not None and time > limit for limit, time in times):
                continue
            replicas = max(1, ceil(rate / float(curve.throughput[at])))
            watts = float(_watts(curve, rate, np.array([replicas]))[0])
            found.append((watts, bench.setting(profile, needs, curve, at, replicas)))
    return min(found, key=lambda it: it[0])[1] if found else None


def exhaustive(bench: Bench, needs: Requirements) -> Setting | None:
    """Everything that could run, in the order of expected watts, until one keeps all targets at p95."""
    rate = needs.demand.requests_per_second_milli / 1000
    cv = needs.demand.arrival_cv_percent / 100
    return next(
        (setting for setting, _ in by_watts(bench, needs, MAX_UTILISATION) if keeps(needs, setting, rate, cv)), None
    )


def by_watts(bench: Bench, needs: Requirements, most_load: float) -> Iterator[tuple[Setting, float]]:
    """Everything that could run under a bound on the load, with its expected watts, the least first.

    Among equals the largest batch, which absorbs most. Batches that are too slow per token on their own are left out.
    """
    rate = needs.demand.requests_per_second_milli / 1000
    profiles = _profiles(bench, needs)
    curves = [bench.curve(profile, needs) for profile in profiles]
    columns = [
        (np.full(counts.size, number), np.full(counts.size, at), counts, _watts(curve, rate, counts))
        for number, curve in enumerate(curves)
        for at in range(curve.batch.size)
        if needs.inter_token_ms is None or float(curve.inter_token_p95_ms[at]) <= needs.inter_token_ms
        for counts in [_counts(rate / (float(curve.throughput[at]) * most_load))]
    ]
    if not columns:
        return
    which, points, counts, watts = (np.concatenate([column[place] for column in columns]) for place in range(4))
    for row in np.lexsort((counts, -points, np.round(watts, 3))).tolist():
        number, at, replicas = int(which[row]), int(points[row]), int(counts[row])
        yield bench.setting(profiles[number], needs, curves[number], at, replicas), float(watts[row])


def _counts(least: float) -> Ints:
    """Replicas from the least that serves: one by one, then in steps of 1.4 %, up to eight times as many."""
    first = max(1, ceil(least))
    steps = np.ceil(np.geomspace(first, 8 * first, 150)).astype(np.int64)
    result: Ints = np.unique(np.concatenate([np.arange(first, first + ONE_BY_ONE), steps]))
    return result


def keeps(needs: Requirements, setting: Setting, rate: float, cv: float) -> bool:
    """Whether a setting keeps every target at p95 by the tables, and the bounds on its load."""
    curve, at = setting.curve, setting.at
    per_replica = rate / setting.replicas
    if per_replica > float(curve.throughput[at]) * MAX_UTILISATION:
        return False
    if needs.inter_token_ms is not None and float(curve.inter_token_p95_ms[at]) > needs.inter_token_ms:
        return False
    spread = spread_cv(cv, setting.replicas)
    batch = int(curve.batch[at])
    # A limit that keeps the targets only on a nearly idle replica is not offered: its first burst would miss them.
    for load in (per_replica, float(curve.throughput[at]) * LEAST_UTILISATION):
        point = operating_point(curve, batch, load, spread)
        pairs = (
            (needs.end_to_end_ms, point.end_to_end.p95_ms),
            (needs.time_to_first_token_ms, point.first_token.p95_ms),
        )
        if any(limit is not None and time > limit for limit, time in pairs):
            return False
    return True


def _profiles(bench: Bench, needs: Requirements) -> list[EnergyProfile]:
    return [passed.profile for passed in bench.sizer.ways(needs)[0].passed if not passed.below_floor]


def _watts(curve: Curve, rate: float, replicas: Ints) -> Floats:
    result: Floats = expected_milliwatts(curve, rate / replicas) * replicas / 1000
    return result


def _pinned(bench: Bench, needs: Requirements, model: str) -> Setting | None:
    """A given model as well as it can be run; with its targets relaxed where it keeps none."""
    for factor in RELAXED:
        relaxed = replace(
            needs,
            pinned_model=model,
            end_to_end_ms=_times(needs.end_to_end_ms, factor),
            time_to_first_token_ms=_times(needs.time_to_first_token_ms, factor),
            inter_token_ms=_times(needs.inter_token_ms, factor),
        )
        option = bench.sizer.cheapest(relaxed)
        if option is not None:
            return _setting(bench, needs, option)
    return None


def _times(limit: int | None, factor: int) -> int | None:
    return None if limit is None else limit * factor


def _setting(bench: Bench, needs: Requirements, option: Option | None) -> Setting | None:
    if option is None:
        return None
    profile = next(
        p
        for p in bench.catalogue.profiles
        if (p.model, p.precision, p.reasoning, p.task) == (option.model, option.precision, option.reasoning, needs.task)
        and (p.accelerator_class, p.accelerators) == (option.accelerator_class, option.accelerators_per_replica)
    )
    curve = bench.curve(profile, needs)
    at = int(np.searchsorted(curve.batch, option.batch_limit, side="right")) - 1
    return bench.setting(profile, needs, curve, at, option.replicas)


POLICIES: dict[str, Policy] = {
    "largest model": largest,
    "most official stars at batch 1": official_stars,
    "cheapest devices first": cheapest_devices,
    "sized by mean latency": mean_latency,
    "lowbeam": lowbeam,
    "exhaustive search": exhaustive,
}
