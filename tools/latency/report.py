"""How far the latency tables are from exact answers, from another simulation and from real traces, as tables.

Every error is told over seen: what sizing reads from the tables, over what happened. Above 1 is the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tools.bench.figures import Section, Table
from tools.traces import servegen

from . import closed_forms, traces
from .arrivals import SEED, coefficient_of_variation, gamma_arrivals
from .replay import SHARE, Replica, predicted_p95, replay

Floats = NDArray[np.float64]
Say = Callable[[str], None]

_WINDOW_SECONDS = 600.0
_LOADS = (0.3, 0.5, 0.7)
_KINDS = (("encoder, limit 8", True, 8, 0.8), ("decoder, 32 slots", False, 32, 0.5))
_FEWEST = 300
"""Requests in a window, for a p95 that means something."""
_CLIENT_WINDOWS = 120


def exact(say: Say) -> Section:
    """The tables against closed forms."""
    say("closed forms")
    rows = []
    for load in (0.3, 0.6, 0.8):
        told, seen = _told(True, 1, 0.5, load), closed_forms.md1_sojourn(load, SHARE)
        rows.append(["M/D/1: batches of one, time to answer", f"{load:g}", *_pair(told, seen)])
    for name, slots, slope in (("M/M/1", 1, 0.0), ("M/M/8 (Erlang C)", 8, 0.0), ("32 slots, slope 0.9", 32, 0.9)):
        for load in (0.6, 0.8):
            told = _told(False, slots, slope, load, own=0.0)
            seen = closed_forms.slots_wait(load, slots, slope, SHARE)
            rows.append([f"{name}: wait for a slot", f"{load:g}", *_pair(told, seen)])
    told, seen = _told(True, 512, 0.0, 0.5), closed_forms.endless_batch_sojourn(SHARE)
    rows.append(["a batch limit never reached, time to answer", "0.5", *_pair(told, seen)])
    return Section(
        title="Exact answers",
        about="p95 for Poisson arrivals, in times of a full batch; told by the tables, and exact.",
        tables=[Table(("queue", "load", "told", "exact", "told/exact"), rows)],
    )


def between_cells(say: Say) -> Section:
    """The tables against the replay's own simulation of random replicas that are no cell of the grid."""
    draw = np.random.default_rng(SEED)
    rows = []
    for name, encoder in (("encoder", True), ("decoder", False)):
        say(f"random replicas, {name}")
        errors = []
        for number in range(60):
            limit, slope = int(2 ** draw.uniform(0, 9)), float(draw.uniform(0, 1))
            load, cv = float(draw.uniform(0.1, 0.85)), float(draw.choice([1.0, 1.3, 1.7, 2.5, 4.0]))
            arrival, work = gamma_arrivals(cv, 25_000, 50, number), draw.exponential(1.0, 25_000)
            rate, work = _rate(arrival), work / work.mean()
            replica = Replica(encoder, limit, slope, load * limit / rate)
            seen = _p95(replay(replica, arrival, work).wholes[2500:])
            errors.append(predicted_p95(replica, rate, cv, _p95(work)) / seen)
        rows.append([f"{name}, 60 replicas", *_spread(errors)])
    return Section(
        title="Between the cells",
        about=(
            "p95 from arrival to answer of random replicas (limit 1 to 512, slope 0 to 1, load 0.1 to 0.85, cv 1 to 4, "
            "exponential lengths): told over seen in another simulation, which is noisy itself by a few per cent."
        ),
        tables=[Table(("replicas", "least", "p5", "median", "p95", "most"), rows)],
    )


def real_traces(say: Say) -> Section:
    """Whole hours, and windows of ten minutes, of services whose requests are known one by one."""
    hours, windows = [], []
    for name in traces.FILES:
        trace = traces.load(name)
        say(name)
        rate, cv = trace.rate(), coefficient_of_variation(trace.arrival)
        work = trace.output_tokens / trace.output_tokens.mean()
        for kind, encoder, limit, slope in _KINDS:
            errors: list[float] = []
            for load in _LOADS:
                replica = Replica(encoder, limit, slope, load * limit / rate)
                taken = replay(replica, trace.arrival, work).wholes
                told, seen = predicted_p95(replica, rate, cv, _p95(work)), _p95(taken)
                unit = replica.full_seconds
                hours.append([f"{name} (cv {cv:.1f}); {kind}", f"{load:g}", *_pair(told / unit, seen / unit)])
                errors += _windows(replica, trace, taken)
            windows.append([f"{name}; {kind}", str(len(errors)), *_spread(errors)])
    return Section(
        title="Real requests",
        about=(
            "Arrivals and lengths of the trace, replayed on one replica that is so fast that the hour's mean rate is "
            "the load; p95 from arrival to answer in times of a full batch. First from the mean rate and burstiness "
            "of the whole hour, then from those of each window of ten minutes with a load of at most 0.85."
        ),
        tables=[
            Table(("hour", "load", "told", "seen", "told/seen"), hours),
            Table(("windows of ten minutes", "windows", "least", "p5", "median", "p95", "most"), windows),
        ],
    )


def clients(say: Say) -> Section:
    """Windows of ServeGen clients: their rate and burstiness, with arrivals of another family than the tables'."""
    say("ServeGen windows")
    draw = np.random.default_rng(SEED)
    chosen = [
        (cv / 100, requests)
        for client in servegen.clients()
        for cv, requests in zip(client.cv_percent, client.requests, strict=True)
        if cv and requests and requests >= _FEWEST and cv >= 80
    ]
    rows = []
    for kind, encoder, limit, slope in _KINDS:
        for load in (0.5, 0.7):
            errors = []
            for at in np.random.default_rng(SEED).choice(len(chosen), _CLIENT_WINDOWS, replace=False):
                cv, requests = chosen[int(at)]
                arrival, work = _weibull_arrivals(draw, cv, requests), draw.exponential(1.0, requests)
                rate, work = _rate(arrival), work / work.mean()
                replica = Replica(encoder, limit, slope, load * limit / rate)
                taken = _p95(replay(replica, arrival, work).wholes)
                errors.append(predicted_p95(replica, rate, cv, _p95(work)) / taken)
            rows.append([f"{kind}, load {load:g}", *_spread(errors)])
    return Section(
        title="Windows of many clients",
        about=(
            f"{_CLIENT_WINDOWS} random windows of ten minutes with {_FEWEST} requests or more, of 313 ServeGen clients "
            "in 14 days. The source gives rate and cv of each; the times between requests are drawn from Weibull "
            "distributions, which it fits to many of them, while the tables were made with Gamma distributions. A "
            "window is short, so what is seen is noisy: judge by the median and by p5."
        ),
        tables=[Table(("replica", "least", "p5", "median", "p95", "most"), rows)],
    )


def _windows(replica: Replica, trace: traces.Trace, taken: Floats) -> list[float]:
    found = []
    for begin in np.arange(0.0, float(trace.arrival[-1]) - _WINDOW_SECONDS + 1, _WINDOW_SECONDS):
        inside = (trace.arrival >= begin) & (trace.arrival < begin + _WINDOW_SECONDS)
        arrival, tokens = trace.arrival[inside], trace.output_tokens[inside]
        rate = arrival.size / _WINDOW_SECONDS
        mine = tokens / trace.output_tokens.mean()
        # A profile knows its p95 at the mean length; sizing scales both with the window's mean length.
        scaled = Replica(replica.encoder, replica.limit, replica.slope, replica.full_seconds * _mean(replica, mine))
        if arrival.size >= _FEWEST and rate <= 0.85 * scaled.most_per_second:
            told = predicted_p95(scaled, rate, coefficient_of_variation(arrival), _p95(mine / mine.mean()))
            found.append(told / _p95(taken[inside]))
    return found


def _mean(replica: Replica, work: Floats) -> float:
    return 1.0 if replica.encoder else float(work.mean())


def _told(encoder: bool, limit: int, slope: float, load: float, *, own: float = 1.0) -> float:
    return predicted_p95(Replica(encoder, limit, slope, 1.0), load * limit, 1.0, own)


def _weibull_arrivals(draw: np.random.Generator, cv: float, count: int) -> Floats:
    low, high = 0.1, 10.0
    for _ in range(60):
        shape = math.sqrt(low * high)
        spread = math.gamma(1 + 2 / shape) / math.gamma(1 + 1 / shape) ** 2 - 1
        low, high = (shape, high) if spread > cv**2 else (low, shape)
    return np.cumsum(draw.weibull(math.sqrt(low * high), count))


def _rate(arrival: Floats) -> float:
    return (arrival.size - 1) / float(arrival[-1] - arrival[0])


def _p95(values: Floats) -> float:
    return float(np.quantile(values, SHARE))


def _pair(told: float, seen: float) -> list[str]:
    return [f"{told:.2f}", f"{seen:.2f}", f"{told / seen:.2f}" if seen > 0.005 else "-"]


def _spread(errors: Iterable[float]) -> Sequence[str]:
    return [f"{value:.2f}" for value in np.quantile(np.array(list(errors)), [0, 0.05, 0.5, 0.95, 1])]
