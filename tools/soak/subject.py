"""A worker under test: its process, its two ports, its memory, and the watts that its meter is made to see.

Invariant: only the process started here is ended here; it is gone when the block ends.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from lowbeam.api.wire import WorkerTelemetry
from tools.ports import free_port

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 180.0
_END_SECONDS = 90.0
_LEAST_WATTS, _MOST_WATTS = 30.0, 70.0


class Board:
    """The one board of the stand-in: watts that change, and the joules that they come to."""

    def __init__(self, file: Path, seed: int) -> None:
        self._file = file
        self._random = random.Random(seed)  # noqa: S311 - a load, not a secret
        self._since_s = time.monotonic()
        self._joules = 0.0
        self.watts = 50.0
        self._write()

    def turn(self) -> None:
        """Other watts from now on."""
        self.joules()
        self.watts = round(self._random.uniform(_LEAST_WATTS, _MOST_WATTS), 1)
        self._write()

    def joules(self) -> float:
        """What a counter that began with this board has counted by now."""
        now = time.monotonic()
        self._joules += self.watts * (now - self._since_s)
        self._since_s = now
        return self._joules

    def _write(self) -> None:
        scratch = self._file.with_suffix(".new")
        scratch.write_text(f"{self.watts}\n")
        scratch.replace(self._file)  # never half a number


class Subject:
    """`lowbeam-worker` as a pod runs it, with a board of its own."""

    def __init__(self, name: str, folder: Path, stub: Path, seed: int, *flags: str) -> None:
        self.name = name
        self.board = Board(folder / f"{name}.watts", seed)
        self.log = folder / f"{name}.log"
        port, control_port = free_port(), free_port()
        self.url, self.control_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{control_port}"
        self.port = port
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment |= {"LD_LIBRARY_PATH": str(stub), "NVML_STUB_WATTS_FILE": str(folder / f"{name}.watts")}
        environment |= {"NVML_STUB_REFRESH_MS": "100"}
        command = [sys.executable, "-m", "lowbeam_worker", "--model", name, "--device", "cpu", *flags]
        command += ["--port", str(port), "--control-port", str(control_port)]
        with self.log.open("w") as output:
            self._process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=output, stderr=output)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wait_until_ready(self) -> None:
        """Raise with the log's end when it does not get ready."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.1)
        raise RuntimeError(f"the {self.name} did not become ready:\n{self.log.read_text()[-3000:]}")

    def is_alive(self) -> bool:
        """False when the process has ended by itself."""
        return self._process.poll() is None

    def terminate(self) -> int | None:
        """Send SIGTERM; the exit code, or None when it does not end."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def resident_mib(self) -> float:
        """Memory that the process holds now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        """Files and sockets that the process holds open."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def threads(self) -> int:
        """Threads of the process."""
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    def telemetry(self) -> WorkerTelemetry:
        """As the operator reads it."""
        return WorkerTelemetry.model_validate_json(httpx.get(f"{self.control_url}/telemetry").content)
