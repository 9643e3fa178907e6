"""`lowbeam catalog verify`: each kind of bad row is found, wrong apart from suspicious; nothing that ships is wrong."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from lowbeam.catalog import Catalogue, Finding, load_builtin, verify
from lowbeam.catalog.facts import AcceleratorClass, Basis, EnergyProfile, ProfilePoint
from lowbeam.catalog.verify import Severity

DOCUMENT = Path(__file__).parents[2] / "docs/catalogue-physics.md"
PROFILE = "llama-3.1-8b-instruct-bf16-h100-x1"


@pytest.fixture(scope="module")
def builtin() -> list[Finding]:
    return verify(load_builtin())


def test_nothing_that_ships_is_wrong(builtin: list[Finding]) -> None:
    assert [str(finding) for finding in builtin if finding.severity is Severity.ERROR] == []


def test_what_ships_and_is_suspicious_is_exactly_what_the_documentation_lists(builtin: list[Finding]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8").partition("calls suspicious")[2].partition("<!-- end")[0]
    documented = {
        check: {name: int(count or 1) for name, count in re.findall(r"([^\s,]+?)(?: \((\d+)\))?(?:, |\.$)", names)}
        for check, names in re.findall(r"^- (\w+): (.+)$", text, flags=re.MULTILINE)
    }
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for finding in builtin:
        assert finding.check, finding
        if finding.severity is Severity.SUSPICIOUS:
            found[finding.check][finding.subject.partition("/")[2]] += 1
    assert documented == found


def test_the_runs_that_wait_for_their_host_are_among_them(builtin: list[Finding]) -> None:
    falling = {finding.subject for finding in builtin if finding.check == "WattsFall"}
    assert "EnergyProfile/llama-3.1-8b-instruct-bf16-b200-x1" in falling
    slow = {finding.subject for finding in builtin if finding.check == "SlowerThanPhysics"}
    assert "EnergyProfile/qwen3-14b-bf16-high-b200-x1" in slow
    assert "EnergyProfile/qwen3-14b-bf16-b200-x1" not in slow


def test_a_source_of_tomorrow_is_suspicious_and_one_of_this_month_is_not() -> None:
    dates = ("2026-11-23", "2026-12", "2027", "2026-11-22", "2026-11", "2026")
    found = {}
    for date_ in dates:
        catalogue = with_profile(lambda p, date_=date_: replace(p, source=replace(p.source, date=date_)))  # type: ignore[misc]
        found[date_] = [it.subject for it in verify(catalogue, date(2026, 11, 22)) if it.check == "FutureDate"]
    assert found == {it: [f"EnergyProfile/{PROFILE}"] if it in dates[:3] else [] for it in dates}


# --- one bad row each ------------------------------------------------------------------------------------------------


def new_findings(catalogue: Catalogue, builtin: list[Finding]) -> set[tuple[str, str]]:
    known = set(builtin)
    return {(finding.severity, finding.check) for finding in verify(catalogue) if finding not in known}


def with_profile(change: Callable[[EnergyProfile], EnergyProfile]) -> Catalogue:
    catalogue = load_builtin()
    profiles = tuple(change(p) if p.name == PROFILE else p for p in catalogue.profiles)
    assert profiles != catalogue.profiles
    return replace(catalogue, profiles=profiles)


def with_point(place: int, change: Callable[[ProfilePoint], ProfilePoint]) -> Catalogue:
    def changed(profile: EnergyProfile) -> EnergyProfile:
        points = list(profile.points)
        points[place] = change(points[place])
        return replace(profile, points=tuple(points))

    return with_profile(changed)


def with_class(name: str, change: Callable[[AcceleratorClass], AcceleratorClass]) -> Catalogue:
    catalogue = load_builtin()
    classes = catalogue.accelerator_classes
    return replace(catalogue, accelerator_classes=classes | {name: change(classes[name])})


ERROR, SUSPICIOUS = Severity.ERROR, Severity.SUSPICIOUS


@pytest.mark.parametrize(
    ("place", "change", "expected"),
    [
        (0, lambda p: replace(p, milliwatts=45_000), (ERROR, "BelowEmptyBoard")),
        (0, lambda p: replace(p, milliwatts=100_000), (SUSPICIOUS, "BelowIdle")),
        (-1, lambda p: replace(p, milliwatts=900_000), (ERROR, "AbovePowerLimit")),
        (-1, lambda p: replace(p, milliwatts=400_000), (SUSPICIOUS, "WattsFall")),
        (-1, lambda p: replace(p, requests_per_second_milli=1), (ERROR, "ThroughputNotRising")),
        (-1, lambda p: replace(p, requests_per_second_milli=900_000), (ERROR, "FasterThanPeak")),
        (0, lambda p: replace(p, batch=1), (SUSPICIOUS, "FasterThanPhysics")),
        (0, lambda p: replace(p, requests_per_second_milli=200), (SUSPICIOUS, "SlowerThanPhysics")),
        (-1, lambda p: replace(p, batch=1), (ERROR, "BatchesNotAscending")),
        (-1, lambda p: replace(p, latency_p50_ms=10), (SUSPICIOUS, "LatencyFalls")),
    ],
)
def test_a_point_that_cannot_be_or_need_not_be_true_is_found(
    builtin: list[Finding], place: int, change: Callable[[ProfilePoint], ProfilePoint], expected: tuple[Severity, str]
) -> None:
    assert expected in new_findings(with_point(place, change), builtin)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: replace(p, model="no-such"), "UnknownModel"),
        (lambda p: replace(p, accelerator_class="no-such"), "UnknownAcceleratorClass"),
        (lambda p: replace(p, precision="fp4"), "UnknownVariant"),
        (lambda p: replace(p, task="no-such"), "UnknownTask"),
        (lambda p: replace(p, model="llama-3.1-70b-instruct"), "WeightsDoNotFit"),
        (lambda p: replace(p, accelerator_class="v100"), "PrecisionNotSupported"),
        (lambda p: replace(p, model="qwen3-8b"), "Duplicate"),
        (lambda p: replace(p, basis=Basis.MODELLED), "Uncertainty"),
        (lambda p: replace(p, uncertainty_percent=5), "Uncertainty"),
        (lambda p: replace(p, source=replace(p.source, citation=" ")), "NoSource"),
        (lambda p: replace(p, source=replace(p.source, date="last year")), "NoDate"),
    ],
)
def test_a_profile_that_does_not_hold_together_is_wrong(
    builtin: list[Finding], change: Callable[[EnergyProfile], EnergyProfile], expected: str
) -> None:
    assert (Severity.ERROR, expected) in new_findings(with_profile(change), builtin)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: replace(c, memory_mib=0), "OutOfRange"),
        (lambda c: replace(c, idle_milliwatts=0), "OutOfRange"),
        (lambda c: replace(c, idle_milliwatts=c.max_milliwatts + 1), "OutOfRange"),
        (lambda c: replace(c, min_milliwatts=c.max_milliwatts + 1), "OutOfRange"),
        (lambda c: replace(c, bare_idle_milliwatts=c.idle_milliwatts + 1), "OutOfRange"),
        (lambda c: replace(c, product_labels=("NVIDIA-H200",)), "Duplicate"),
    ],
)
def test_a_class_with_figures_that_exclude_each_other_is_wrong(
    builtin: list[Finding], change: Callable[[AcceleratorClass], AcceleratorClass], expected: str
) -> None:
    assert (Severity.ERROR, expected) in new_findings(with_class("l4", change), builtin)


def test_reading_weights_faster_than_the_memory_is_wrong(builtin: list[Finding]) -> None:
    def faster(profile: EnergyProfile) -> EnergyProfile:
        point = profile.points[0]
        return replace(profile, points=(replace(point, requests_per_second_milli=point.requests_per_second_milli * 3),))

    assert new_findings(with_profile(faster), builtin) == {
        (ERROR, "FasterThanMemory"),
        (SUSPICIOUS, "FasterThanPhysics"),
    }


def test_a_class_that_no_profile_uses_is_worth_a_look(builtin: list[Finding]) -> None:
    unused = {finding.subject for finding in builtin if finding.check == "Unused"}
    assert {"AcceleratorClass/t4", "AcceleratorClass/v100", "AcceleratorClass/mi300x"} <= unused


def test_scores_steps_and_targets_that_break_a_rule_are_wrong(builtin: list[Finding]) -> None:
    catalogue = load_builtin()
    model = catalogue.models["llama-3.1-8b-instruct"]
    variant = model.variants[0]
    score = variant.quality[0]

    def with_score(**changes: object) -> Catalogue:
        bad = replace(score, **changes)  # type: ignore[arg-type]
        changed = replace(model, variants=(replace(variant, quality=(bad,)), *model.variants[1:]))
        return replace(catalogue, models=catalogue.models | {model.name: changed})

    assert (ERROR, "ScoreOutOfRange") in new_findings(with_score(score_centi=10_001), builtin)
    assert (ERROR, "BenchmarkConflict") in new_findings(with_score(setting="5-shot, our harness"), builtin)
    assert (ERROR, "UnknownBenchmark") in new_findings(with_score(benchmark="our-own"), builtin)

    circle = replace(model, predecessors=(model.name,))
    assert (ERROR, "Cycle") in new_findings(replace(catalogue, models=catalogue.models | {model.name: circle}), builtin)
    task = replace(catalogue.tasks["text-classification"], target_centi=10_000)
    assert (ERROR, "TargetOutOfReach") in new_findings(
        replace(catalogue, tasks=catalogue.tasks | {task.name: task}), builtin
    )


def test_errors_come_first_and_read_as_subject_field_and_sentence() -> None:
    findings = verify(with_point(0, lambda p: replace(p, milliwatts=45_000)))
    assert findings[0].severity is Severity.ERROR
    assert str(findings[0]) == (
        f"error: EnergyProfile/{PROFILE}: points[batch 8]: 45 W is far below the 72 W of boards without a process"
    )
