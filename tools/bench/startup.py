"""How long things take to start, and how large the operator's image is."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.localcluster import SAMPLE_KWOK_NODES, Cluster, ClusterSpec, LocalClusterError
from tools.localcluster.appimage import build_project_image

from .figures import MISSING, Section, Table, number
from .playground import SAMPLES
from .reference import kernel_cpu_seconds

_ROOT = Path(__file__).parents[2]
_DOCKERFILE = _ROOT / "workloads" / "images" / "Dockerfile.operator"
_ROUNDS = 3


def measure(say: Callable[[str], None]) -> Section:
    """All starting times; what cannot be measured here is a dash with a remark."""
    kernel = kernel_cpu_seconds()
    remarks = []
    rows = []
    say("commands")
    plan = ("plan", "-f", str(SAMPLES), "--inventory", "h100=24,a100=32,l4=32,cpu=8")
    for title, arguments in (("lowbeam --version", ("--version",)), ("lowbeam plan, the samples", plan)):
        with tempfile.TemporaryDirectory() as byte_code:
            wall, cpu, problem = _command((sys.executable, "-m", "lowbeam", *arguments), byte_code)
        rows.append([title, number(wall, 2), number(cpu, 2), number(cpu / kernel if cpu else None)])
        remarks += [f"`{title}`: {problem}"] if problem else []
    say("a cluster")
    wall_up, wall_down = _cluster()
    rows.append(["control plane and 12 KWOK nodes up", number(wall_up), MISSING, MISSING])
    rows.append(["the same down", number(wall_down), MISSING, MISSING])
    say("the tools")
    build = subprocess.run(
        (sys.executable, "-m", "tools.localcluster", "build"), cwd=_ROOT, capture_output=True, text=True, check=False
    )
    printed = (build.stdout + build.stderr).strip().splitlines()
    remarks += [f"`python -m tools.localcluster build`: {line}" for line in printed] or [
        "`python -m tools.localcluster build` printed nothing: every tool was in the cache; a cold build is not part "
        "of this benchmark"
    ]
    say("the operator's image")
    try:
        started = time.monotonic()
        archive = build_project_image(
            _ROOT, _DOCKERFILE, f"localhost/lowbeam-operator-bench-{os.getpid()}:1", "operator"
        )
    except LocalClusterError as error:
        remarks.append(f"operator image not built: {error}")
    else:
        size = archive.stat().st_size / 2**20
        archive.unlink()
        remarks.append(
            f"operator image: {size:.0f} MiB compressed (Debian with Python, the `operator` extra and Lowbeam; no "
            f"torch), built in {time.monotonic() - started:.0f} s from cached dependencies"
        )
    return Section(
        title="Start",
        about=(
            f"Wall and CPU seconds, the least of {_ROUNDS} for commands. "
            f"One kernel (`tools/bench/reference.py`) took {kernel * 1000:.0f} ms of CPU in this run."
        ),
        tables=[Table(("", "wall s", "CPU s", "kernels"), rows)],
        remarks=remarks,
    )


def _command(argv: Sequence[str], byte_code: str) -> tuple[float | None, float | None, str]:
    """Least wall and CPU seconds, and what went wrong; the first round compiles, as an installation does once."""
    walls, cpus = [], []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = byte_code
    for _ in range(_ROUNDS):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(argv, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
        walls.append(time.monotonic() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return None, None, f"ended with {done.returncode}: {last}"
    return min(walls), min(cpus), ""


def _cluster() -> tuple[float, float]:
    """Seconds of `up` (tools built already) and of `down`."""
    started = time.monotonic()
    cluster = Cluster.up(ClusterSpec(name=f"bench-start-{os.getpid()}", kwok_nodes=SAMPLE_KWOK_NODES))
    up = time.monotonic()
    cluster.down()
    return up - started, time.monotonic() - up
