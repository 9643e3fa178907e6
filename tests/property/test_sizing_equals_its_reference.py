"""The vectorised sizing step gives what the plain one gives, value for value, on random profiles, wishes and fleets."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lowbeam.sizing import Sizer
from lowbeam.sizing.ways import Ways
from tests.builders import ModelBuilder, WorkloadBuilder, accelerator, catalogue_of, model, stock, workload
from tools.bench.sizing_reference import WayFigures, reference_ways

COLUMNS = ("profile", "batch", "replicas", "expected", "worst", "capacity", "unserved", "millijoules", "latency")


@st.composite
def profiles(draw: st.DrawFn, number: int) -> ModelBuilder:
    decoder = draw(st.booleans())
    batches = sorted(draw(st.sets(st.integers(1, 700), min_size=1, max_size=6)))
    points, rate, watts = [], draw(st.floats(0.01, 50)), draw(st.floats(30, 300))
    for batch in batches:
        p50 = max(1, round(batch * 1000 / rate))
        points.append((batch, round(watts, 1), round(rate, 3), p50 + draw(st.integers(0, 2000))))
        rate, watts = rate * draw(st.floats(0.9, 2.0)), watts * draw(st.floats(0.9, 1.3))
    lengths = (draw(st.integers(1, 2000)), draw(st.integers(2, 900)) if decoder else 1)
    cache = draw(st.none() | st.integers(1, 10_000_000))
    it = model(f"m{number}").that(generative=decoder, kv_bytes=cache).on("gpu", *points, lengths=lengths)
    uncertain = tuple(replace(p, uncertainty_percent=draw(st.sampled_from([0, 24]))) for p in it.profiles)
    return replace(it, profiles=uncertain)


@st.composite
def wishes(draw: st.DrawFn) -> WorkloadBuilder:
    least = draw(st.integers(0, 5))
    limits = st.none() | st.integers(1, 60_000)
    it = (
        workload("w")
        .rate(draw(st.floats(0, 2000)))
        .tokens(draw(st.integers(1, 4000)), draw(st.integers(1, 2000)))
        .within(draw(limits), draw(limits), draw(st.none() | st.integers(1, 500)))
        .replicas(least, draw(st.integers(max(1, least), 200)), draw(st.none() | st.integers(1, 40)))
        .only(max_milliwatts=draw(st.none() | st.integers(1_000, 5_000_000)))
        .only(max_millijoules_per_request=draw(st.none() | st.integers(1, 10_000_000)))
    )
    cv = draw(st.sampled_from([40, 100, 130, 250, 900]))
    return it.only(demand=replace(it.needs.demand, arrival_cv_percent=cv))


def rows(ways: Ways) -> list[WayFigures]:
    return sorted(zip(*(getattr(ways, name).tolist() for name in COLUMNS), strict=True))


@settings(max_examples=150, deadline=None)
@given(st.tuples(profiles(0), profiles(1), profiles(2)), wishes(), st.integers(1, 300))
def test_the_vectorised_step_equals_the_plain_one(
    models: tuple[ModelBuilder, ...], it: WorkloadBuilder, boards: int
) -> None:
    catalogue = catalogue_of(*models, classes=[accelerator("gpu", idle_watts=25, max_watts=400)])
    sifted, ways = Sizer(catalogue, stock(gpu=boards)).ways(it.build())
    assert rows(ways) == sorted(reference_ways(it.build(), sifted))


@settings(max_examples=25, deadline=None)
@given(st.tuples(profiles(0), profiles(1)), st.lists(wishes(), min_size=2, max_size=8), st.integers(1, 300))
def test_in_whatever_company_a_workload_gets_what_the_plain_step_gives_it(
    models: tuple[ModelBuilder, ...], fleet: list[WorkloadBuilder], boards: int
) -> None:
    catalogue = catalogue_of(*models, classes=[accelerator("gpu", idle_watts=25, max_watts=400)])
    needs = [it.build() for it in fleet]
    found = list(Sizer(catalogue, stock(gpu=boards)).ways_for_all(needs))
    assert sorted(number for number, _, _ in found) == list(range(len(needs)))
    for number, sifted, ways in found:
        assert rows(ways) == sorted(reference_ways(needs[number], sifted))
