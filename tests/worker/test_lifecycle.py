"""A worker that starts: alive at once, ready only after its warm-up, and a reader of its model's folder only.

How it ends is in test_worker_process.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import BertForSequenceClassification

from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.engines.decoder import DecoderEngine
from lowbeam_worker.front.app import serving_app
from lowbeam_worker.front.encoding import RowRunner
from lowbeam_worker.metrics import Metrics
from lowbeam_worker.models import CannotLoadError
from lowbeam_worker.options import Task, WorkerOptions
from lowbeam_worker.serving import bring_up
from lowbeam_worker.worker import Worker
from tests.worker.conftest import LLAMA, local_worker, options
from tests.worker.tiny import MAX_TOKENS, save_bert

pytestmark = pytest.mark.asyncio(loop_scope="session")


def judge(folder: Path) -> WorkerOptions:
    save_bert(BertForSequenceClassification, folder, id2label={0: "bad", 1: "good"})
    return options(Task.TEXT_CLASSIFICATION, "judge", str(folder))


async def test_a_loading_worker_is_alive_and_not_ready(tmp_path: Path) -> None:
    worker = Worker(judge(tmp_path), Ledger(), Metrics())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(serving_app(worker)), base_url="http://worker") as http:
        assert (await http.get("/health")).status_code == 200
        ready, info = await http.get("/ready"), await http.get("/info")
        assert (ready.status_code, ready.text) == (503, "the worker is loading\n")
        assert info.status_code == 503
        refused = await http.post("/predict", json={"inputs": "x"})
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert "is loading" in refused.json()["error"]["message"]


async def test_an_encoder_is_ready_only_after_every_shape_went_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[int]]] = []
    original = RowRunner.run

    async def spy(self: RowRunner, rows: Any, account: Any, param: str = "inputs") -> Any:
        seen.append((self.worker.state, [len(row) for row in rows]))
        return await original(self, rows, account, param)

    monkeypatch.setattr(RowRunner, "run", spy)
    async for local in local_worker(judge(tmp_path)):
        assert seen == [("loading", [1]), ("loading", [MAX_TOKENS]), ("loading", [1] * 8)]
        assert local.worker.takes_requests
        assert (await local.serving.get("/ready")).status_code == 200


async def test_a_decoder_is_ready_only_after_long_prompts_draws_and_a_full_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, float, int | None]] = []
    original = DecoderEngine.submit

    def spy(self: DecoderEngine, ids: Any, tokens: int, wish: Any, account: Any) -> Any:
        seen.append((len(ids), wish.temperature, wish.top_logprobs))
        return original(self, ids, tokens, wish, account)

    monkeypatch.setattr(DecoderEngine, "submit", spy)
    async for local in local_worker(options(Task.TEXT_GENERATION, "tiny", LLAMA)):
        assert local.worker.engine is not None
        step_tokens = local.worker.engine.limits.step_tokens
    assert seen[0][1:] == (0.0, None)
    assert seen[1][1:] == (1.0, 1)
    assert seen[2][0] > step_tokens
    assert len(seen) == 3 + 8


async def test_a_worker_whose_warm_up_fails_never_gets_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(RowRunner, "run", broken)
    worker = Worker(judge(tmp_path), Ledger(), Metrics())
    with pytest.raises(CannotLoadError, match="warm-up request failed: out of memory"):
        await bring_up(worker)
    assert not worker.takes_requests
    assert worker.engine is None
    worker.meter.stop()


async def test_a_models_folder_is_only_read(tmp_path: Path) -> None:
    given = judge(tmp_path)

    def look() -> dict[str, tuple[int, int]]:
        return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in tmp_path.rglob("*")}

    before = look()
    async for local in local_worker(given):
        assert (await local.serving.post("/predict", json={"inputs": "good film"})).status_code == 200
    assert look() == before
