"""A board that several processes see: its counter lives outside all of them, as a real one's does behind its driver."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

IDLE_WATTS = 25.0
MOST_WATTS = 72.0
REFRESH_SECONDS = 0.1
"""How often the counter moves; NVML's does about as often."""


class Board(threading.Thread):
    """Draws watts by the CPU time of the process it is given, and writes watts and joules where the NVML stub reads."""

    def __init__(self, file: Path) -> None:
        super().__init__(name="board", daemon=True)
        self.file = file
        self.joules = 0.0
        self._pid: int | None = None
        self._ending = threading.Event()
        self._write(IDLE_WATTS)

    def follow(self, pid: int) -> None:
        """From now on this process is what the board works for."""
        self._pid = pid

    def end(self) -> None:
        """Stop drawing."""
        self._ending.set()
        self.join()

    def run(self) -> None:
        before_s, cpu_before_s = time.monotonic(), 0.0
        while not self._ending.wait(REFRESH_SECONDS):
            now_s, cpu_s = time.monotonic(), self._cpu_seconds()
            busy = min(1.0, max(0.0, cpu_s - cpu_before_s) / (now_s - before_s))
            watts = IDLE_WATTS + (MOST_WATTS - IDLE_WATTS) * busy
            self.joules += watts * (now_s - before_s)
            before_s, cpu_before_s = now_s, cpu_s
            self._write(watts)

    def _cpu_seconds(self) -> float:
        try:
            stat = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii") if self._pid else ""
        except OSError:
            return 0.0  # it has ended
        ticks = stat.rpartition(")")[2].split()[11:13]  # user and system time
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def _write(self, watts: float) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(f"{watts:.3f} {self.joules:.3f}\n", encoding="ascii")
        part.replace(self.file)
