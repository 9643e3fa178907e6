"""The latency tables against exact answers, against another simulation, and as sizing reads them."""

from __future__ import annotations

import numpy as np
import pytest

from lowbeam.sizing import latency
from lowbeam.sizing.latency import LatencyTable, latency_table
from tools.latency import closed_forms, tables
from tools.latency.arrivals import coefficient_of_variation, gamma_arrivals
from tools.latency.batch_service import Lanes, sojourn_quantiles
from tools.latency.replay import Replica, predicted_p95, replay

ENCODER, DECODER = True, False
LOADS = [0.3, 0.6, 0.8]
NOISE = {0.5: 0.06, 0.95: 0.1, 0.99: 0.16}
"""Of a simulation of 80,000 requests, by quantile."""
QUANTILES = [(latency.DELAY_P50, 0.5), (latency.DELAY_P95, 0.95), (latency.DELAY_P99, 0.99)]


def read(figure: int, encoder: bool, limit: float, slope: float, load: float, *, cv: float = 1.0) -> float:
    table = latency_table()
    cells = table.cells(np.array([encoder]), np.array([float(limit)]), np.array([slope]))
    rows = table.rows(figure, cells, cv)
    return float(latency.along_load(table, rows, np.array([0]), np.array([load]))[0])


@pytest.mark.parametrize(("figure", "share"), QUANTILES)
@pytest.mark.parametrize("load", LOADS)
def test_batches_of_one_are_the_exact_queue_of_one_server(load: float, figure: int, share: float) -> None:
    assert read(figure, ENCODER, 1, 0.5, load) == pytest.approx(closed_forms.md1_sojourn(load, share), rel=NOISE[share])


@pytest.mark.parametrize(("figure", "share"), QUANTILES)
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(("slots", "slope"), [(1, 0.0), (2, 0.0), (8, 0.0), (8, 0.5), (32, 0.9), (4, 1.0), (128, 0.25)])
def test_the_wait_for_a_slot_is_the_exact_one(slots: int, slope: float, load: float, figure: int, share: float) -> None:
    exact = closed_forms.slots_wait(load, slots, slope, share)
    assert read(figure, DECODER, slots, slope, load) == pytest.approx(exact, rel=NOISE[share], abs=0.03)


@pytest.mark.parametrize(("figure", "share"), QUANTILES)
def test_a_limit_that_is_never_reached_spreads_arrivals_evenly_over_a_batch(figure: int, share: float) -> None:
    assert read(figure, ENCODER, 512, 0.0, 0.5) == pytest.approx(closed_forms.endless_batch_sojourn(share), rel=0.02)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("limit", [2, 16, 128])
def test_members_of_a_batch_leave_together_so_never_before_a_queue_of_single_services(limit: int, load: float) -> None:
    single = closed_forms.md1_sojourn(load, 0.95) / limit
    assert read(latency.DELAY_P95, ENCODER, limit, 1.0, load) >= single


def test_an_idle_replica_answers_in_the_time_of_a_batch_of_one() -> None:
    assert read(latency.DELAY_P95, ENCODER, 8, 0.8, 0.0) == pytest.approx(0.2 + 0.8 / 8, rel=0.01)
    assert read(latency.DELAY_P95, DECODER, 8, 0.8, 0.0) == 0
    assert read(latency.OWN_P95, DECODER, 8, 0.8, 0.0) == pytest.approx(0.2 + 0.8 / 8, rel=0.01)


def test_no_time_falls_with_load_or_burstiness() -> None:
    table = latency_table()
    assert (np.diff(table.figures, axis=2) >= 0).all()
    assert (np.diff(table.figures, axis=0) >= 0).all()


def test_quantiles_are_in_order_and_an_iteration_never_takes_longer_than_a_full_one() -> None:
    table = latency_table()
    for p50, p95, p99 in ((latency.DELAY_P50, latency.DELAY_P95, latency.DELAY_P99), (6, 7, 8)):
        assert (table.figures[:, p50] <= table.figures[:, p95]).all()
        assert (table.figures[:, p95] <= table.figures[:, p99]).all()
    assert table.figures[:, latency.PACE_P99].max() <= 1


BETWEEN = [
    # queue, limit, slope, load, cv
    (ENCODER, 12, 0.85, 0.55, 1.0),
    (ENCODER, 100, 0.96, 0.72, 1.3),
    (ENCODER, 3, 0.3, 0.33, 4.0),
    (DECODER, 12, 0.4, 0.62, 1.0),
    (DECODER, 48, 0.93, 0.77, 1.7),
    (DECODER, 200, 0.6, 0.81, 2.5),
]


@pytest.mark.parametrize(("encoder", "limit", "slope", "load", "cv"), BETWEEN)
def test_between_the_cells_it_is_what_another_simulation_of_the_same_replica_finds(
    encoder: bool, limit: int, slope: float, load: float, cv: float
) -> None:
    arrival = gamma_arrivals(cv, 30_000, 99)
    work = np.random.default_rng(5).exponential(1.0, arrival.size)
    work /= work.mean()
    rate = arrival.size / float(arrival[-1])
    replica = Replica(encoder, limit, slope, load * limit / rate)
    seen = float(np.quantile(replay(replica, arrival, work).wholes[3000:], 0.95))
    told = predicted_p95(replica, rate, cv, float(np.quantile(work, 0.95)))
    assert 0.93 * seen <= told <= 1.5 * seen


@pytest.mark.parametrize("cv", [1.0, 3.0])
def test_simulated_again_the_stored_cells_come_out(cv: float) -> None:
    lanes = Lanes(np.array([0.3, 0.7]), np.array([64.0, 512.0]), np.array([0.5, 0.9]))
    found = sojourn_quantiles(lanes, cv, tables.REQUESTS)
    for row, (figure, _) in enumerate(QUANTILES):
        stored = [read(figure, ENCODER, *cell, cv=cv) for cell in ((64, 0.5, 0.3), (512, 0.9, 0.7))]
        assert stored == pytest.approx(found[row].tolist(), rel=0.011), "rounded up to three digits"


def test_the_file_is_small_and_holds_the_grid_of_the_generator() -> None:
    assert tables.TABLE.stat().st_size < 300_000
    table: LatencyTable = latency_table()
    assert table.cv.tolist() == tables.CVS.tolist()
    assert table.slope == pytest.approx(tables.SLOPES)
    assert table.load[-1] == latency.MAX_UTILISATION


def test_generated_arrivals_are_as_bursty_as_asked() -> None:
    for cv in (1.0, 2.0, 5.0):
        assert coefficient_of_variation(gamma_arrivals(cv, 60_000)) == pytest.approx(cv, rel=0.1)


def test_replicas_that_share_arrivals_at_random_see_calmer_ones() -> None:
    arrival, choose = gamma_arrivals(4.0, 80_000, 3), np.random.default_rng(2)
    mine = arrival[choose.integers(0, 4, arrival.size) == 0]
    assert coefficient_of_variation(mine) == pytest.approx(latency.replica_cv(4.0, 4), rel=0.1)
    assert latency.replica_cv(1.0, 7) == 1
    assert latency.replica_cv(0.3, 1) == 1


def test_the_highest_load_is_where_the_time_reaches_the_limit() -> None:
    table = latency_table()
    rows = (1 + 2 * table.load / latency.MAX_UTILISATION)[:, None].repeat(4, axis=1)
    limits = np.array([0.5, 1.0, 2.0, 9.0])
    found = latency.highest_load(table, lambda some: lambda load: rows[load, some], limits, 0)
    assert found.tolist() == pytest.approx([0.0, 0.0, latency.MAX_UTILISATION / 2, latency.MAX_UTILISATION])
    back = latency.along_load(table, rows, np.array([2]), found[2:3])
    assert float(back[0]) == pytest.approx(2.0)


def test_a_load_is_found_among_those_of_the_grid_whichever_it_is() -> None:
    table = latency_table()
    rows = (table.load**2)[:, None].repeat(200, axis=1)
    limits = np.linspace(0.0, 1.0, 200)
    found = latency.highest_load(table, lambda some: lambda load: rows[load, some], limits, 1)
    assert (found > 0).tolist() == (limits >= table.load[1] ** 2).tolist()
    assert found.max() == latency.MAX_UTILISATION
    kept = found > 0
    back = latency.along_load(table, rows, np.flatnonzero(kept), found[kept])
    assert back == pytest.approx(np.minimum(limits[kept], table.load[-1] ** 2))
