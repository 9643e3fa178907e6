"""A worker as a pod runs it on a board that its clients see too, and the programs of the clients.

What is slow to get (an environment of a gigabyte, a Go program) is made before the first test starts. Figures that a
test adds to `FIGURES` are printed at the end of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lowbeam_worker.random_llama import make_random_llama
from tests.clients.board import Board
from tests.clients.runs import FIGURES
from tests.worker.conftest import LLAMA, MINILM, WorkerProcess, nvml_stub, worker_process
from tools import clients
from tools.localcluster import build

__all__ = ["nvml_stub", "worker_process"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install the programs of the selected tests: no test's time limit covers that."""
    if session.config.option.collectonly:
        return
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        for name in sorted(wanted & set(clients.CLIENTS)):
            clients.install(name)
        if "k6" in wanted:
            build.ensure_all(["k6"])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured."""
    if FIGURES:
        terminalreporter.section("third-party clients")
        for line in FIGURES:
            terminalreporter.line(line)


@pytest.fixture
def aiperf() -> Path:
    """NVIDIA's AIPerf."""
    return clients.program("aiperf")


@pytest.fixture
def guidellm() -> Path:
    """GuideLLM."""
    return clients.program("guidellm")


@pytest.fixture
def k6() -> Path:
    """Grafana's k6."""
    return build.binary("k6")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's own tokenizer as a folder: load generators count with it, offline."""
    folder = tmp_path_factory.mktemp("tokenizer")
    model, tokenizer = make_random_llama(torch.float32)
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    return folder


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """A board that draws while a worker works."""
    one = Board(tmp_path / "board")
    one.start()
    yield one
    one.end()


@pytest.fixture
def on_the_board(board: Board, nvml_stub: Path) -> dict[str, str]:
    """The environment of a process that sees the board."""
    return {"LD_LIBRARY_PATH": str(nvml_stub), "NVML_STUB_WATTS_FILE": str(board.file)}


@pytest.fixture
def decoder(worker_process: type[WorkerProcess], board: Board, on_the_board: dict[str, str]) -> WorkerProcess:
    """A decoder that is ready, metered by the board."""
    flags = ("--task", "text-generation", "--model", "tiny", "--model-path", LLAMA, "--max-output-tokens", "900")
    worker = worker_process(*flags, **on_the_board)
    board.follow(worker.process.pid)
    worker.wait_until_ready(240)
    return worker


@pytest.fixture
def encoder(worker_process: type[WorkerProcess], board: Board, on_the_board: dict[str, str]) -> WorkerProcess:
    """The real MiniLM, ready, metered by the board."""
    worker = worker_process("--task", "feature-extraction", "--model", "minilm", "--model-path", MINILM, **on_the_board)
    board.follow(worker.process.pid)
    worker.wait_until_ready(240)
    return worker
