"""What choosing well saves: six ways to choose, on workloads of every task, replayed on held-out days.

Measures joules per request and whether p95 was kept, in the replay and not by forecast. The comparison is with the
exhaustive search on the same data. `In hindsight` is, window by window, the cheapest setting that keeps p95 in the
replay itself, which nobody can know before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import exp, log

from lowbeam.catalog import load_builtin
from tools.bench.selection_cases import MOMENTS, PER_FLOOR, Case, Moment, cases
from tools.bench.selection_policies import POLICIES, Bench, Policy, bench_of, by_watts, exhaustive
from tools.bench.selection_replay import Outcome, Setting, keeps, replay
from tools.traces.servegen import clients

from .figures import Section, Table, number

BEST = "exhaustive search"
OURS = "lowbeam"
HINDSIGHT = "in hindsight"
TRIES = 40
"""Settings that hindsight replays per window."""
NEAR_PERCENT = 2


@dataclass(frozen=True, slots=True)
class Result:
    """One policy on one workload."""

    joules_per_request: float
    kept: bool
    floor_kept: bool


Results = dict[str, dict[str, Result]]
"""Workload -> policy -> result; a policy without an answer is absent."""


def measure(say: Callable[[str], None]) -> Section:
    """Every policy on every workload."""
    bench = bench_of(load_builtin())
    found = list(cases(bench.catalogue, clients()))
    known: Results = {}
    forecast: Results = {}
    for place, case in enumerate(found, start=1):
        if place % 10 == 1:
            say(f"{place} of {len(found)}: {case.name}")
        known[case.name] = {
            name: result for name, policy in POLICIES.items() if (result := _result(bench, case, policy)) is not None
        }
        if BEST in known[case.name] and (hindsight := _hindsight(bench, case)) is not None:
            known[case.name][HINDSIGHT] = hindsight
        late = _result(bench, case, POLICIES[OURS], forecast=True)
        forecast[case.name] = {} if late is None else {OURS: late}
    served = [case for case in found if BEST in known[case.name]]
    return Section(
        title="Selection",
        about=_about(found, served),
        tables=[
            Table(
                ("choice", "joules/request, mean ratio", "worst", "least", "p95 kept", "floor kept", "no answer"),
                [_row(name, served, known) for name in (*POLICIES, HINDSIGHT)],
            ),
            Table(
                ("joules/request, mean ratio", *_short(POLICIES)),
                [[task, *_ratios(rows, known)] for task, rows in _by_task(served).items()],
            ),
        ],
        remarks=_remarks(found, served, known, forecast),
    )


def _about(found: Sequence[Case], served: Sequence[Case]) -> str:
    return (
        f"{len(found)} workloads: every task with energy profiles, its floor, its target and a high floor, {PER_FLOOR} "
        f"of each, at 75, 100 or 200 % of the task's default latency; each plays a client of ServeGen in {MOMENTS} "
        f"windows of 10 minutes of days 8-14 (`tools/bench/selection_cases.py`). All see plenty of every accelerator "
        f"class, and the window's real rate and burstiness. {len(served)} of them can be served at all. Joules and p95 "
        f"are those of a replay, request by request; ratios are to the exhaustive search on the same data, their "
        f"mean is geometric. In hindsight: window by window the cheapest setting that keeps p95 in the replay itself."
    )


def _result(bench: Bench, case: Case, policy: Policy, *, forecast: bool = False) -> Result | None:
    """None: the policy has no answer for some window."""
    outcomes, floors = [], True
    for place, moment in enumerate(case.moments):
        setting = policy(bench, moment.forecast if forecast else moment.known)
        if setting is None:
            return None
        outcomes.append(replay(setting, moment, place))
        floors &= (setting.quality_centi or 0) >= case.floor_centi
    return _summed(case, outcomes, floor_kept=floors)


def _summed(case: Case, outcomes: Sequence[Outcome], *, floor_kept: bool) -> Result:
    requests = sum(outcome.whole_ms.size for outcome in outcomes)
    joules = sum(outcome.joules for outcome in outcomes)
    return Result(joules / requests, keeps(case.moments[0].known, outcomes), floor_kept)


def _hindsight(bench: Bench, case: Case) -> Result | None:
    """Window by window the cheapest that keeps p95 in the replay, among settings that expect fewer watts than the best.

    The best of the search stays where none of them does.
    """
    outcomes = []
    for place, moment in enumerate(case.moments):
        best = exhaustive(bench, moment.known)
        if best is None:
            return None
        usual = replay(best, moment, place)
        tried = (replay(setting, moment, place) for setting in islice(_cheaper(bench, moment, best), TRIES))
        kept = [outcome for outcome in (usual, *tried) if keeps(moment.known, [outcome])]
        outcomes.append(min(kept, key=lambda outcome: outcome.joules, default=usual))
    return _summed(case, outcomes, floor_kept=True)


def _cheaper(bench: Bench, moment: Moment, best: Setting) -> Iterator[Setting]:
    """Settings before the best in the order of expected watts; of those that differ in the batch limit the largest."""
    seen: set[tuple[str, int]] = set()
    for setting, _ in by_watts(bench, moment.known, most_load=1.0):
        if (setting.profile, setting.at, setting.replicas) == (best.profile, best.at, best.replicas):
            return
        if (setting.profile, setting.replicas) not in seen:
            seen.add((setting.profile, setting.replicas))
            yield setting


# --- tables ----------------------------------------------------------------------------------------------------------


def _row(name: str, served: Sequence[Case], results: Results) -> list[str]:
    pairs = [(results[c.name][name], results[c.name][BEST]) for c in served if name in results[c.name]]
    ratios = [mine.joules_per_request / best.joules_per_request for mine, best in pairs]
    kept, floors = sum(mine.kept for mine, _ in pairs), sum(mine.floor_kept for mine, _ in pairs)
    shares = [f"{100 * count / max(1, len(pairs)):.0f} %" for count in (kept, floors)]
    return [name, _mean(ratios), number(max(ratios), 2), number(min(ratios), 2), *shares, str(len(served) - len(pairs))]


def _mean(ratios: Sequence[float]) -> str:
    return number(exp(sum(map(log, ratios)) / len(ratios)), 3) if ratios else number(None)


def _short(policies: dict[str, Policy]) -> list[str]:
    return [name for name in policies if name != BEST]


def _by_task(served: Sequence[Case]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = defaultdict(list)
    for case in served:
        found[case.task].append(case)
    return found


def _ratios(rows: Sequence[Case], results: Results) -> list[str]:
    cells = []
    for name in _short(POLICIES):
        both = [(results[c.name][name], results[c.name][BEST]) for c in rows if name in results[c.name]]
        cells.append(_mean([mine.joules_per_request / best.joules_per_request for mine, best in both]))
    return cells


def _remarks(found: Sequence[Case], served: Sequence[Case], known: Results, forecast: Results) -> list[str]:
    ours = {case.name: known[case.name][OURS] for case in served if OURS in known[case.name]}
    dearer = [
        f"{name} ({100 * (mine.joules_per_request / known[name][BEST].joules_per_request - 1):+.1f} %)"
        for name, mine in ours.items()
        if mine.joules_per_request > known[name][BEST].joules_per_request * (1 + NEAR_PERCENT / 100)
    ]
    late = [name for name, mine in ours.items() if not mine.kept]
    burst = {case.name: max(moment.known.demand.arrival_cv_percent for moment in case.moments) / 100 for case in served}
    seen = [forecast[case.name][OURS] for case in served if OURS in forecast[case.name]]
    extra = [
        forecast[name][OURS].joules_per_request / mine.joules_per_request
        for name, mine in ours.items()
        if OURS in forecast[name] and forecast[name][OURS].kept
    ]
    unserved = [case.name for case in found if case not in served]
    remarks = [
        f"lowbeam costs more than {NEAR_PERCENT} % above the exhaustive search on: {', '.join(dearer) or 'none'}",
        "lowbeam misses p95 on: "
        + (", ".join(f"{name} (burstiness up to {burst[name]:.1f})" for name in late) or "none")
        + "; the latency tables end at a burstiness of 8",
        f"with the operator's forecast instead of the real load, p95 is kept by {sum(it.kept for it in seen)} of "
        f"{len(seen)}, at {_mean(extra)} times the joules: a client that starts from nothing within ten minutes is not "
        f"foreseen (the open window corrects that after a minute, which is not replayed here)",
    ]
    if unserved:
        remarks.append(f"nothing in the catalogue can serve: {', '.join(unserved)}")
    return remarks
