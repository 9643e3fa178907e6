"""One run of a client, and what the worker counted meanwhile."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.worker.conftest import WorkerProcess

FIGURES: list[str] = []
"""Lines that are printed at the end of the test run."""


def run_client(command: list[object], folder: Path, **more: str) -> str:
    """Run a client outside of this project's Python; what it printed. Fails with that when the client does."""
    plain = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=plain | {"COLUMNS": "200"} | more,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def counted(worker: WorkerProcess, **labels: str) -> dict[str, float]:
    """The worker's own series by name, those with these labels, added up over the others."""
    found: dict[str, float] = {}
    for family in parse(httpx.get(f"{worker.url}/metrics").text):
        for sample in family.samples:
            if labels.items() <= sample.labels.items():
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found
