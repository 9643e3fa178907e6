"""The terminal while `lowbeam top` runs: keys one by one, a second screen, and only what changed is sent.

Decides nothing about the picture. `rich` turns styled lines into what this terminal understands; what it would send
again each time (rich.live: the whole screen) is left out here, which is what makes slow connections bearable.

Invariant: whichever way the block is left (key, signal, exception, stop with Ctrl-Z), the terminal is as it was before.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.text import Text

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The second screen, no cursor, no line wrap: where a terminal counts a letter wider than we do, nothing moves down."""
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
QUIT_KEYS, REDRAW_KEY = b"qQ", b"\x0c"


def rendered(console: Console, line: Text) -> str:
    """The line as this terminal (or file) takes it: with colours or without."""
    with console.capture() as captured:
        console.print(line, end="", soft_wrap=True)
    return captured.get()


class Screen:
    """A context manager. `wake` is set when there is something to do before the next refresh."""

    def __init__(self, console: Console) -> None:
        self.wake = asyncio.Event()
        self.exit_code: int | None = None
        """Set when the user or a signal asks to leave."""
        self._console = console
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._before = None if self._keys is None else termios.tcgetattr(self._keys)
        self._shown: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        """How to leave."""
        return "Ctrl-C: quit" if self._keys is None else "q: quit"

    @property
    def size(self) -> tuple[int, int]:
        """(columns, lines) now; COLUMNS of the environment is from before the window was resized."""
        size = os.get_terminal_size(sys.stdout.fileno())
        return size.columns or 80, size.lines or 24  # some terminals do not know their size

    def __enter__(self) -> Screen:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._leave_with, 128 + number)
        loop.add_signal_handler(signal.SIGWINCH, self._redraw)
        loop.add_signal_handler(signal.SIGTSTP, self._stop)
        if self._keys is not None:
            loop.add_reader(self._keys, self._read)
        try:
            self._on()
        except BaseException:
            self._off()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._off()
        loop = asyncio.get_running_loop()
        if self._keys is not None:
            loop.remove_reader(self._keys)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH, signal.SIGTSTP):
            loop.remove_signal_handler(number)

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines; those that are on the screen already are not sent."""
        fresh = tuple(rendered(self._console, line) for line in lines)
        sent = [
            f"\x1b[{row};1H{line}\x1b[K"
            for row, line in enumerate(fresh, start=1)
            if row > len(self._shown) or self._shown[row - 1] != line
        ]
        if len(fresh) < len(self._shown):
            sent.append(f"\x1b[{len(fresh) + 1};1H\x1b[J")
        self._shown = fresh
        self._send("".join(sent))

    def _send(self, text: str) -> None:
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()

    def _on(self) -> None:
        if self._keys is not None:
            tty.setcbreak(self._keys, termios.TCSANOW)  # Ctrl-C and Ctrl-Z stay signals
        self._shown = ()
        self._send(f"{ENTER}\x1b[2J")
        self.wake.set()

    def _off(self) -> None:
        try:
            self._send(LEAVE)
        finally:
            if self._keys is not None and self._before is not None:
                termios.tcsetattr(self._keys, termios.TCSANOW, self._before)

    def _stop(self) -> None:
        """Ctrl-Z: give the terminal back, stop, and go on where the shell lets us."""
        self._off()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._on()

    def _redraw(self) -> None:
        self._shown = ()
        self._send("\x1b[2J")
        self.wake.set()

    def _leave_with(self, code: int) -> None:
        self.exit_code = code
        self.wake.set()

    def _read(self) -> None:
        typed = os.read(self._keys or 0, 64)
        if not typed or any(key in typed for key in QUIT_KEYS):
            self._leave_with(0)
        elif REDRAW_KEY in typed:
            self._redraw()
