"""A model whose numbers leave the range of their type: its clients are told, and get no nulls for figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lowbeam_worker.engines.encoder import EncoderEngine, Forward
from tests.worker.conftest import LocalWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")


EMBED = "/v1/embeddings", {"model": "minilm", "input": ["good", "bad"]}
BASE64 = EMBED[0], EMBED[1] | {"encoding_format": "base64"}
RERANK = "/rerank", {"query": "who", "texts": ["good", "bad"]}
PREDICT = "/predict", {"inputs": [["good"], ["bad"]]}


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
async def test_figures_that_are_no_numbers_are_an_error(
    minilm: LocalWorker, ranker: LocalWorker, judge: LocalWorker, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    for local, (path, body) in ((minilm, EMBED), (minilm, BASE64), (ranker, RERANK), (judge, PREDICT)):
        assert isinstance(local.worker.engine, EncoderEngine)
        original = local.worker.engine._forward

        def overflown(batch: Any, original: Forward = original) -> Any:
            figures = original(batch)
            figures[:, -1] = wrong
            return figures

        monkeypatch.setattr(local.worker.engine, "_forward", overflown)
        answer = await local.serving.post(path, json=body)
        assert answer.status_code == 500
        assert "are no numbers; a wider precision" in answer.json()["error"]["message"]
        monkeypatch.undo()
        assert (await local.serving.post(path, json=body)).status_code == 200
