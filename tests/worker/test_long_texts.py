"""Texts of many characters: cut on the side that is asked for, and judged by what the tokenizer sees of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from transformers import BertForSequenceClassification

from lowbeam_worker.front.shortening import Shortening
from lowbeam_worker.options import Task
from tests.worker.conftest import LocalWorker, local_worker, options
from tests.worker.tiny import save_bert

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ranker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_bert(BertForSequenceClassification, tmp_path_factory.mktemp("ranker"), num_labels=1)
    async for local in local_worker(options(Task.TEXT_RANKING, "ranker", str(folder))):
        yield local


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def judge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_bert(BertForSequenceClassification, tmp_path_factory.mktemp("judge"))
    async for local in local_worker(options(Task.TEXT_CLASSIFICATION, "judge", str(folder))):
        yield local


async def post(local: LocalWorker, path: str, **body: object) -> Any:
    answer = await local.serving.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_very_long_text_is_cut_at_its_beginning_where_that_is_asked_for(
    minilm: LocalWorker, judge: LocalWorker, ranker: LocalWorker
) -> None:
    cut = {"truncate": True, "truncation_direction": "Left"}
    long, short = "cat " * 20_000 + "dog mat", "cat " * 600 + "dog mat"
    assert await post(minilm, "/embed", inputs=long, **cut) == await post(minilm, "/embed", inputs=short, **cut)
    assert await post(judge, "/predict", inputs=long, **cut) == await post(judge, "/predict", inputs=short, **cut)
    for texts in ({"query": "dog", "texts": [long]}, {"query": long, "texts": ["dog"]}):
        same = {
            name: short if value == long else [short] if value == [long] else value for name, value in texts.items()
        }
        assert await post(ranker, "/rerank", **texts, **cut) == await post(ranker, "/rerank", **same, **cut)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("cat" + " " * 300_000 + "dog", "cat dog"),
        ("\r\n\t" * 100_000 + "cat", "cat"),
        ("cat " + "x1" * 100_000 + " dog", "cat " + "x1" * 100 + " dog"),
        (("y" * 101 + " ") * 250, ("z" * 101 + " ") * 250),
    ],
)
async def test_what_the_tokenizer_does_not_see_is_not_counted(minilm: LocalWorker, text: str, same: str) -> None:
    expected = await post(minilm, "/embed", inputs=same)
    assert await post(minilm, "/embed", inputs=text) == expected
    assert await post(minilm, "/embed", inputs=text, truncate=True) == expected


@pytest.mark.parametrize("text", ["cat " * 1_000_000, "." * 100_000])
async def test_a_text_with_too_much_to_see_is_refused_unread(
    minilm: LocalWorker, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    read: list[int] = []
    rules = Shortening._without_unseen
    monkeypatch.setattr(Shortening, "_without_unseen", lambda it, part: read.append(len(part)) or rules(it, part))
    refused = await minilm.serving.post("/embed", json={"inputs": text})
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert f"{len(text)} characters" in refused.json()["error"]["message"]
    assert sum(read) <= 65536


async def test_a_query_that_many_texts_share_is_read_once(ranker: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    rules = Shortening._without_unseen
    monkeypatch.setattr(Shortening, "_without_unseen", lambda it, part: read.append(len(part)) or rules(it, part))
    query = "cat" + " " * 1_000_000 + "dog"
    texts = ["the mat"] * 1000
    given = await post(ranker, "/rerank", query=query, texts=texts)
    assert given == await post(ranker, "/rerank", query="cat dog", texts=texts)
    assert sum(read) < 2_000_000
