"""A change of precision leaves nothing of the one before: no key-value pages in answers, no weights in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lowbeam_worker.options import Precision, Task
from tests.worker.conftest import LLAMA, MINILM, LocalWorker, local_worker, options

pytestmark = pytest.mark.asyncio(loop_scope="session")
PROMPT = "Power is scarce and quality has a floor. " * 12
"""Several pages of the key-value cache."""


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024


async def change(local: LocalWorker, generation: int, precision: str) -> None:
    answer = await local.control.patch("/control/profile", json={"generation": generation, "precision": precision})
    assert answer.status_code == 200, answer.text


async def answer(local: LocalWorker, tokens: int) -> tuple[str, list[float]]:
    """Greedy, with the logprobs of its tokens."""
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "logprobs": 0}
    choice = (await local.serving.post("/v1/completions", json=body)).json()["choices"][0]
    return choice["text"], choice["logprobs"]["token_logprobs"]


async def test_a_prompt_that_was_read_at_int8_is_read_anew_at_fp32() -> None:
    async for local in local_worker(options(Task.TEXT_GENERATION, "tiny", LLAMA)):
        _, expected = await answer(local, 8)
        await change(local, 1, "int8")
        assert (await answer(local, 8))[1] != pytest.approx(expected, abs=1e-4), "int8 weights say something else"
        await change(local, 2, "fp32")
        assert (await answer(local, 8))[1] == pytest.approx(expected, abs=1e-4)


async def test_pages_of_a_request_that_lived_through_the_change_serve_no_other() -> None:
    given = options(Task.TEXT_GENERATION, "tiny", LLAMA, max_output_tokens=600)
    async for local in local_worker(given):
        await change(local, 1, "int8")
        expected = await answer(local, 4)
        await change(local, 2, "fp32")
        through = asyncio.create_task(answer(local, 500))
        while not local.worker.telemetry().requests_running and not through.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert not through.done()
        await change(local, 3, "int8")
        await through
        # Only now: what else is in a step has a part in the scale of its int8 activations.
        text, logprobs = await answer(local, 4)
        assert text == expected[0]
        assert logprobs == pytest.approx(expected[1], abs=1e-4)


async def test_memory_stays_where_it_is_however_often_the_precision_changes() -> None:
    given = options(Task.FEATURE_EXTRACTION, "minilm", MINILM, precision=Precision.FP32)
    async for local in local_worker(given):
        seen = []
        for generation in range(1, 19):
            await change(local, generation, ("int8", "bf16", "fp32")[generation % 3])
            body = {"model": "minilm", "input": ["How many joules is this? " * (1 + generation % 5)] * 8}
            assert (await local.serving.post("/v1/embeddings", json=body)).status_code == 200
            seen.append(resident_mib())
        grown = max(seen[-6:]) - max(seen[6:12])
        assert grown < 40, f"less than half of the weights, not {grown:.0f} MiB; resident after each change: {seen}"
