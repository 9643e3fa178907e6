"""`lowbeam-worker` against `transformers serve`: CPU seconds of the server's processes per token that it wrote. Prints
one JSON object `{way: CPU seconds per token}`; threads are set by who starts it.

Both serve the same files over HTTP to the same clients, with continuous batching under the same sizes: without any,
`transformers serve` takes most of the host's memory. Its packages are in an environment of their own (`tools/overlay`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import torch

from lowbeam_worker.engines.continuous import PAGE_TOKENS
from lowbeam_worker.random_llama import SMALL, make_random_llama
from tools.overlay import overlay
from tools.ports import free_port

CLIENTS = 32
REQUESTS = 256
CACHE_TOKENS = 8192
STEP_TOKENS = 512
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 180.0
_WORDS = ("system", "energy", "answer", "power", "floor", "model", "question", "watts", "beam", "largest", "default")


def main() -> None:
    """Measure both once."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = make_random_llama(torch.float32, SMALL)
        model.generation_config.eos_token_id = model.config.eos_token_id = None  # answers as long as asked for
        tokenizer.eos_token = None
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        json.dump(
            {
                "worker": _measured(sys.executable, _worker(folder), "/ready", folder),
                "transformers serve": _measured(
                    str(overlay(Path(__file__).parent / "serve-requirements.txt")), _serve(folder), "/health", folder
                ),
            },
            sys.stdout,
        )


def _worker(folder: str) -> list[str]:
    return [
        *("-m", "lowbeam_worker", "--task", "text-generation", "--model", folder, "--model-path", folder),
        *("--batch-limit", str(CLIENTS), "--device", "cpu", "--control-port", str(free_port()), "--port"),
    ]


def _serve(folder: str) -> list[str]:
    return [
        *("-c", "from transformers.cli.transformers import main; main()", "serve", folder, "--continuous-batching"),
        *("--device", "cpu", "--dtype", "float32", "--cb-block-size", str(PAGE_TOKENS)),
        *("--cb-num-blocks", str(CACHE_TOKENS // PAGE_TOKENS), "--cb-max-batch-tokens", str(STEP_TOKENS), "--port"),
    ]


def _measured(python: str, command: Sequence[str], ready: str, model: str) -> float:
    port = free_port()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([python, *command, str(port)], stdout=log, stderr=log)
        try:
            return asyncio.run(_clients(process, f"http://127.0.0.1:{port}", ready, model))
        except Exception:
            log.seek(0)
            print(log.read()[-3000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _clients(process: subprocess.Popen[bytes], url: str, ready: str, model: str) -> float:
    chance = random.Random(11)  # noqa: S311 - prompts, not secrets
    asked = [
        {
            "model": model,
            "prompt": " ".join(chance.choices(_WORDS, k=chance.randint(2, 24))),
            "max_tokens": chance.randint(8, 64),
            "temperature": 0,
        }
        for _ in range(REQUESTS)
    ]
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        deadline = time.monotonic() + _START_SECONDS
        while not await _answers(http, ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{url}{ready} does not answer")
            await asyncio.sleep(0.2)

        async def ask(body: dict[str, Any]) -> int:
            answer = (await http.post("/v1/completions", json=body)).raise_for_status()
            written = int(answer.json()["usage"]["completion_tokens"])
            if written != body["max_tokens"]:
                raise RuntimeError(f"{written} tokens came for {body['max_tokens']}: {answer.text}")
            return written

        await asyncio.gather(*(ask(body) for body in asked[:CLIENTS]))
        before_s = _cpu_seconds(process.pid)
        tokens = sum(await asyncio.gather(*(ask(body) for body in asked)))
        return (_cpu_seconds(process.pid) - before_s) / tokens


async def _answers(http: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await http.get(path)).status_code == 200
    except httpx.TransportError:
        return False


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, its threads and its descendants."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    children = " ".join(task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return own + sum(_cpu_seconds(int(child)) for child in children)


if __name__ == "__main__":
    main()
