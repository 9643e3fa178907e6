"""A tokenizer that has ids which its model lacks: the texts that need them are refused, and no others suffer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from transformers import BertConfig, BertForSequenceClassification

from lowbeam_worker.engines.encoder import MOST_FAILURES
from lowbeam_worker.models import CannotLoadError, load
from lowbeam_worker.options import Precision, Task
from tests.worker.conftest import LocalWorker, local_worker, options
from tests.worker.tiny import MAX_TOKENS, SPECIAL, WORDS, save

pytestmark = pytest.mark.asyncio(loop_scope="session")
LAST = len(SPECIAL) + len(WORDS) - 1


def save_with_ids(count: int, folder: Path) -> Path:
    config = BertConfig(
        vocab_size=count,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS,
    )
    return save(BertForSequenceClassification(config), folder)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def judge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_with_ids(LAST, tmp_path_factory.mktemp("smaller"))
    async for local in local_worker(options(Task.TEXT_CLASSIFICATION, "smaller", str(folder))):
        yield local


async def test_a_text_with_an_id_that_the_model_lacks_is_refused_and_others_go_on(judge: LocalWorker) -> None:
    for _ in range(MOST_FAILURES + 1):
        refused = await judge.serving.post("/predict", json={"inputs": "who lives in paris ?"})
        assert refused.status_code == 400
        message = refused.json()["error"]["message"]
        assert message == f"Input 0 has the token id {LAST}; this model has 0 to {LAST - 1}."
    assert (await judge.serving.post("/predict", json={"inputs": "anna lives in paris"})).status_code == 200


async def test_a_model_that_no_text_can_be_asked_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotLoadError, match="its tokenizer gives any text the id 3"):
        load(
            str(save_with_ids(3, tmp_path)),
            Task.TEXT_CLASSIFICATION,
            Precision.FP32,
            torch.device("cpu"),
            allow_downloads=False,
        )
