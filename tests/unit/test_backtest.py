"""The backtest knows only the past, counts gaps as gaps, and reads the carried traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.backtest import __main__ as command
from tools.backtest.replay import HELD_OUT, SIZERS, TUNING, Series, lowbeam_estimates, mean, rates, trailing
from tools.backtest.score import is_service, score
from tools.traces.servegen import WINDOWS, Client, clients


def test_the_carried_traces_are_whole_and_their_gaps_are_no_zeros() -> None:
    found = clients()
    assert len(found) == 313
    assert {len(it.requests) for it in found} == {WINDOWS}
    unknown = {it.model: sum(requests is None for requests in it.requests) for it in found}
    assert unknown == {"m-large": 0, "m-mid": 84, "m-small": 37}
    assert sum(sum(requests or 0 for requests in it.requests) for it in found) == 3_822_705_582


def series(*figures: float | None) -> Series:
    """Figures at the beginning, then one request per second for the rest of 14 days."""
    return [*figures, *[1000.0] * (WINDOWS - len(figures))]


def test_rates_are_requests_per_second() -> None:
    client = Client("m", 0, (600, None, *[0] * (WINDOWS - 2)), (None,) * WINDOWS)
    assert rates(client)[:3] == [1000, None, 0]


@pytest.mark.parametrize("sizer", [it for it in SIZERS if "days 1-7" not in it.name], ids=lambda it: it.name)
def test_no_sizer_knows_the_window_that_it_estimates(sizer: object) -> None:
    calm, burst = series(), series()
    burst[HELD_OUT.start + 50] = 90_000.0
    assert sizer.estimates(calm)[: HELD_OUT.start + 51] == sizer.estimates(burst)[: HELD_OUT.start + 51]  # type: ignore[attr-defined]


def test_a_gap_has_no_estimate_and_changes_none() -> None:
    gap = series()
    for window in range(1200, 1260):
        gap[window] = None
    estimates = lowbeam_estimates(gap)
    assert estimates[1230] is None
    assert estimates[1260] == estimates[1199]
    assert trailing(6, mean)(gap)[1260] == 1000


def test_scores_count_windows_with_requests_and_what_is_above() -> None:
    real: Series = [0.0] * WINDOWS
    for window, rate in zip(HELD_OUT, (100.0, 200.0, 300.0, 400.0), strict=False):
        real[window] = rate
    found = score([(real, [250.0] * WINDOWS)], HELD_OUT[:8])
    assert found.coverage == 0.5
    assert found.coverage_of_all == 0.75
    assert found.overflow == pytest.approx((50 + 150) / 1000)
    assert found.provisioned == pytest.approx(8 * 250 / 1000)


def test_a_service_sends_in_half_of_the_windows() -> None:
    real: Series = [0.0] * WINDOWS
    assert not is_service(real)
    for window in TUNING[::2]:
        real[window] = 1.0
    assert is_service(real)


def test_the_command_writes_its_table_between_the_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "demand.md"
    page.write_text("before\n<!-- backtest: begin -->\nold\n<!-- backtest: end -->\nafter\n")
    monkeypatch.setattr(command, "DOCUMENT", page)
    monkeypatch.setattr(command, "clients", lambda: (*clients()[:2], *clients()[-2:]))
    monkeypatch.setattr("sys.argv", ["backtest"])
    assert command.main() == 0
    written = page.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "old" not in written
    assert all(written.count(f"| {sizer.name} |") == 2 for sizer in SIZERS)


def test_the_table_in_the_docs_has_every_sizer() -> None:
    text = command.DOCUMENT.read_text()
    assert all(text.count(f"| {sizer.name} |") == 2 for sizer in SIZERS)
