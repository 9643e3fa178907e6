"""Programs of Lowbeam as processes, and what the kernel and their metrics say about them.

Invariant: only processes started here are ended here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from lowbeam.kube.transport import WRITE_VERBS

from .figures import bucket_quantile

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_END_SECONDS = 20.0


class Program:
    """One `lowbeam` process with its log file; ends with SIGTERM at the end of the block."""

    def __init__(self, log: Path, environment: Mapping[str, str], *arguments: str) -> None:
        self.log = log
        self._environment, self._arguments = dict(environment), arguments
        self._start()

    def _start(self) -> None:
        with self.log.open("a") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lowbeam", *self._arguments],
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill_and_start_again(self) -> None:
        """The same command anew, as after a crash: nothing is given back first."""
        self._process.kill()
        self._process.wait()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise with the end of the log when the process has ended by itself."""
        if (code := self._process.poll()) is not None:
            tail = "\n".join(self.log.read_text().splitlines()[-15:])
            raise RuntimeError(f"{' '.join(map(str, self._process.args[2:4]))} ended with {code}:\n{tail}")  # type: ignore[index]

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def memory_mib(self) -> tuple[float, float]:
        """Resident memory now and at its highest."""
        found = dict.fromkeys(("VmRSS", "VmHWM"), 0.0)
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) / 1024
        return found["VmRSS"], found["VmHWM"]


@dataclass(frozen=True, slots=True)
class Metrics:
    """One reading of the operator's /metrics."""

    values: dict[str, dict[tuple[tuple[str, str], ...], float]]
    """Sample name -> labels -> value."""

    @classmethod
    def read(cls, port: int) -> Metrics:
        """Ask now. Raises OSError when nobody answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        values: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return cls(values)

    def total(self, name: str) -> float:
        """Sum over all labels."""
        return sum(self.values.get(name, {}).values())

    def writes(self) -> dict[str, float]:
        """Writes to the API server so far, by resource."""
        found: dict[str, float] = {}
        for series, value in self.values.get("lowbeam_api_calls_total", {}).items():
            labels = dict(series)
            if labels["verb"] in WRITE_VERBS:
                found[labels["resource"]] = found.get(labels["resource"], 0.0) + value
        return found

    def duration(
        self, histogram: str, before: Metrics | None = None, quantile: float = 0.99
    ) -> tuple[int, float | None, float | None]:
        """(observations, mean seconds, upper bound of the bucket with the quantile) since `before`."""

        def since(name: str) -> float:
            return self.total(name) - (before.total(name) if before else 0.0)

        count = since(f"{histogram}_count")
        if count <= 0:
            return 0, None, None
        old = before.values.get(f"{histogram}_bucket", {}) if before else {}
        buckets = [
            (float(dict(labels)["le"]), value - old.get(labels, 0.0))
            for labels, value in self.values[f"{histogram}_bucket"].items()
        ]
        return round(count), since(f"{histogram}_sum") / count, bucket_quantile(buckets, quantile)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own URL
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
