"""A command on a real pseudo-terminal: what a user sees, and whether the terminal is afterwards as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping
from types import TracebackType

_OWN_TERMINAL = (
    "import fcntl,os,signal,sys,termios; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Ctrl-C and Ctrl-Z reach a process only through a terminal that is its own. And where tests run in the background of a
shell without job control, SIGINT is ignored by whatever they start."""
_LAST_BYTES_SECONDS = 10.0
_PIECE = re.compile(rb"\x1b\[(?P<row>\d+);1H|\x1b\[(?P<erase>2?J)|\x1b\[[?0-9;]*[A-Za-z]|\r|(?P<text>[^\x1b\r]+)")


class Terminal:
    """`lowbeam ARGS` on a terminal of this size; a context manager that leaves no process behind."""

    def __init__(self, *args: str, columns: int = 100, rows: int = 30, **environment: str) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self._slave)
        self.sent = b""
        """Everything that the command wrote."""
        unset = {"NO_COLOR", "COLUMNS", "LINES", "LC_ALL"}
        inherited: Mapping[str, str] = {name: value for name, value in os.environ.items() if name not in unset}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN_TERMINAL, sys.executable, "-m", "lowbeam", *args],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            env={**inherited, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def resize(self, columns: int, rows: int) -> None:
        """Another window size; the kernel tells the process."""
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def screen(self) -> str:
        """What stands on the second screen now: only what `top` uses is understood."""
        shown, row = dict[int, str](), 1
        since = self.sent.rpartition(b"\x1b[?1049h")[2]
        for piece in _PIECE.finditer(b"" if b"\x1b[?1049l" in since else since):
            if piece["row"]:
                row = int(piece["row"])
                shown[row] = ""
            elif piece["erase"] == b"2J":
                shown = {}
            elif piece["erase"]:
                shown = {place: text for place, text in shown.items() if place < row}
            elif piece["text"]:
                shown[row] = shown.get(row, "") + piece["text"].decode(errors="replace")
        return "\n".join(shown.get(place, "") for place in range(1, max(shown, default=0) + 1))

    def wait_for(self, text: str, seconds: float = 30) -> str:
        """The screen as soon as it has this text."""
        end = time.monotonic() + seconds
        while text not in (shown := self.screen()):
            assert time.monotonic() < end, f"no {text!r} within {seconds} s on\n{shown}\n{self.sent[-500:]!r}"
            time.sleep(0.05)
        return shown

    def ended(self, seconds: float = 15) -> int:
        """The exit code; the terminal has to be as it was before the command."""
        code = self.process.wait(seconds)
        self.assert_restored()
        return code

    def assert_restored(self) -> None:
        """Input modes as before, cursor and line wrap on, and the first screen."""
        assert termios.tcgetattr(self._slave) == self.before
        end = time.monotonic() + _LAST_BYTES_SECONDS
        while left := self._modes_left():
            assert time.monotonic() < end, f"modes were left: {left}"
            time.sleep(0.05)

    def _modes_left(self) -> dict[bytes, bytes]:
        """Modes that are not as before, so far as was read: the last bytes come after the end of the process."""
        found = {}
        for mode, last in ((b"1049", b"l"), (b"25", b"h"), (b"7", b"h")):
            used = re.findall(rb"\x1b\[\?" + mode + rb"([hl])", self.sent)
            if used and used[-1] != last:
                found[mode] = used[-1]
        return found

    def wait_stopped(self, seconds: float = 10) -> None:
        """Until the process is stopped, as a shell sees it."""
        end = time.monotonic() + seconds
        while True:
            found, status = os.waitpid(self.process.pid, os.WUNTRACED | os.WNOHANG)
            if found and os.WIFSTOPPED(status):
                return
            assert time.monotonic() < end, "not stopped"
            time.sleep(0.05)

    def go_on(self) -> None:
        """What `fg` does."""
        os.kill(self.process.pid, signal.SIGCONT)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return
            self.sent += data
