"""Cuts of a PowerCap: fewer watts again and again (schedule), or once (events), and how a status tells them.

Decides their shape and what can be refused without a calendar. Whether a cron expression means anything and whether a
time zone exists is beyond CEL: that becomes a condition of the cap (`power.from_spec`).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from lowbeam.api.v1alpha1.base import MAX_WATTS, ApiModel, DnsLabel, Rule, Time, Watts

MAX_ENTRIES = 32
"""Of each list: a person still reads them, and what they say is worked out in milliseconds."""

CRON_FORM = r"^[0-5]?[0-9]( [0-9A-Za-z*,/#-]+){4}$"
"""Five fields. One minute: entries last for minutes at least, so several starts in an hour are one entry too many."""


_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.IGNORECASE)


def _as_the_api_server_reads_it(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        if _MOMENT.fullmatch(value):
            return datetime.fromisoformat(value.upper())
    except ValueError:
        pass
    raise PydanticCustomError("datetime_parsing", "is not a time")


Moment = Annotated[Time, BeforeValidator(_as_the_api_server_reads_it)]
"""A time that a user writes: date, time of the day with seconds, and zone."""


class Cut(ApiModel):
    """Fewer watts for a while."""

    name: DnsLabel
    """Name of the entry, as status and Events call it."""
    watts: Annotated[int, Field(ge=1, le=MAX_WATTS)] | None = None
    """The most that the scope may draw while the entry is active. The smallest of `spec.watts` and all active entries
    counts, so an entry that is not below `spec.watts` changes nothing."""
    percent: Annotated[int, Field(ge=1, le=99)] | None = None
    """The same as a share of `spec.watts`."""
    ramp_seconds: Annotated[int, Field(ge=0, le=7200)] = 0
    """From how long before the start workloads are dimmed step by step. 0 = as late as the levers allow: in either
    case the watts are down when the entry begins."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.watts) != has(self.percent)",
            message="set exactly one of watts and percent",
            holds=lambda it: (it.watts is None) != (it.percent is None),
        ),
    )


class ScheduleEntry(Cut):
    """A cut that comes again and again, e.g. every evening."""

    cron: Annotated[str, Field(min_length=1, max_length=128)]
    """When it begins: minute, hours, days of the month, months, weekdays, as in a crontab; `0 17 * * 1-5` = 17:00 from
    Monday to Friday. At a time that the clocks skip in spring it begins after the gap, at one that comes twice once."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    """The zone of `cron`, by its IANA name, e.g. Europe/Rome."""
    duration_minutes: Annotated[int, Field(ge=1, le=10_080)]
    """How long it lasts, in minutes that pass, whatever the clocks on the wall do meanwhile; a week at most."""

    rules: ClassVar = (
        *Cut.rules,
        Rule(
            cel=f"self.cron.matches('{CRON_FORM}')",
            message="cron needs five fields with one blank between them: one minute (0-59), hours, days of the month, "
            "months, weekdays (17:00 from Monday to Friday: 0 17 * * 1-5)",
            holds=lambda it: re.fullmatch(CRON_FORM, it.cron) is not None,
            field="cron",
        ),
    )


class CapEvent(Cut):
    """A cut that comes once, e.g. what the grid operator asked for."""

    start: Moment
    """When it begins."""
    end: Moment
    """When it is over."""

    rules: ClassVar = (
        *Cut.rules,
        Rule(
            cel="self.start < self.end",
            message="end must be after start",
            holds=lambda it: it.start < it.end,
            field="end",
        ),
    )


EntryLabel = Annotated[str, Field(min_length=1, max_length=80)]
"""An entry of a cap as statuses and Events name it: `schedule/NAME` or `event/NAME`."""


class NextChange(ApiModel):
    """When the effective watts of a cap change next, by its own entries or by those of the caps above it."""

    time: Time
    """When."""
    watts: Watts
    """What `effectiveWatts` will be then."""
    limited_by: Annotated[str, Field(max_length=253)]
    """The cap that will set it."""
    entry: EntryLabel | None = None
    """The entry of that cap; left out where its `spec.watts` will count."""
