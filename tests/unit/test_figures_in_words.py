"""How figures read in explanations: no exponents, and what is too much reads as more than what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowbeam.cli import main
from lowbeam.planning.words import rate
from lowbeam.sizing.words import above, figure

TRIAGE = """
apiVersion: lowbeam.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: triage}
spec:
  task: text-classification
  load: {requestsPerMinute: 1200, inputTokens: 300, outputTokens: 1}
  energy: {maxJoulesPerRequest: "1.72"}
"""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0457, "0.0457"), (1.7234, "1.72"), (99.96, "100"), (999.6, "1000"), (1867, "1867")],
)
def test_a_figure_has_three_digits_or_all_before_the_point(value: float, text: str) -> None:
    assert figure(value) == text


def test_what_is_above_a_limit_reads_so() -> None:
    assert (above(1.7234, 1.72), above(70.004, 70, 1), above(7.4, 1, 1)) == ("1.723", "70.004", "7")


def test_a_thousand_requests_are_never_an_exponent() -> None:
    assert [rate(it) for it in (999_400, 999_600, 1_000_000)] == ["999 req/s", "1,000 req/s", "1,000 req/s"]


def test_joules_over_the_limit_are_not_said_to_be_as_many_as_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "triage.yaml").write_text(TRIAGE)
    assert main(["explain", "triage", "-f", str(tmp_path), "--inventory", "l4=1"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    more, limit = said.partition(" J (spec.energy")[0].rpartition(": ")[2].split(" J per request > ")
    assert float(more) > float(limit) == 1.72


def test_a_profile_says_thousands_of_requests_in_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "show", "tinyroberta-squad2-bf16-l40s-x1"]) == 0
    said = capsys.readouterr().out
    assert " 2857 " in said
    assert "e+" not in said


def test_one_workload_under_a_cap_is_no_plural(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "triage.yaml").write_text(TRIAGE.replace("1.72", "9"))
    main(["plan", "-f", str(tmp_path), "--inventory", "l4=1", "--cap", "10W", "-o", "json"])
    assert "its workload needs at least" in capsys.readouterr().out
