"""The workloads on which ways to choose are compared: every task of the catalogue, three floors each, real load.

Decides, from a seed, which client of ServeGen plays which workload, and which windows of days 8-14 are replayed. The
same seed gives the same cases everywhere; nothing is left out because of what anybody chooses, except workloads that
nothing in the catalogue can serve.

Workloads bring their own engine (`spec.pod.image`): what can be chosen is then the whole catalogue, and not only what
Lowbeam's own worker serves.

Each window is given twice: with its real mean rate and burstiness, so that only the choice is judged, and with what
the operator's own estimator says before it (`sizing.demand`, its rules set on days 1-7). The window itself is what both
are judged by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from lowbeam.api.v1alpha1 import InferenceWorkloadSpec
from lowbeam.catalog.facts import Catalogue, TaskFacts
from lowbeam.sizing import Demand, Refusal, Requirements, requirements_of
from lowbeam.sizing.demand import Window, first_state, learn
from tools.latency import traces
from tools.traces.servegen import WINDOW_SECONDS, WINDOWS_PER_DAY, Client

Floats = NDArray[np.float64]

SEED = 20261121
HELD_OUT = range(7 * WINDOWS_PER_DAY, 14 * WINDOWS_PER_DAY)
PER_FLOOR = 4
"""Workloads per task and floor."""
MOMENTS = 3
"""Windows that are replayed of each."""
LEAST_REQUESTS = 60
"""In a window, or its p95 would hang on three requests."""
TEXT_RATES, ENCODER_RATES = (0.02, 10.0), (0.5, 200.0)
"""Requests/s of a client on average: smaller ones have too few requests, larger ones take too long to replay. Encoders
are called more often than language models: once per document, message or search hit."""
PATIENCE = (75, 100, 200)
"""Percent of the task's default latency that workloads ask for."""
SHARE = {"text-to-video": 0.02, "text-to-image": 0.2}
"""Of a client's requests: pictures and films are asked for less often."""
LARGEST_CV_PERCENT = 10_000
_TODAY = date(2026, 11, 21)


@dataclass(frozen=True, slots=True)
class Moment:
    """One window: what the sizer is told, and what then comes."""

    known: Requirements
    """With the window's own rate and burstiness."""
    forecast: Requirements
    """With what the operator would have sized for."""
    arrivals: Floats
    """Seconds from the start of the window, growing."""
    work: Floats
    """Length of each answer against the mean."""


@dataclass(frozen=True, slots=True)
class Case:
    """One workload."""

    task: str
    floor_centi: int
    moments: tuple[Moment, ...]

    @property
    def name(self) -> str:
        """How a remark calls it."""
        return self.moments[0].known.name


def cases(catalogue: Catalogue, players: Sequence[Client]) -> Iterator[Case]:
    """All workloads, by task and floor."""
    for task in catalogue.tasks.values():
        yield from cases_of(task, catalogue, players)


def cases_of(task: TaskFacts, catalogue: Catalogue, players: Sequence[Client]) -> Iterator[Case]:
    """The workloads of one task, whatever the other tasks are."""
    generator = np.random.default_rng([SEED, *task.name.encode()])
    low, high = TEXT_RATES if task.generative else ENCODER_RATES
    share = SHARE.get(task.name, 1.0)
    able = [c for c in players if low <= _mean_rate(c) <= high and len(_windows(c, share)) >= MOMENTS]
    order = generator.permutation(len(able)).tolist()
    lengths = _answer_lengths(task)
    for number, floor in enumerate(floor for floor in _floors(catalogue, task) for _ in range(PER_FLOOR)):
        client, patience = able[order[number % len(order)]], PATIENCE[number % len(PATIENCE)]
        needs = _needs(catalogue, task, f"{task.name} {number + 1}", floor, patience)
        yield Case(task.name, floor, tuple(_moments(needs, client, share, lengths, generator)))


def _floors(catalogue: Catalogue, task: TaskFacts) -> list[int]:
    """The task's floor, its target, and the score that one in ten of the models with a profile reaches."""
    scores = sorted(
        score
        for model in catalogue.models.values()
        for variant in model.variants
        if variant.reasoning is task.default_reasoning
        and any(p.task == task.name and (p.model, p.precision, p.reasoning) == variant.key for p in catalogue.profiles)
        if (score := variant.quality_centi(task.benchmark)) is not None and score >= task.floor_centi
    )
    if not scores:
        return []
    return sorted({task.floor_centi, min(task.target_centi, scores[-1]), scores[len(scores) * 9 // 10]})


def _needs(catalogue: Catalogue, task: TaskFacts, name: str, floor: int, patience: int) -> Requirements:
    latency = {
        "endToEndMilliseconds": task.end_to_end_ms,
        "timeToFirstTokenMilliseconds": task.time_to_first_token_ms,
        "interTokenMilliseconds": task.inter_token_ms,
    }
    spec = InferenceWorkloadSpec.model_validate(
        {
            "task": task.name,
            "load": {
                "requestsPerMinute": 1,
                "inputTokens": task.default_input_tokens,
                "outputTokens": task.default_output_tokens,
            },
            "quality": {"benchmark": task.benchmark, "floor": f"{floor / 100:.2f}"},
            "latency": {key: value * patience // 100 for key, value in latency.items() if value is not None},
            "scaling": {"maxReplicas": 1000},
            "pod": {"image": "example.org/engine:1"},
        }
    )
    needs = requirements_of("bench", name, name, spec, catalogue, None, _TODAY)
    if isinstance(needs, Refusal):
        raise TypeError(f"{name}: {needs.message}")
    return needs


def _mean_rate(client: Client) -> float:
    known = [count for count in client.requests[: HELD_OUT.start] if count is not None]
    return sum(known) / max(1, len(known)) / WINDOW_SECONDS


def _answer_lengths(task: TaskFacts) -> Floats:
    """Real ones: of Azure's code service for code, of its chat service for everything else that writes."""
    if not task.generative:
        return np.ones(1)
    drawn = traces.load("Azure code" if task.name == "code-completion" else "Azure conversation").output_tokens
    result: Floats = np.maximum(drawn, 1.0) / np.maximum(drawn, 1.0).mean()
    return result


def _windows(client: Client, share: float) -> list[int]:
    """Windows of the held-out days with enough requests."""
    return [at for at in HELD_OUT if (client.requests[at] or 0) * share >= LEAST_REQUESTS]


def _moments(
    needs: Requirements, client: Client, share: float, lengths: Floats, generator: np.random.Generator
) -> Iterator[Moment]:
    demands = _demands(needs, client, share)
    windows = _windows(client, share)
    for number in sorted(generator.choice(len(windows), MOMENTS, replace=False).tolist()):
        at = windows[number]
        arrivals = _arrivals(client, at, share, generator)
        known = replace(
            needs.demand,
            requests_per_second_milli=round(arrivals.size * 1000 / WINDOW_SECONDS),
            arrival_cv_percent=min(LARGEST_CV_PERCENT, max(100, client.cv_percent[at] or 100)),
        )
        yield Moment(
            known=replace(needs, demand=known),
            forecast=replace(needs, demand=demands[at]),
            arrivals=arrivals,
            work=generator.choice(lengths, arrivals.size),
        )


def _demands(needs: Requirements, client: Client, share: float) -> Sequence[Demand]:
    """What the estimator says before each window."""
    first_day = [count for count in client.requests[:WINDOWS_PER_DAY] if count is not None]
    mean = sum(first_day) / max(1, len(first_day)) * share / WINDOW_SECONDS
    declared = Demand(round(mean * 1000), needs.demand.input_tokens, needs.demand.output_tokens)
    state, found = first_state(declared), []
    for number, count in enumerate(client.requests):
        found.append(state.demand)
        if count is not None:
            rate = round(count * share * 1000 / WINDOW_SECONDS)
            window = Window(number * WINDOW_SECONDS * 1000, rate, cv_percent=client.cv_percent[number])
            state = learn(state, window)
    return found


def _arrivals(client: Client, window: int, share: float, generator: np.random.Generator) -> Floats:
    """As many as came, with gaps as uneven as they were; some of them where the workload is a part of the client."""
    count = client.requests[window] or 0
    shape = (100 / max(20, client.cv_percent[window] or 100)) ** 2
    gaps = generator.gamma(shape, 1.0, count + 1)
    times: Floats = np.cumsum(gaps)[:-1] / gaps.sum() * WINDOW_SECONDS
    return times[generator.random(count) < share] if share < 1 else times
