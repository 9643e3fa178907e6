"""What must hold at the end, and the report.

A check is a line with what was found and what it may be at most; the soak fails when one of them does.
"""

from __future__ import annotations

from dataclasses import dataclass

from .changes import Writer
from .subject import Subject
from .tally import Tally
from .watch import Watch

GROWTH_MIB = 12.0
"""Most that memory may grow from one third of the run to the next; fragments of weights that are read anew remain."""
COUNTER_TOLERANCE = 0.01
"""Counter against watts and time: both are read some 0.1 s apart, and watts change every few seconds."""
ANSWERS_TOLERANCE = 0.01
"""Joules in answers against those that the worker says it stated: some answers were never read."""
_FILES, _THREADS = 4, 8
"""Pools that grow to their size under load."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    text: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """What the process was like before and after the load, and how it ended."""

    files_before: int
    files_after: int
    threads_before: int
    threads_after: int
    inside: int
    """Requests that the worker still counts as running or waiting when all clients have gone."""
    exit_code: int | None


def checks(subject: Subject, tally: Tally, watch: Watch, ending: Ending) -> list[Check]:
    """Everything that must hold for one worker."""
    series, log = watch.series, subject.log.read_text()
    restarts = series.get("lowbeam_worker_engine_restarts_total", 0.0)
    charged = series.get("lowbeam_worker_energy_charged_joules_total", 0.0)
    slope, error = watch.slope_mib_per_hour()
    counter_off = abs(watch.counted_joules / watch.board_joules - 1) if watch.board_joules else 1.0
    answers_off = abs(tally.joules / charged - 1) if charged else 1.0
    errors = [line for line in log.splitlines() if " ERROR " in line or line.startswith("Traceback")]
    answered, scrapes = tally.answered.total(), watch.scrapes
    return [
        Check(f"{tally.lost_count} requests lost of {answered + tally.lost_count} (0)", not tally.lost_count),
        Check(
            f"{tally.wrong_count} wrong: {tally.compared} answers compared, {tally.refused.total()} poisoned requests "
            "and every change checked (0)",
            not tally.wrong_count and tally.compared > 0,
        ),
        Check(f"{restarts:.0f} deaths of the engine's loop (0)", not restarts),
        Check(
            f"ledger alarm at most {watch.worst_alarm_joules:g} J, parts and counter at most "
            f"{watch.worst_gap_millijoules} mJ apart in {scrapes} scrapes (0)",
            scrapes > 0 and not watch.worst_alarm_joules and not watch.worst_gap_millijoules,
        ),
        Check(
            f"{watch.counted_joules:.0f} J counted, {watch.board_joules:.0f} J by the board's watts: "
            f"{counter_off:.2%} apart ({COUNTER_TOLERANCE:.0%})",
            counter_off <= COUNTER_TOLERANCE,
        ),
        Check(
            f"{tally.joules:.0f} J in answers, {charged:.0f} J stated by the worker: {answers_off:.2%} apart "
            f"({ANSWERS_TOLERANCE:.0%})",
            answers_off <= ANSWERS_TOLERANCE,
        ),
        Check(
            f"memory {watch.median_mib():.0f} MiB, {watch.growth_mib():+.1f} MiB at the same precision "
            f"from the second third to the last ({GROWTH_MIB:g}), slope {slope:+.0f} MiB/h with a standard error of "
            f"{error:.0f}",
            watch.growth_mib() <= GROWTH_MIB,
        ),
        Check(
            f"files {ending.files_before} -> {ending.files_after}, threads {ending.threads_before} -> "
            f"{ending.threads_after}, {ending.inside} requests left inside",
            ending.files_after <= ending.files_before + _FILES
            and ending.threads_after <= ending.threads_before + _THREADS
            and not ending.inside,
        ),
        Check(f"exit code {ending.exit_code} after SIGTERM (0)", ending.exit_code == 0),
        Check(f"{len(errors)} errors in the log (0)" + "".join(f"\n      {line}" for line in errors[:5]), not errors),
    ]


def report(subject: Subject, tally: Tally, watch: Watch, writer: Writer, found: list[Check]) -> str:
    """The whole story of one worker."""
    lines = [f"{subject.name}:"]
    lines += [f"  {'ok  ' if check.holds else 'FAIL'} {check.text}" for check in found]
    for title, counts in (
        ("answered", tally.answered),
        ("refused", tally.refused),
        ("left", tally.left),
        ("held back", tally.held_back),
        ("changes", writer.made),
    ):
        lines.append(f"  {title}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    lines.append("  longest change: " + ", ".join(f"{name} {it:.2f} s" for name, it in sorted(writer.seconds.items())))
    lines += [f"  {problem}" for problem in tally.problems]
    return "\n".join(lines)
