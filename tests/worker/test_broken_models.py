"""Models whose files nobody can serve: the reason comes as one line, at the start as in the answer to a change."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from transformers import BertForSequenceClassification, BertModel

from lowbeam_worker.options import Task
from tests.worker.conftest import LocalWorker, local_worker, options
from tests.worker.tiny import save_bert

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sound(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_bert(BertForSequenceClassification, tmp_path_factory.mktemp("sound"))
    async for local in local_worker(options(Task.TEXT_CLASSIFICATION, "sound", str(folder))):
        yield local


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def embedder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_bert(BertModel, tmp_path_factory.mktemp("vectors"))
    async for local in local_worker(options(Task.FEATURE_EXTRACTION, "vectors", str(folder))):
        yield local


def edited(folder: Path, **values: Any) -> Path:
    config = save_bert(BertForSequenceClassification, folder) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | values), encoding="utf-8")
    return folder


def overwritten(folder: Path, name: str, text: str) -> Path:
    (save_bert(BertForSequenceClassification, folder) / name).write_text(text, encoding="utf-8")
    return folder


async def refused(local: LocalWorker, folder: Path) -> str:
    """The reason, after a look that nothing has changed."""
    before = local.worker.profile()
    body = {"generation": 1, "model": "broken", "modelPath": str(folder)}
    answer = await local.control.patch("/control/profile", json=body)
    assert answer.status_code == 422, answer.text
    assert local.worker.profile() == before
    assert (await local.serving.get("/ready")).status_code == 200
    return str(answer.json()["error"])


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
async def test_a_quantised_checkpoint_says_what_it_needs(sound: LocalWorker, tmp_path: Path, method: str) -> None:
    how = {"quant_method": method, "bits": 4, "group_size": 128}
    reason = await refused(sound, edited(tmp_path, quantization_config=how))
    assert f"model {str(tmp_path)!r} cannot be loaded for --task text-classification: " in reason
    assert len(reason.rpartition("text-classification: ")[2].split()) > 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": "abc"}, "hidden_size"),
        ({"num_attention_heads": 0}, "ZeroDivisionError: "),
        ({"model_type": "no-such"}, "no-such"),
    ],
)
async def test_a_config_with_a_wrong_value_names_it(
    sound: LocalWorker, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    assert message in await refused(sound, edited(tmp_path, **values))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
async def test_a_file_that_holds_something_else_refuses_the_change(
    sound: LocalWorker, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with caplog.at_level(logging.ERROR):
        reason = await refused(sound, overwritten(tmp_path, name, "[]"))
    assert "'broken' at fp32 cannot be had" in reason
    assert "Error: " in reason
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("modules", ["[{}]", "[1]", "not JSON"])
async def test_a_recipe_that_cannot_be_read_refuses_the_change(
    embedder: LocalWorker, tmp_path: Path, modules: str
) -> None:
    (save_bert(BertModel, tmp_path) / "modules.json").write_text(modules, encoding="utf-8")
    assert "model 'broken' cannot be served: " in await refused(embedder, tmp_path)
