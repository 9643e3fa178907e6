"""Processes of a cluster: started in their own session, found again later, and never mistaken for others.

Invariant: a signal is only ever sent to a process whose pid *and* start time are those recorded, or whose environment
carries this cluster's mark. Pids wrap within minutes on a busy machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import PartDiedError

MARK = "LOWBEAM_LOCALCLUSTER"
"""Environment variable that every process of a cluster inherits; its value is the cluster's folder."""
TERM_GRACE_S = 10.0
_POLL_S = 0.02
_TAIL_LINES = 25


@dataclass(frozen=True, slots=True)
class Command:
    """How to start one part, now or again later."""

    part: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Running:
    """A started process: `started` is field 22 of /proc/PID/stat, in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Running | None:
        """Return the process that has this pid now; None when there is none or it is a zombie."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # fields[0] is the state (field 3 of the file), so field 22 is fields[19].
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Return whether this very process still runs."""
        return Running.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def reap(self) -> None:
        """Collect the exit status when the process was our own child, so that it does not stay a zombie."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def spawn(command: Command, home: Path) -> Running:
    """Start a part in a session of its own, so that it outlives whoever started it."""
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("ab") as log:
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), **command.env, MARK: str(home)},
            start_new_session=True,
        )
    running = Running.of(process.pid)
    # Popen would warn about a child it does not see end; from here on the pid and the start time stand for it.
    process.returncode = 0
    return running or Running(process.pid, -1)


def stop(processes: Sequence[Running], *, grace_s: float = TERM_GRACE_S) -> None:
    """End processes together: SIGTERM, and SIGKILL for those that still run after `grace_s` seconds."""
    for process in processes:
        process.send(signal.SIGTERM)
    for step in (grace_s, TERM_GRACE_S):
        deadline = time.monotonic() + step
        while time.monotonic() < deadline:
            for process in processes:
                process.reap()
            if not any(process.alive() for process in processes):
                return
            time.sleep(_POLL_S)
        for process in processes:
            process.send(signal.SIGKILL)


def marked(home: Path) -> Iterator[Running]:
    """Find every process that carries a cluster's mark, also those that no record knows (after a crash)."""
    wanted = f"{MARK}={home}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0") and (found := Running.of(int(entry.name))):
                yield found


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    """Return the end of a log file."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def wait_until(
    what: str,
    ready: Callable[[], object],
    *,
    timeout_s: float,
    watch: Mapping[str, tuple[Running, Path]] | None = None,
    poll_s: float = 0.1,
) -> None:
    """Poll until `ready()` is true.

    A part of `watch` that ends in the meantime, and the timeout, are errors that carry the logs.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        for part, (process, log) in (watch or {}).items():
            if not process.alive():
                process.reap()
                raise PartDiedError(f"{part} ended while waiting for {what}; end of {log}:\n{tail(log)}")
        if time.monotonic() > deadline:
            logs = "".join(f"\nend of {log}:\n{tail(log)}" for _, log in (watch or {}).values())
            raise PartDiedError(f"timed out after {timeout_s:.0f} s waiting for {what}{logs}")
        time.sleep(poll_s)
