"""The memory that a worker says it needs at most is more than it takes, and not far from it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from lowbeam_worker.random_llama import Shape, make_random_llama
from tests.worker.conftest import LLAMA, MINILM, WorkerProcess

ENCODER = ("--task", "feature-extraction", "--model", "m", "--model-path", MINILM, "--batch-limit", "32")
DECODER = ("--task", "text-generation", "--model", "m", "--model-path", LLAMA, "--batch-limit", "32")


def highest_resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


@pytest.mark.parametrize(
    ("flags", "path", "body"),
    [
        ((*ENCODER, "--precision", "fp32"), "/v1/embeddings", {"input": ["watt " * 240, "joule", "cap " * 60]}),
        ((*ENCODER, "--precision", "int8"), "/v1/embeddings", {"input": ["watt " * 240, "joule", "cap " * 60]}),
        (DECODER, "/v1/completions", {"prompt": "Power is scarce. " * 60, "max_tokens": 200}),
    ],
    ids=["encoder-fp32", "encoder-int8", "decoder"],
)
def test_the_peak_that_a_worker_states_is_above_the_real_one_and_near_it(
    worker_process: type[WorkerProcess], flags: tuple[str, ...], path: str, body: dict[str, Any]
) -> None:
    check_peak(worker_process(*flags), path, body)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_texts_of_every_length_take_no_more_than_the_stated_peak(
    worker_process: type[WorkerProcess], precision: str
) -> None:
    """A kernel for each length would take 500 MiB at bf16."""
    worker = worker_process(*ENCODER, "--precision", precision)
    worker.wait_until_ready()
    for length in range(1, 250):
        body = {"model": "m", "input": "watt " * length}
        httpx.post(f"{worker.url}/v1/embeddings", json=body, timeout=120).raise_for_status()
    stated = httpx.get(f"{worker.url}/info").json()["memory_bytes"]["peak"]
    assert highest_resident_bytes(worker.process.pid) < stated
    worker.terminate()
    assert worker.end()[0] == 0


def test_weights_of_a_file_are_not_kept_twice(worker_process: type[WorkerProcess], tmp_path: Path) -> None:
    model, tokenizer = make_random_llama(torch.float32, Shape(hidden=1024, layers=10, heads=8))
    assert sum(it.nbytes for it in model.parameters()) > 300 << 20, "more than what the bound leaves for kernels"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    del model
    flags = ("--task", "text-generation", "--model", "m", "--model-path", str(tmp_path), "--batch-limit", "4")
    check_peak(worker_process(*flags), "/v1/completions", {"prompt": "Power is scarce. ", "max_tokens": 4})


def check_peak(worker: WorkerProcess, path: str, body: dict[str, Any]) -> None:
    worker.wait_until_ready()

    def ask(_: int) -> int:
        return httpx.post(f"{worker.url}{path}", json={"model": "m", **body}, timeout=120).status_code

    with ThreadPoolExecutor(32) as clients:
        assert set(clients.map(ask, range(32))) == {200}
    stated = httpx.get(f"{worker.url}/info").json()["memory_bytes"]
    highest = highest_resident_bytes(worker.process.pid)
    assert stated["peak"] == stated["runtime"] + max(
        stated["loading"], stated["weights"] + stated["cache"] + stated["activations"]
    )
    assert stated["runtime"] < highest < stated["peak"]
    assert stated["peak"] < 1.5 * highest
    worker.terminate()
    assert worker.end()[0] == 0
