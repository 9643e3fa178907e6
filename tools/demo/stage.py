"""What the viewer sees: chapters, commands with their real output, claims that are checked.

Never invents output: a command is run and printed as it is. 80 columns; colours only on a terminal.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH = 80


@dataclass(slots=True)
class Stage:
    """Prints the story and remembers which claims held."""

    environment: Mapping[str, str]
    figures: list[tuple[str, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    colour: bool = field(default_factory=sys.stdout.isatty)
    _chapter: int = 0

    def chapter(self, title: str, sentence: str) -> None:
        """Start a chapter with one line of what it shows."""
        self._chapter += 1
        print()
        print(self._paint("1;36", f"── {self._chapter}. {title} ".ljust(WIDTH, "─")))
        self.say(sentence)

    def say(self, text: str) -> None:
        """A sentence, wrapped."""
        print(textwrap.fill(text, WIDTH))

    def show(self, text: str) -> None:
        """Text of our own, cut to the width."""
        for line in text.rstrip("\n").splitlines():
            print(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…")

    def command(self, *argv: str, shown: str = "", may_fail: bool = False) -> str:
        """Run what a user would type and show its output."""
        print(self._paint("1", f"$ {shown or ' '.join(argv)}"))
        done = subprocess.run(argv, env=dict(self.environment), capture_output=True, text=True, check=False)
        print((done.stdout + done.stderr).rstrip("\n"))  # as it is: kubectl may be wider than we would like
        if done.returncode and not may_fail:
            self.broken.append(f"`{shown or ' '.join(argv)}` ended with {done.returncode}")
        return done.stdout

    def claim(self, sentence: str, holds: bool, figure: str) -> None:
        """One checked claim; a broken one makes the demo fail at its end."""
        mark = self._paint("32", "ok") if holds else self._paint("1;31", "NO")
        print(f"  [{mark}] {sentence}: {figure}")
        if not holds:
            self.broken.append(f"{sentence}: {figure}")

    def figure(self, name: str, value: str) -> None:
        """Remember a figure for the box at the end."""
        self.figures.append((name, value))

    def box(self) -> None:
        """The figures of the whole story."""
        print()
        print("┌" + "─" * (WIDTH - 2) + "┐")
        for name, value in self.figures:
            print(f"│ {name:<50.50} {value:>{WIDTH - 55}.{WIDTH - 55}} │")
        print("└" + "─" * (WIDTH - 2) + "┘")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


def wait_until(condition: Callable[[], bool], seconds: float, step: float = 0.25) -> float | None:
    """Seconds until the condition held, or None after the time."""
    started = time.monotonic()
    while (passed := time.monotonic() - started) < seconds:
        if condition():
            return passed
        time.sleep(step)
    return None


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Columns as wide as their content, two spaces apart."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
