"""Draws what a cap did: usable, committed and measured watts over the cut and the restore, and when who was dimmed.

Decides nothing; it samples the PowerCap's status, as anybody could with kubectl.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


@dataclass(slots=True)
class Recorder:
    """Samples one cap and the workloads twice a second, in a thread, until `stop`."""

    cap: Callable[[], dict[str, Any]]
    workloads: Callable[[], list[dict[str, Any]]]
    samples: list[tuple[float, int, int, int]] = field(default_factory=list)
    """(seconds, usable, committed, measured)."""
    dimmed: list[tuple[float, str]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; the samples stay."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        began, known = time.monotonic(), set[str]()
        while not self._ended.wait(0.5):
            status = self.cap()["status"]
            now = time.monotonic() - began
            self.samples.append((now, status["usableWatts"], status["committedWatts"], status["measuredWatts"]))
            names = {w["metadata"]["name"] for w in self.workloads() if w["status"].get("dimming")}
            self.dimmed += [(now, name) for name in sorted(names - known)]
            known = names

    def draw(self, path: Path) -> None:
        """Write the picture."""
        seconds = [s[0] for s in self.samples]
        figure, axes = plt.subplots(figsize=(9, 4.2), dpi=120)
        axes.step(seconds, [s[1] / 1000 for s in self.samples], "k-", where="post", label="usable under the cap")
        axes.step(seconds, [s[2] / 1000 for s in self.samples], color="#d08700", where="post", label="committed")
        axes.step(seconds, [s[3] / 1000 for s in self.samples], color="#2f6fab", where="post", label="measured")
        for row, (at, name) in enumerate(self.dimmed):
            axes.axvline(at, color="#b23b3b", linewidth=0.6, alpha=0.6)
            axes.text(at + 0.3, 0.4 + 0.6 * row, f"{name} dimmed", color="#b23b3b", fontsize=8)
        axes.set_ylim(0, max(s[1] for s in self.samples) / 1000 * 1.08)
        axes.set_xlabel("seconds")
        axes.set_ylabel("kW")
        axes.set_title("make demo: the cluster cap is cut to 70 %, then given back (workers emulated)", fontsize=10)
        axes.legend(loc="lower right", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)
