"""The agent's memory of its own power limits, in one small file on the node.

Written before a board is changed, so that a limit that outlives the agent can be told from one that somebody else set.
Decides nothing else. A file that cannot be read is set aside and said, never guessed at.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lowbeam.api.wire import LimitChange

log = logging.getLogger(__name__)

FILE = "power-limits.json"


class Hold(BaseModel):
    """One board whose limit the agent changed. Integer milliwatts."""

    model_config = ConfigDict(frozen=True)

    found_milliwatts: int
    """The limit before the first change: what the board gets back."""
    set_milliwatts: int
    earlier_milliwatts: int | None = None
    """The agent's limit before this one: what the board still has after a death between record and change."""
    safe_milliwatts: int | None = None
    lease_seconds: float
    lapsed: bool = False
    """The lease ended and the safe limit is in force."""

    def may_have_set(self, milliwatts: int) -> bool:
        """Whether the agent can have left the board with this limit; the safe one perhaps when the disk was full."""
        return milliwatts in (self.set_milliwatts, self.earlier_milliwatts, self.safe_milliwatts)


class Record(BaseModel):
    """Everything that must survive the agent."""

    model_config = ConfigDict(frozen=True)

    last: LimitChange | None = None
    """The newest change that was accepted: its generation is the one in force."""
    holds: dict[str, Hold] = Field(default_factory=dict)
    """By UUID."""


class TakenError(Exception):
    """Another agent that is alive keeps its record in this folder; the message names it."""


class RecordFile:
    """The record on the disk of the node."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock: IO[bytes] | None = None

    def claim(self) -> None:
        """Keep every other agent away from the record until this process ends. Raises TakenError.

        A folder that cannot be written is said and nothing else: no change is made there.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._path.with_suffix(".lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TakenError(f"another agent keeps its power limits in {self._path.parent}: end one of them") from error
        except OSError:
            log.exception("%s cannot be written: no power limit can be changed", self._path.parent)

    def load(self) -> Record:
        """What the last agent left; an empty record where it left none."""
        try:
            return Record.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Record()
        except (OSError, ValidationError):
            aside = self._path.with_suffix(".unreadable")
            with contextlib.suppress(OSError):
                self._path.replace(aside)
            log.exception(
                "%s cannot be read and is kept as %s: what it explained is unexplained", self._path, aside.name
            )
            return Record()

    def save(self, record: Record) -> None:
        """Replace the file; it is on the disk when this returns. Raises OSError."""
        part = self._path.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(record.model_dump_json().encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
