"""Chat and completions: the tokens of transformers, streams, stop sequences, seeds, and requests that poison."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from openai import AsyncOpenAI, BadRequestError

from lowbeam_worker.engines.decoder import BadRequestError as Unrunnable
from lowbeam_worker.engines.decoder import DecoderEngine, GenerationFailedError, SamplingWish
from lowbeam_worker.engines.generation import Generation
from lowbeam_worker.random_llama import make_random_llama
from tests.worker.conftest import LocalWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")
PROMPTS = ["Power is scarce", "def answer(question):", "The operator lowers the beam and " * 6, "q"]


def greedy_reference(prompt: str, tokens: int) -> str:
    model, tokenizer = make_random_llama(torch.float32)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=tokens, do_sample=False)[0, ids.shape[1] :].tolist()
    return str(tokenizer.decode(out, skip_special_tokens=True))


async def complete(local: LocalWorker, **body: object) -> dict[str, Any]:
    answer = await local.serving.post("/v1/completions", json={"model": "tiny", "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def engine_of(local: LocalWorker) -> DecoderEngine:
    assert isinstance(local.worker.engine, DecoderEngine)
    return local.worker.engine


async def test_greedy_answers_are_those_of_transformers_even_when_they_share_steps(llama: LocalWorker) -> None:
    answers = await asyncio.gather(*(complete(llama, prompt=prompt, max_tokens=24) for prompt in PROMPTS))
    assert [answer["choices"][0]["text"] for answer in answers] == [greedy_reference(prompt, 24) for prompt in PROMPTS]


async def test_a_chat_is_rendered_by_the_models_own_template(llama: LocalWorker) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 12}
    answer = (await llama.serving.post("/v1/chat/completions", json=body)).json()
    assert answer["choices"][0]["message"]["content"] == greedy_reference("<|user|>hello<|end|><|assistant|>", 12)
    usage = answer["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12


async def test_a_stream_gives_the_same_text_in_pieces_and_usage_at_the_end(llama: LocalWorker) -> None:
    client = AsyncOpenAI(base_url="http://worker/v1", api_key="none", http_client=llama.serving, max_retries=0)
    ask: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}
    whole = await client.chat.completions.create(**ask, temperature=0)
    stream = await client.chat.completions.create(
        **ask, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert chunks[-1].usage.model_extra["energy"]["method"] == "unavailable"


async def test_load_generators_get_the_length_they_ask_for_past_an_end_of_sequence(llama: LocalWorker) -> None:
    ask = {"prompt": "once", "max_tokens": 64, "temperature": 2}
    answers = await asyncio.gather(*(complete(llama, **ask, seed=seed) for seed in range(48)))
    seed = next(seed for seed, it in enumerate(answers) if it["choices"][0]["finish_reason"] == "stop")
    short, full = answers[seed], await complete(llama, **ask, seed=seed, ignore_eos=True)
    assert short["usage"]["completion_tokens"] < 64 == full["usage"]["completion_tokens"]
    assert full["choices"][0]["finish_reason"] == "length"
    assert full["choices"][0]["text"].startswith(short["choices"][0]["text"].rstrip("\ufffd"))


async def test_a_stream_says_how_many_tokens_there_are_so_far_where_it_is_asked(llama: LocalWorker) -> None:
    body: dict[str, Any] = {"model": "tiny", "prompt": "q", "max_tokens": 12, "stream": True, "ignore_eos": True}
    for continuous in (True, False):
        options = {"include_usage": True, "continuous_usage_stats": continuous}
        answer = await llama.serving.post("/v1/completions", json={**body, "stream_options": options})
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        counts = [event["usage"] and event["usage"]["completion_tokens"] for event in events]
        assert counts[-1] == 12
        if continuous:
            assert counts == sorted(counts)
            assert counts[0] >= 1
        else:
            assert set(counts[:-1]) == {None}


async def test_a_seed_gives_the_same_answer_alone_and_in_company(llama: LocalWorker) -> None:
    ask = {"prompt": "once", "max_tokens": 16, "temperature": 1.2, "top_p": 0.9}
    alone = await complete(llama, **ask, seed=7)
    company = await asyncio.gather(*(complete(llama, **ask, seed=seed) for seed in (1, 7, 3, 4)))
    texts = [answer["choices"][0]["text"] for answer in company]
    assert texts[1] == alone["choices"][0]["text"]
    assert len(set(texts)) == 4


@pytest.mark.parametrize("logprobs", [None, 0])
async def test_temperatures_that_are_all_but_zero_are_greedy(llama: LocalWorker, logprobs: int | None) -> None:
    ask = {"prompt": "once", "max_tokens": 16, "logprobs": logprobs}
    greedy = (await complete(llama, **ask))["choices"]
    for temperature in (9e-6, 1e-30, 1e-38, 1e-40, 5e-324):
        for seed in (1, 2):
            assert (await complete(llama, **ask, temperature=temperature, seed=seed))["choices"] == greedy


async def test_draws_follow_the_models_probabilities() -> None:
    from lowbeam_worker.engines.sampling import draw  # noqa: PLC0415

    scores = torch.tensor([2.0, 1.0, 0.0, -5.0])
    tokens = [int(draw(scores, temperature=1.0, top_p=1.0, seed=3, position=n).argmax()) for n in range(4000)]
    shares = torch.bincount(torch.tensor(tokens), minlength=4) / 4000
    assert (shares - scores.softmax(0)).abs().max() < 0.03
    nucleus = {int(draw(scores, temperature=1.0, top_p=0.7, seed=3, position=n).argmax()) for n in range(300)}
    assert nucleus == {0, 1}


async def test_a_stop_sequence_ends_the_answer_before_it(llama: LocalWorker) -> None:
    full = (await complete(llama, prompt=PROMPTS[0], max_tokens=32))["choices"][0]["text"]
    stop = full[6:8]
    cut = await complete(llama, prompt=PROMPTS[0], max_tokens=32, stop=[stop, "never there"])
    assert cut["choices"][0]["text"] == full[: full.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert engine_of(llama).stats().running == 0


async def test_tokens_that_were_written_after_a_stop_sequence_are_not_counted(
    llama: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = (await complete(llama, prompt=PROMPTS[0], max_tokens=32))["choices"][0]["text"]
    ask = {"prompt": PROMPTS[0], "max_tokens": 32, "stop": full[6:8]}
    undisturbed = await complete(llama, **ask)
    news = Generation.__aiter__

    async def late(generation: Generation) -> AsyncIterator[list[int]]:
        async for tokens in news(generation):
            await asyncio.sleep(0.05)  # a busy worker: the engine is ahead of whoever looks at the text
            yield tokens

    monkeypatch.setattr(Generation, "__aiter__", late)
    assert (await complete(llama, **ask))["usage"]["completion_tokens"] == undisturbed["usage"]["completion_tokens"]
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"model": "tiny", "temperature": 0, **ask, "stream": True, "stream_options": options}
    events = (await llama.serving.post("/v1/completions", json=body)).text.splitlines()
    counts = [json.loads(line[6:])["usage"]["completion_tokens"] for line in events if line.startswith("data: {")]
    assert counts[-1] == counts[-2] == undisturbed["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_value"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "unsupported_value"),
        ({"max_tokens": -1}, "max_tokens", None),
        ({"max_tokens": 100000}, "max_tokens", None),
        ({"temperature": 3}, "temperature", None),
        ({"top_p": 0}, "top_p", None),
        ({"tools": []}, "tools", "unsupported_parameter"),
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "user", "content": "long " * 3000}]}, "messages", "context_length_exceeded"),
    ],
)
async def test_what_is_not_supported_is_refused_instead_of_ignored(
    llama: LocalWorker, more: dict[str, Any], param: str, code: str | None
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **more}
    answer = await llama.serving.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


async def test_poisonous_requests_do_not_disturb_others(llama: LocalWorker) -> None:
    innocent = asyncio.create_task(complete(llama, prompt=PROMPTS[1], max_tokens=48))
    await asyncio.sleep(0)
    client = AsyncOpenAI(base_url="http://worker/v1", api_key="none", http_client=llama.serving, max_retries=0)
    for prompt in ([99999], [-1], [1] * 5000, []):
        with pytest.raises(BadRequestError):
            await client.completions.create(model="tiny", prompt=prompt)
    for ids in ([], [llama.worker.engine.vocabulary], [0] * 100_000):  # type: ignore[union-attr]
        with pytest.raises(Unrunnable):
            engine_of(llama).submit(ids, 1, SamplingWish(), llama.worker.ledger.open_account(0.0))
    assert (await innocent)["choices"][0]["text"] == greedy_reference(PROMPTS[1], 48)
    assert engine_of(llama).stats().restarts == 0


async def test_a_dead_loop_fails_only_what_was_in_it_and_is_started_again(
    llama: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(llama)
    before = engine.stats().restarts
    # A request that gets past the checks: the id is outside the model's table.
    monkeypatch.setattr(engine, "vocabulary", 10**6)
    poison = engine.submit([10**5], 8, SamplingWish(), llama.worker.ledger.open_account(0.0))
    with pytest.raises(GenerationFailedError):
        async for _ in poison:
            pass
    answer = await complete(llama, prompt=PROMPTS[0], max_tokens=8)
    assert answer["choices"][0]["text"] == greedy_reference(PROMPTS[0], 8)
    assert engine.stats().restarts == before + 1
    assert engine.failed is None


@pytest.mark.parametrize(
    "more", [{}, {"stop": ["\x00never"]}, {"logprobs": 1}], ids=["plain", "with a stop", "logprobs"]
)
async def test_a_whole_answer_is_timed_token_by_token_like_a_streamed_one(
    llama: LocalWorker, more: dict[str, Any]
) -> None:
    def observed() -> dict[str, float]:
        shown = llama.worker.metrics.exposition()[0].decode()
        names = ("vllm:inter_token_latency_seconds_count", "vllm:time_to_first_token_seconds_count")
        return {line.split("{")[0]: float(line.split()[-1]) for line in shown.splitlines() if line.startswith(names)}

    before = observed()
    answer = await complete(llama, prompt=PROMPTS[0], max_tokens=16, **more)
    after = observed()
    assert answer["choices"][0]["text"] == greedy_reference(PROMPTS[0], 16)
    assert [after[name] - before.get(name, 0) for name in sorted(after)] == [15, 1]


async def test_a_client_that_leaves_frees_its_slot(llama: LocalWorker) -> None:
    engine = engine_of(llama)
    account = llama.worker.ledger.open_account(0.0)
    generation = engine.submit([1, 2, 3], 500, SamplingWish(), account)
    async for _ in generation:
        engine.cancel(generation)
    assert engine.stats().running == 0
    assert len(generation.tokens) < 500
    assert (await complete(llama, prompt="q", max_tokens=4))["usage"]["completion_tokens"] == 4


async def test_a_lowered_batch_limit_drops_nobody(llama: LocalWorker) -> None:
    engine = engine_of(llama)
    prompts = [f"prompt number {number}" for number in range(12)]
    running = [asyncio.create_task(complete(llama, prompt=prompt, max_tokens=40)) for prompt in prompts]
    while engine.stats().running < 8:  # noqa: ASYNC110 - the engine has no event for it
        await asyncio.sleep(0.005)
    engine.set_limits(replace(engine.limits, batch=2))
    answers = await asyncio.gather(*running)
    engine.set_limits(replace(engine.limits, batch=8))
    texts = [answer["choices"][0]["text"] for answer in answers]
    assert texts == [greedy_reference(prompt, 40) for prompt in prompts]


async def test_info_names_what_of_the_models_generation_config_is_not_applied(
    llama: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told() -> object:
        return (await llama.serving.get("/info")).json()["model_type"]["generation"]["generation_config_not_applied"]

    assert await told() == []
    monkeypatch.setattr(engine_of(llama), "unapplied", {"repetition_penalty": 1.05})
    assert await told() == ["repetition_penalty"]


async def test_random_weights_are_said_to_be_random(llama: LocalWorker) -> None:
    listed = (await llama.serving.get("/v1/models")).json()["data"]
    assert [(entry["id"], entry["owned_by"]) for entry in listed] == [("tiny", "random-weights")]


async def test_events_are_valid_json_and_end_with_done(llama: LocalWorker) -> None:
    body = {"model": "tiny", "prompt": "q", "max_tokens": 5, "stream": True}
    answer = await llama.serving.post("/v1/completions", json=body)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] in {"length", "stop"}
