"""Any profile under any two limits: never better under the lower one, and still what a loaded profile must be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lowbeam.catalog import load_builtin
from lowbeam.catalog.board_limits import limited
from lowbeam.catalog.facts import EnergyProfile, ProfilePoint

CATALOGUE = load_builtin()
H100 = CATALOGUE.accelerator_classes["h100"]
KNOWN = next(it for it in CATALOGUE.profiles if it.accelerator_class == "h100" and it.accelerators == 1)


@st.composite
def profiles(draw: st.DrawFn) -> EnergyProfile:
    """Ascending batches with rising throughput; watts and times as they come."""
    count = draw(st.integers(1, 6))
    rates = sorted(draw(st.sets(st.integers(1, 50_000_000), min_size=count, max_size=count)))
    points = []
    for place, rate in enumerate(rates):
        p50 = draw(st.integers(1, 10_000_000))
        p95 = draw(st.integers(p50, 20_000_000))
        watts = draw(st.integers(1, 735_000))
        points.append(ProfilePoint(place + 1, watts, rate, p50, p95, p50, p95))
    return replace(KNOWN, points=tuple(points), output_tokens=draw(st.integers(1, 1000)))


@given(profile=profiles(), limits=st.tuples(st.integers(200, 700), st.integers(200, 700)))
def test_a_lower_limit_is_never_better(profile: EnergyProfile, limits: tuple[int, int]) -> None:
    low, high = sorted(limits)
    tight, loose = limited(profile, H100, low), limited(profile, H100, high) or profile
    if tight is None:
        return
    assert max(p.requests_per_second_milli for p in tight.points) <= max(
        p.requests_per_second_milli for p in loose.points
    )
    wider = {p.batch: p for p in loose.points}
    for p in tight.points:
        assert 0 < p.milliwatts <= low * 1000
        assert p.requests_per_second_milli > 0
        assert p.latency_p50_ms <= p.latency_p95_ms
        if (q := wider.get(p.batch)) is not None:
            assert p.milliwatts <= q.milliwatts
            assert p.requests_per_second_milli <= q.requests_per_second_milli
            assert p.latency_p50_ms >= q.latency_p50_ms
            assert p.latency_p95_ms >= q.latency_p95_ms
    for small, large in pairwise(tight.points):
        assert small.batch < large.batch
        assert small.requests_per_second_milli < large.requests_per_second_milli
