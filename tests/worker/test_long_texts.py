"""Texts of many characters: cut on the side that is asked for, and judged by what the tokenizer sees of them."""

from __future__ import annotations

import pytest

from lowbeam_worker.front.shortening import Shortening
from tests.worker.conftest import LocalWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_very_long_text_is_cut_at_its_beginning_where_that_is_asked_for(
    minilm: LocalWorker, judge: LocalWorker, ranker: LocalWorker
) -> None:
    cut = {"truncate": True, "truncation_direction": "Left"}
    long, short = "cat " * 20_000 + "dog mat", "cat " * 600 + "dog mat"
    assert await minilm.post("/embed", inputs=long, **cut) == await minilm.post("/embed", inputs=short, **cut)
    assert await judge.post("/predict", inputs=long, **cut) == await judge.post("/predict", inputs=short, **cut)
    for texts in ({"query": "dog", "texts": [long]}, {"query": long, "texts": ["dog"]}):
        same = {
            name: short if value == long else [short] if value == [long] else value for name, value in texts.items()
        }
        assert await ranker.post("/rerank", **texts, **cut) == await ranker.post("/rerank", **same, **cut)


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
    expected = await minilm.post("/embed", inputs=same)
    assert await minilm.post("/embed", inputs=text) == expected
    assert await minilm.post("/embed", inputs=text, truncate=True) == expected


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
    given = await ranker.post("/rerank", query=query, texts=texts)
    assert given == await ranker.post("/rerank", query="cat dog", texts=texts)
    assert sum(read) < 2_000_000
