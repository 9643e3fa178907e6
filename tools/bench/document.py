"""docs/benchmarks.md: prose by people, tables by the tool, between markers. Changes nothing outside the markers.

Invariant: a section is replaced as a whole with date, hardware, versions and command, so that every table says how it
was made.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

from .figures import Section
from .machine import hardware, versions

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"


class MissingSectionError(Exception):
    """The document has no markers of that name."""


def stamped(section: Section, command: str, today: date) -> str:
    """The text between the markers."""
    how = f"*{today.isoformat()} · `{command}` · {hardware()} · {versions()}*"
    return f"{how}\n\n{section.markdown()}"


def with_section(text: str, name: str, body: str) -> str:
    """The document with the section's text replaced. Raises MissingSectionError."""
    begin, end = f"<!-- bench {name}: begin -->", f"<!-- bench {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise MissingSectionError(
            f'{DOCUMENT.name} has no markers "{begin}" and "{end}"; add them where the tables belong'
        )
    return pattern.sub(lambda _: f"{begin}\n{body}\n{end}", text, count=1)


def write(name: str, section: Section, command: str) -> None:
    """Put a section into docs/benchmarks.md, made by `command`."""
    DOCUMENT.write_text(with_section(DOCUMENT.read_text(), name, stamped(section, command, date.today())))
