"""Plans at a time: what a schedule of a cap allows then, and which entry says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowbeam.cli import main
from tests.raw_objects import GOOD

CAP = """
apiVersion: lowbeam.dev/v1alpha1
kind: PowerCap
metadata: {name: evening}
spec:
  scope: {cluster: {}}
  watts: 12000
  schedule:
    - {name: peak, cron: "0 17 * * 1-5", timeZone: Europe/Rome, durationMinutes: 180, watts: 9000}
  events: [{name: grid-1, start: "2026-12-01T16:30:00Z", end: "2026-12-01T17:30:00Z", percent: 50}]
"""


def planned(tmp_path: Path, *args: str, cap: str = CAP) -> int:
    file = tmp_path / "all.yaml"
    file.write_text(f"{GOOD}\n---\n{cap}")
    return main(["plan", "-f", str(file), "--inventory", "l4=8", *args])


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("2026-12-01T15:00Z", "12.0 kW of spec.watts; 9.00 kW of schedule/peak from 2026-12-01T16:00:00Z"),
        (
            "2026-12-01T16:58+01:00",
            "9.00 kW ahead of schedule/peak; 9.00 kW of schedule/peak from 2026-12-01T16:00:00Z",
        ),
        ("2026-12-01T16:10Z", "9.00 kW of schedule/peak; 6.00 kW of event/grid-1 from 2026-12-01T16:30:00Z"),
        ("2026-12-01T18:00+01:00", "6.00 kW of event/grid-1; 9.00 kW of schedule/peak from 2026-12-01T17:30:00Z"),
    ],
)
def test_a_plan_says_which_entry_it_was_made_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at: str, says: str
) -> None:
    assert planned(tmp_path, "--at", at) == 0
    out = capsys.readouterr().out
    assert f"evening: {says}" in " ".join(out.split())
    (row,) = [line.split() for line in out.splitlines() if line.startswith("evening  ")]
    assert f"{row[1]} {row[2]}" == says[:7]


def test_a_cap_without_entries_says_nothing_about_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(tmp_path, "--cap", "9kW", cap="") == 0
    assert "\nat 20" not in capsys.readouterr().out


def test_an_entry_that_means_nothing_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(tmp_path, cap=CAP.replace("0 17 * * 1-5", "0 17 * * 9")) == 2
    assert "spec.schedule[0].cron" in capsys.readouterr().err


@pytest.mark.parametrize("time", ["soon", "2026-12-01T17:00"])
def test_a_time_without_its_zone_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], time: str) -> None:
    with pytest.raises(SystemExit) as error:
        planned(tmp_path, "--at", time)
    assert error.value.code == 2
    assert "argument --at" in capsys.readouterr().err


def test_the_caps_on_the_page_about_power_are_understood(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "power.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```yaml\n")[1:]]
    scheduled = [block for block in blocks if "schedule:" in block]
    assert scheduled
    for block in blocks:
        assert planned(tmp_path, cap=block) == 0
