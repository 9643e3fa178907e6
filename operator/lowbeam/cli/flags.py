"""Types of flags that argparse has no word for: a wrong value ends the command before it starts, by its flag."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import UTC, datetime

from lowbeam.runtime.settings import HIGHEST_PORT


def port(text: str) -> int:
    """A TCP port; 0 has the meaning that the flag's help gives it."""
    if not text.isdecimal() or len(text) > len(str(HIGHEST_PORT)) or int(text) > HIGHEST_PORT:
        raise ArgumentTypeError(f'"{text}" is not a port (0 to {HIGHEST_PORT})')
    return int(text)


def moment(text: str) -> datetime:
    """A time with its zone, in UTC and whole seconds."""
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ArgumentTypeError(f'"{text}" is no time (write 2026-12-01T18:00+01:00)') from None
    if given.tzinfo is None:
        raise ArgumentTypeError(f'"{text}" has no time zone (write {given:%Y-%m-%dT%H:%M}Z, or +01:00 for Z)')
    return given.astimezone(UTC).replace(microsecond=0)
