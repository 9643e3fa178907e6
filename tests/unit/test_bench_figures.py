from __future__ import annotations

from datetime import date

import pytest

from tools.bench.document import MissingSectionError, stamped, with_section
from tools.bench.figures import Section, Table, bucket_quantile, number, quantile, spread


def test_the_p99_of_twenty_runs_is_the_slowest_and_the_median_is_a_run_that_happened() -> None:
    runs = [float(n) for n in range(20, 0, -1)]
    assert quantile(runs, 0.99) == 20
    assert quantile(runs, 0.5) == 10
    assert quantile([7.0], 0.5) == 7


def test_a_quantile_of_nothing_is_refused_and_not_zero() -> None:
    with pytest.raises(ValueError, match="unknown, not 0"):
        quantile([], 0.5)


def test_a_run_that_never_got_there_stands_above_every_number() -> None:
    assert spread([1.0, 2.0, None]) == ["2.0", "never", "never"]
    assert spread([]) == ["-", "-", "-"]


def test_an_unknown_figure_is_a_dash() -> None:
    assert number(None) == "-"
    assert number(1.25, 2) == "1.25"


def test_a_histogram_answers_with_the_bound_of_the_bucket_that_holds_the_quantile() -> None:
    buckets = [(0.1, 98.0), (1.0, 99.0), (float("inf"), 100.0)]
    assert bucket_quantile(buckets, 0.5) == 0.1
    assert bucket_quantile(buckets, 0.99) == 1.0
    assert bucket_quantile(buckets, 1.0) == float("inf")
    assert bucket_quantile([(0.1, 0.0), (float("inf"), 0.0)], 0.5) is None


def test_a_table_has_as_many_cells_in_every_line() -> None:
    text = Table(("seconds", "p50"), [["first action", "0.1"]]).markdown()
    assert text.splitlines() == ["| seconds | p50 |", "| --- | ---: |", "| first action | 0.1 |"]


def test_only_the_text_between_the_markers_is_replaced() -> None:
    page = "above\n<!-- bench one: begin -->\nold\n<!-- bench one: end -->\nbelow\n"
    once = with_section(page, "one", r"new \1")
    assert once == "above\n<!-- bench one: begin -->\nnew \\1\n<!-- bench one: end -->\nbelow\n"
    assert with_section(once, "one", r"new \1") == once


def test_a_page_without_markers_is_not_written() -> None:
    with pytest.raises(MissingSectionError, match="begin"):
        with_section("nothing here", "one", "new")


def test_every_table_says_when_and_with_which_command_it_was_made() -> None:
    section = Section("One", "About.", [Table(("a",), [["b"]])], ["remark"])
    text = stamped(section, "python -m tools.bench one --write", date(2026, 1, 2))
    assert "2026-01-02" in text.splitlines()[0]
    assert "python -m tools.bench one --write" in text.splitlines()[0]
    assert text.endswith("- remark")
