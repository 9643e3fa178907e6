"""What a cap allows at one instant: overlaps, changes of the clocks, plans ahead of a cut, and what comes next."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lowbeam.api.v1alpha1.base import MAX_MESSAGE_LENGTH
from lowbeam.api.v1alpha1.powercap import PowerCapSpec
from lowbeam.planning.moves import settle_seconds
from lowbeam.power.from_spec import timetable_of_spec
from lowbeam.power.outlook import CAP_SCHEDULE_INVALID, Change, outlook
from lowbeam.power.recurrence import NotUnderstood, Once, Window, recurring
from lowbeam.power.schedule import Entry, Timetable, limit_at
from lowbeam.power.tree import build_cap_tree
from lowbeam.power.watch import WatchState, watch
from tests.builders import cap


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "zone", "minutes", "since", "expected"),
    [
        pytest.param(
            "0 17 * * 1-5", "Europe/Rome", 180, "2026-11-20 12:00", ("11-20 16:00", "11-20 19:00"), id="in winter"
        ),
        pytest.param(
            "0 17 * * 1-5", "Europe/Rome", 180, "2026-07-01 12:00", ("07-01 15:00", "07-01 18:00"), id="in summer"
        ),
        pytest.param(
            "0 17 * * *", "Europe/Rome", 180, "2026-07-01 16:59", ("07-01 15:00", "07-01 18:00"), id="in its middle"
        ),
        pytest.param(
            "0 17 * * *", "Europe/Rome", 180, "2026-07-01 18:00", ("07-02 15:00", "07-02 18:00"), id="at its very end"
        ),
        pytest.param(
            "0 17 * * 1",
            "America/New_York",
            60,
            "2026-11-22 00:00",
            ("11-23 22:00", "11-23 23:00"),
            id="a zone to the west",
        ),
        pytest.param(
            "0 7 * * 1", "Asia/Tokyo", 60, "2026-11-20 00:00", ("11-22 22:00", "11-22 23:00"), id="a zone to the east"
        ),
        pytest.param(
            "0 23 * * *", "Europe/Rome", 480, "2026-11-20 03:00", ("11-19 22:00", "11-20 06:00"), id="over midnight"
        ),
        pytest.param(
            "30 23 31 12 *", "UTC", 60, "2026-12-31 12:00", ("12-31 23:30", "01-01 00:30"), id="over a new year"
        ),
        pytest.param(
            "30 2 * * *",
            "Europe/Rome",
            30,
            "2026-03-29 00:00",
            ("03-29 01:00", "03-29 01:30"),
            id="in the gap of spring",
        ),
        pytest.param(
            "0 1 * * *", "Europe/Rome", 180, "2026-03-28 12:00", ("03-29 00:00", "03-29 03:00"), id="over spring"
        ),
        pytest.param(
            "30 2 * * *", "Europe/Rome", 30, "2026-10-25 00:00", ("10-25 00:30", "10-25 01:00"), id="twice in autumn"
        ),
        pytest.param(
            "30 2 * * *", "Europe/Rome", 90, "2026-10-25 01:10", ("10-25 00:30", "10-25 02:00"), id="its second pass"
        ),
        pytest.param(
            "30 2 * * *", "Europe/Rome", 30, "2026-10-25 01:10", ("10-26 01:30", "10-26 02:00"), id="after its passes"
        ),
        pytest.param(
            "0 1 * * *", "Europe/Rome", 180, "2026-10-24 12:00", ("10-24 23:00", "10-25 02:00"), id="over autumn"
        ),
        pytest.param(
            "0 2 * * *",
            "Australia/Lord_Howe",
            60,
            "2026-10-03 12:00",
            ("10-03 15:30", "10-03 16:30"),
            id="half an hour of summer",
        ),
        pytest.param(
            "0 0 * * *", "Africa/Cairo", 60, "2026-04-23 12:00", ("04-23 22:00", "04-23 23:00"), id="a skipped midnight"
        ),
        pytest.param(
            "0 8,10 * * *", "UTC", 180, "2026-11-20 00:00", ("11-20 08:00", "11-20 13:00"), id="two that overlap"
        ),
        pytest.param(
            "0 8,11 * * *", "UTC", 180, "2026-11-20 00:00", ("11-20 08:00", "11-20 14:00"), id="two that touch"
        ),
        pytest.param("0 0 * * 6,0", "UTC", 1440, "2026-11-21 12:00", ("11-21 00:00", "11-23 00:00"), id="a weekend"),
        pytest.param("0 12 L * *", "UTC", 60, "2027-02-01 00:00", ("02-28 12:00", "02-28 13:00"), id="the last day"),
        pytest.param(
            "0 0 29 2 *", "UTC", 60, "2026-11-20 00:00", ("02-29 00:00", "02-29 01:00"), id="a day that is rare"
        ),
        pytest.param("0 0 * * *", "UTC", 1440, "2026-11-20 00:00", ("11-20 00:00", None), id="every day for a day"),
        pytest.param(
            "0 0 * * *", "Europe/Rome", 1440, "2026-10-24 12:00", ("10-23 22:00", "10-25 22:00"), id="a day of 25 hours"
        ),
        pytest.param("0 * * * *", "UTC", 60, "2026-11-20 00:30", ("11-20 00:00", None), id="every hour for an hour"),
    ],
)
def test_a_window_begins_by_the_wall_clock_and_lasts_for_minutes_that_pass(
    cron: str, zone: str, minutes: int, since: str, expected: tuple[str, str | None]
) -> None:
    window = next(recurring(cron, zone, minutes).windows(utc(since)))
    assert (f"{window.start:%m-%d %H:%M}", window.end and f"{window.end:%m-%d %H:%M}") == expected


@pytest.mark.parametrize(
    ("cron", "zone", "message"),
    [
        ("0 25 * * *", "UTC", 'cron: "0 25 * * *" is no cron expression (bad hour)'),
        ("0 17 * * FRI-MON", "UTC", 'cron: "0 17 * * FRI-MON" is no cron expression (bad day-of-week)'),
        ("0 0 31 2 *", "UTC", "(bad day-of-month)"),
        ("0 17 * * *", "Europe/Rom", 'timeZone: "Europe/Rom" is no time zone (did you mean Europe/Rome?)'),
        ("0 17 * * *", "europe/rome", "did you mean Europe/Rome?"),
        ("0 17 * * *", "../../etc/passwd", "use a name like Europe/Rome"),
        ("0 17 * * *", "Europe", "is no time zone"),
        ("0 25 * * *", "Europe/Rom", '(bad hour); timeZone: "Europe/Rom" is no time zone'),
    ],
)
def test_what_means_nothing_is_said_with_what_to_write(cron: str, zone: str, message: str) -> None:
    with pytest.raises(NotUnderstood) as error:
        recurring(cron, zone, 60)
    assert message in str(error.value)


def entry(name: str, watts: int, start: str, end: str, ramp: int = 0) -> Entry:
    return Entry(f"event/{name}", watts, ramp, Once(Window(utc(start), utc(end))))


DAY = "2026-11-20"
A = entry("a", 9000, f"{DAY} 17:00", f"{DAY} 20:00")
B = entry("b", 8000, f"{DAY} 18:00", f"{DAY} 19:00")


@pytest.mark.parametrize(
    ("at", "watts", "by"),
    [
        ("16:59", 12000, ""),
        ("17:00", 9000, "event/a"),
        ("18:00", 8000, "event/b"),
        ("19:00", 9000, "event/a"),
        ("20:00", 12000, ""),
    ],
)
def test_of_entries_that_overlap_the_smallest_counts_and_never_the_latest(at: str, watts: int, by: str) -> None:
    for order in ((A, B), (B, A)):
        limit = limit_at(Timetable(12000, order), utc(f"{DAY} {at}"))
        assert (limit.watts, limit.entry) == (watts, by)


def test_an_entry_never_allows_more_than_the_static_watts() -> None:
    limit = limit_at(Timetable(8500, (A,)), utc(f"{DAY} 17:30"))
    assert (limit.watts, limit.entry, [it.entry for it in limit.active]) == (8500, "", ["event/a"])
    assert Timetable(8500, (A, B)).never_counting() == ("event/a",)


def test_plans_keep_to_a_cut_as_long_before_it_as_the_slowest_move_takes() -> None:
    timetable = Timetable(12000, (A,), settle_seconds=180)
    before, ahead = (limit_at(timetable, utc(f"{DAY} 16:56:{second}")) for second in ("44", "45"))
    assert (before.watts, before.planned_watts, before.holds_until) == (12000, 12000, utc(f"{DAY} 16:56:45"))
    assert (ahead.watts, ahead.planned_watts, ahead.planned_entry) == (12000, 9000, "event/a")
    assert (ahead.planned_for, ahead.holds_until) == (utc(f"{DAY} 17:00"), utc(f"{DAY} 16:57"))
    assert ahead.admitted_watts == 12000, "a replacement may still be made before the old pods go"
    late = limit_at(timetable, utc(f"{DAY} 16:57"))
    assert (late.watts, late.admitted_watts, late.holds_until) == (12000, 9000, utc(f"{DAY} 17:00"))
    begun = limit_at(timetable, utc(f"{DAY} 17:00"))
    assert (begun.watts, begun.planned_watts, begun.planned_for) == (9000, 9000, None)


def test_a_ramp_comes_down_minute_by_minute_and_is_down_in_time() -> None:
    ramp = entry("a", 9000, f"{DAY} 17:00", f"{DAY} 20:00", ramp=600)
    timetable, now, steps = Timetable(12000, (ramp,), settle_seconds=165), utc(f"{DAY} 16:00"), []
    while (limit := limit_at(timetable, now)).watts == 12000:
        if not steps or steps[-1][1] != limit.planned_watts:
            steps.append((f"{now:%H:%M}", limit.planned_watts))
        assert limit.holds_until is not None
        now = limit.holds_until
    assert steps == [
        ("16:00", 12000),
        ("16:50", 11625),
        ("16:51", 11250),
        ("16:52", 10875),
        ("16:53", 10500),
        ("16:54", 10125),
        ("16:55", 9750),
        ("16:56", 9375),
        ("16:57", 9000),
    ]


def test_between_two_entries_that_touch_nothing_comes_back() -> None:
    then = entry("then", 9000, f"{DAY} 20:00", f"{DAY} 21:00")
    timetable = Timetable(12000, (A, then), settle_seconds=180)
    for at in ("19:59:59", "20:00:00"):
        assert limit_at(timetable, utc(f"{DAY} {at}")).planned_watts == 9000


def test_what_comes_next_is_told_one_change_after_the_other() -> None:
    at, found = utc(f"{DAY} 00:00"), []
    while change := outlook((cap("c", 12_000),), {"c": Timetable(12_000, (A, B))}, at).next_changes.get("c"):
        at = change.at
        found.append((f"{at:%H:%M}", change.watts, change.entry))
    assert found == [
        ("17:00", 9000, "event/a"),
        ("18:00", 8000, "event/b"),
        ("19:00", 9000, "event/a"),
        ("20:00", 12000, ""),
    ]


def test_the_next_change_of_a_cap_below_others_is_that_of_what_is_effective() -> None:
    caps = (cap("cluster", 10_000), cap("row", 12_000, parent="cluster"))
    timetables = {"cluster": Timetable(10_000, (B,)), "row": Timetable(12_000, (A,))}
    found = outlook(caps, timetables, utc(f"{DAY} 16:00"))
    assert found.next_changes["row"] == Change(utc(f"{DAY} 17:00"), 9000, "row", "event/a")
    assert found.next_changes["cluster"] == Change(utc(f"{DAY} 18:00"), 8000, "cluster", "event/b")
    later = outlook(caps, timetables, utc(f"{DAY} 18:30"))
    assert later.next_changes["row"] == Change(utc(f"{DAY} 19:00"), 9000, "row", "event/a")
    assert outlook(caps, timetables, utc(f"{DAY} 20:00")).next_changes == {}


def test_an_entry_that_a_smaller_cap_above_hides_is_no_change() -> None:
    caps = (cap("cluster", 8_000), cap("row", 12_000, parent="cluster"))
    timetables = {"cluster": Timetable(8_000), "row": Timetable(12_000, (A,))}
    found = outlook(caps, timetables, utc(f"{DAY} 16:00"))
    assert found.next_changes == {}
    assert found.holds_until == utc(f"{DAY} 16:59:45")


def test_plans_of_a_cap_keep_to_a_cut_of_the_cap_above_that_is_close() -> None:
    caps = (cap("cluster", 12_000), cap("row", 11_000, parent="cluster"))
    timetables = {"cluster": Timetable(12_000, (A,), 180), "row": Timetable(11_000)}
    found = outlook(caps, timetables, utc(f"{DAY} 16:59"))
    usable = dict(zip([it.name for it in found.caps.caps], found.caps.usable_milliwatts, strict=True))
    planned = {it.name: milliwatts for it, milliwatts in found.caps.enforced()}
    assert usable == {"cluster": 12_000_000, "row": 11_000_000}
    assert planned == {"cluster": 9_000_000, "row": 9_000_000}
    assert found.planned == {"cluster": 9000, "row": 9000}


def test_an_entry_that_means_nothing_is_said_and_takes_nothing_from_the_others() -> None:
    trouble = 'spec.schedule[0].timeZone: "Rome" is no time zone'
    timetable = Timetable(12000, (A,), troubles=(trouble,))
    found = outlook((cap("cluster", 12_000),), {"cluster": timetable}, utc(f"{DAY} 17:30"))
    assert found.caps.usable("cluster") == 9_000_000
    (problem,) = found.caps.problems
    assert problem.reason == CAP_SCHEDULE_INVALID
    assert trouble in problem.message
    assert "12000 W and the other entries stay in force" in problem.message


def test_an_entry_that_never_ends_stays_in_force_and_is_said() -> None:
    always = Entry("schedule/night", 9000, 0, recurring("0 22 * * *", "UTC", 1440))
    found = outlook((cap("cluster", 12_000),), {"cluster": Timetable(12_000, (always,))}, utc(f"{DAY} 12:00"))
    assert found.caps.usable("cluster") == 9_000_000
    assert [it.message for it in found.caps.problems if "schedule/night never ends" in it.message]


def test_a_look_holds_until_something_changes_and_not_for_a_clock_that_is_set_back() -> None:
    found = outlook((cap("cluster", 12_000),), {"cluster": Timetable(12_000, (A,), 45)}, utc(f"{DAY} 16:00"))
    assert found.holds_at(utc(f"{DAY} 16:58:59"))
    assert not found.holds_at(utc(f"{DAY} 16:59"))
    assert not found.holds_at(utc(f"{DAY} 16:00") - timedelta(seconds=1))


SPEC = {
    "scope": {"cluster": {}},
    "watts": 999,
    "levers": ["Batch"],
    "schedule": [
        {"name": "a", "cron": "0 25 * * *", "durationMinutes": 60, "percent": 50},
        {"name": "b", "cron": "0 17 * * *", "durationMinutes": 60, "percent": 50, "rampSeconds": 60},
        {"name": "c", "cron": "0 25 * * *", "timeZone": "Nowhere", "durationMinutes": 60, "watts": 5},
    ],
    "events": [{"name": "b", "start": "2026-11-20T17:00:00Z", "end": "2026-11-20T18:00:00Z", "watts": 400}],
}


def test_entries_of_a_spec_are_called_by_their_list_and_those_that_mean_nothing_by_their_place() -> None:
    spec = PowerCapSpec.model_validate(SPEC)
    timetable = timetable_of_spec(spec, settle_seconds(spec.levers))
    assert [(it.label, it.watts, it.ramp_seconds) for it in timetable.entries] == [
        ("schedule/b", 499, 60),
        ("event/b", 400, 0),
    ]
    assert [it.partition(": ")[0] for it in timetable.troubles] == [
        "spec.schedule[0].cron",
        "spec.schedule[2].cron",
        "spec.schedule[2].timeZone",
    ]


def test_all_entries_that_are_wrong_are_named_or_counted_in_a_message_that_fits_a_condition() -> None:
    night = {"name": "night", "cron": "0 22 * * *", "durationMinutes": 1440, "percent": 50}
    wrong = {"timeZone": "A" * 60, "durationMinutes": 60, "percent": 50}
    for many in (1, 3, 15):
        entries = [{"name": f"e{i}", "cron": f"0 25 {','.join(['1'] * 50)} * {i}", **wrong} for i in range(many)]
        nights = [{**night, "name": f"{'night' * 12}-{i}"} for i in range(many)]
        spec = PowerCapSpec.model_validate({**SPEC, "schedule": [*entries, *nights]})
        found = outlook((cap("c", 999),), {"c": timetable_of_spec(spec, 180)}, utc(f"{DAY} 12:00"))
        (problem,) = found.caps.problems
        assert len(problem.message) <= MAX_MESSAGE_LENGTH
        assert "spec.schedule[0].cron" in problem.message
        assert f"schedule/{nights[0]['name']}" in problem.message
        counted = sum(int(it) for it in re.findall(r"and (\d+) more", problem.message))
        named = problem.message.count("no cron") + problem.message.count("no time zone")
        assert named + problem.message.count("schedule/night") + counted == 3 * many


@pytest.mark.parametrize(
    ("levers", "seconds"), [(("Batch",), 10), (("Batch", "Replicas"), 45), (("Batch", "Replicas", "Model"), 180)]
)
def test_a_cap_plans_ahead_for_the_slowest_move_that_it_allows(levers: tuple[str, ...], seconds: int) -> None:
    assert settle_seconds(levers) == seconds


def test_before_a_cut_the_guard_keeps_what_is_in_force_and_the_gate_what_comes() -> None:
    limited = replace(cap("cluster", 12_000), planned_watts=9000)
    seen = watch(build_cap_tree([limited]), (), {"cluster": 0}, WatchState(), 0)
    assert "12.0 kW usable" in seen.assessments["cluster"].message
    assert seen.views["cluster"].usable_milliwatts == 9_000_000
