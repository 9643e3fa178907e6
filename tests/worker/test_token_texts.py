"""Texts of single tokens, as log-probabilities tell them: with a tokenizer that drops a space from whatever it decodes,
as those of Llama 2, Mistral 7B and Phi 3 do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from lowbeam_worker.engines.sampling import TokenLogprobs
from lowbeam_worker.front.shapes import CompletionShape, Piece
from lowbeam_worker.options import Task
from lowbeam_worker.random_llama import make_random_llama
from tests.worker.conftest import LocalWorker, local_worker, options

pytestmark = pytest.mark.asyncio(loop_scope="session")
SPECIAL = ("<unk>", "<s>", "</s>", "<|tool|>")
DRAWN: dict[str, Any] = {"max_tokens": 24, "temperature": 1.5, "seed": 3}


def spaces_in_front() -> PreTrainedTokenizerFast:
    """512 tokens: special ones, a space, words with a space in front of them, and ends of words."""
    words = [*SPECIAL, "▁", *(f"▁w{number}" for number in range(300)), *(f"x{number}" for number in range(207))]
    inner = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|tool|>"],
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
        clean_up_tokenization_spaces=False,
    )


def save_model(folder: Path) -> Path:
    model, _ = make_random_llama(torch.float32)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    words = spaces_in_front()
    words.eos_token = None  # answers have their full length
    words.save_pretrained(folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def spaced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_model(tmp_path_factory.mktemp("spaced"))
    async for local in local_worker(options(Task.TEXT_GENERATION, "spaced", str(folder))):
        yield local


async def complete(local: LocalWorker, **more: object) -> dict[str, Any]:
    body = {"model": "spaced", "prompt": [5, 6, 7], **DRAWN, **more}
    answer = await local.serving.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


async def test_tokens_join_to_the_text_and_lie_where_their_offsets_say(spaced: LocalWorker) -> None:
    choice = await complete(spaced, logprobs=2)
    text, tokens, offsets = choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    shown = [(token, at) for token, at in zip(tokens, offsets, strict=True) if token not in SPECIAL]
    assert " " in text
    assert "".join(token for token, _ in shown) == text
    assert [text[at : at + len(token)] for token, at in shown] == [token for token, _ in shown]


async def test_tokens_of_a_stream_are_those_of_the_whole_answer(spaced: LocalWorker) -> None:
    whole = (await complete(spaced, logprobs=2))["logprobs"]
    body = {"model": "spaced", "prompt": [5, 6, 7], **DRAWN, "logprobs": 2, "stream": True}
    events = (await spaced.serving.post("/v1/completions", json=body)).text.splitlines()
    parts = [json.loads(line[6:])["choices"][0]["logprobs"] for line in events if line.startswith("data: {")]
    for name in ("tokens", "text_offset", "top_logprobs"):
        streamed = [one for part in parts for one in part[name]]
        assert [list(one) if isinstance(one, dict) else one for one in streamed] == [
            list(one) if isinstance(one, dict) else one for one in whole[name]
        ]


@pytest.mark.parametrize("wanted", [0, 1, 3])
async def test_the_token_that_was_chosen_is_always_among_the_likely_ones(spaced: LocalWorker, wanted: int) -> None:
    told = (await complete(spaced, logprobs=wanted))["logprobs"]
    for token, logprob, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
        assert top[token] == logprob
        assert max(wanted, 1) <= len(top) <= wanted + 1


async def test_bytes_of_a_chats_tokens_join_to_its_content(spaced: LocalWorker) -> None:
    body = {"model": "spaced", "messages": [{"role": "user", "content": "w1"}], **DRAWN, "logprobs": True}
    choice = (await spaced.serving.post("/v1/chat/completions", json=body)).json()["choices"][0]
    shown = [entry for entry in choice["logprobs"]["content"] if entry["token"] not in SPECIAL]
    assert bytes(byte for entry in shown for byte in entry["bytes"]).decode() == choice["message"]["content"]


async def test_tokens_before_a_stop_sequence_join_to_the_text_before_it(spaced: LocalWorker) -> None:
    full = await complete(spaced, logprobs=0)
    words = full["text"].split(" ")
    assert len(words) > 6
    choice = await complete(spaced, logprobs=0, stop=f" {words[5]}")
    assert choice["text"] == " ".join(words[:5])
    assert "".join(token for token in choice["logprobs"]["tokens"] if token not in SPECIAL) == choice["text"]


async def test_special_tokens_that_are_not_shown_take_no_place_in_the_text() -> None:
    words = spaces_in_front()
    ids = words.convert_tokens_to_ids(["<|tool|>", "▁w1", "<|tool|>", "▁w2", "▁", "x3"])
    text = words.decode(ids, skip_special_tokens=True)
    shape = CompletionShape("spaced", words, with_logprobs=True)
    whole = shape.whole(Piece(text, [TokenLogprobs(token, -1.0, ()) for token in ids]), "stop")
    told = whole["choices"][0]["logprobs"]
    assert text == "w1 w2 x3"
    assert told["tokens"] == ["<|tool|>", "w1", "<|tool|>", " w2", " ", "x3"]
    assert told["text_offset"] == [0, 0, 2, 2, 5, 6]
