"""What the decoder takes from the inside of transformers: each touch, on the version that is installed.

The newest is installed here; the same tests run on the oldest in an environment of its own:
`python -m tools.overlay tests/worker/oldest-requirements.txt -m pytest tests/worker/test_decoder_contract.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
import torch
import transformers
from packaging.version import Version

from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.engines import attention
from lowbeam_worker.engines.base import Limits
from lowbeam_worker.engines.continuous import CAN_PAUSE, PAGE_TOKENS, Member, choose_sizes
from lowbeam_worker.engines.decoder import DecoderEngine, SamplingWish
from lowbeam_worker.engines.sampling import ThinkingLimit, forced_token
from lowbeam_worker.int8 import quantise
from lowbeam_worker.models import put_in
from lowbeam_worker.random_llama import make_random_llama
from tests.worker.decoders import GREEDY, ask, prompt, reference, running_engine, whole

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[DecoderEngine]:
    async with running_engine(ledger=Ledger()) as made:
        await whole(ask(made, [1, 2], 2))
        yield made


def inside(engine: DecoderEngine) -> Any:
    assert engine._loop is not None
    return engine._loop._manager


async def test_the_inside_of_transformers_is_as_the_adapter_takes_it(engine: DecoderEngine) -> None:
    assert Version(transformers.__version__) >= Version("5.17")
    manager = inside(engine)
    assert callable(manager._generation_step)
    assert manager.batch_processor.scheduler.max_requests_per_batch == engine.limits.batch
    assert manager.batch_processor.max_batch_tokens == engine.limits.step_tokens
    assert manager.batch_processor.inputs_and_outputs.compute_stream is None
    assert manager.background_thread_status.local_status == manager.background_thread_status.DONT_STOP
    assert manager.background_thread_status.fatal_error is None
    assert isinstance(manager.output_router.result_handlers, dict)
    assert callable(getattr(manager, "pause", None)) is CAN_PAUSE
    assert CAN_PAUSE or Version(transformers.__version__) < Version("5.23")


async def test_nothing_is_left_to_the_default_sizes_of_transformers(engine: DecoderEngine) -> None:
    cache = inside(engine).batch_processor.cache
    pages = engine._sizes.cache_tokens // PAGE_TOKENS
    assert pages <= cache.num_blocks <= pages + 8
    assert cache.max_batch_tokens == engine.ceilings.step_tokens
    config = inside(engine).continuous_batching_config
    assert (config.page_size if hasattr(config, "page_size") else config.block_size) == PAGE_TOKENS
    assert config.max_requests_per_batch == engine.ceilings.batch
    assert not config.use_async_batching
    assert not getattr(config, "auto_switch_to_flash", False)


async def test_sizes_fit_the_containers_memory_and_not_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    from lowbeam_worker.engines import continuous  # noqa: PLC0415

    config = transformers.LlamaConfig(hidden_size=2048, num_hidden_layers=16, num_attention_heads=16)
    for limit_bytes in (1 << 28, 1 << 30):
        monkeypatch.setattr(continuous, "memory_limit_bytes", lambda limit=limit_bytes: limit)
        sizes = choose_sizes(config, torch.float32, torch.device("cpu"))
        kv_bytes = sizes.cache_tokens * 2 * 16 * 2048 * 4
        mask_bytes = sizes.cache_tokens * sizes.step_tokens * 4
        assert kv_bytes + mask_bytes <= limit_bytes / 4


async def test_answers_are_those_of_generate_token_for_token_at_any_concurrency(engine: DecoderEngine) -> None:
    lengths = [(number, 1 + number % 37) for number in range(40)]
    answers = await asyncio.gather(*(whole(ask(engine, prompt(number), tokens)) for number, tokens in lengths))
    assert answers == [reference(prompt(number), tokens) for number, tokens in lengths]


async def test_a_prompt_that_is_longer_than_a_step_is_read_in_pieces_with_the_same_answer(
    engine: DecoderEngine,
) -> None:
    long = [(3 * step) % 380 + 5 for step in range(400)]
    limits = engine.limits
    engine.set_limits(replace(limits, step_tokens=48))
    seen: list[int] = []
    begins = engine._steps.step_begins

    def listen(now_s: float, members: Any) -> None:
        seen.append(sum(member.tokens for member in members))
        begins(now_s, members)

    engine._steps.step_begins = listen  # type: ignore[method-assign]
    try:
        answers = await asyncio.gather(*(whole(one) for one in (ask(engine, long, 8), ask(engine, prompt(3), 20))))
    finally:
        engine._steps.step_begins = begins  # type: ignore[method-assign]
        engine.set_limits(limits)
    assert answers == [reference(long, 8), reference(prompt(3), 20)]
    assert max(seen) <= 48
    assert sum(seen) >= 400


async def test_steps_are_reported_with_who_reads_and_who_writes(engine: DecoderEngine) -> None:
    steps: list[list[Member]] = []
    begins = engine._steps.step_begins

    def listen(now_s: float, members: Any) -> None:
        steps.append(list(members))
        begins(now_s, members)

    engine._steps.step_begins = listen  # type: ignore[method-assign]
    generation = ask(engine, [5] * 30, 4)
    await whole(generation)
    engine._steps.step_begins = begins  # type: ignore[method-assign]
    own = [member for members in steps for member in members if member.name == generation.name]
    assert [(member.tokens, member.decodes) for member in own] == [(30, False), *[(1, True)] * 3]


async def test_a_limit_above_the_reserved_buffers_is_refused(engine: DecoderEngine) -> None:
    for limits in (Limits(0, 8), Limits(8, 0), Limits(engine.ceilings.batch + 1, 8), Limits(8, 1 << 30)):
        with pytest.raises(ValueError, match="is outside 1 to"):
            engine.set_limits(limits)


@pytest.mark.skipif(not CAN_PAUSE, reason="this version of transformers cannot stop between two steps")
async def test_weights_turn_into_int8_in_place_between_two_steps_and_nobody_is_dropped() -> None:
    fresh, other = (make_random_llama(torch.float32)[0].eval() for _ in range(2))
    for model in (fresh, other):
        quantise(model)
    async with running_engine() as engine:
        requests = [ask(engine, prompt(number), 60) for number in range(8)]
        answers = [asyncio.create_task(whole(request)) for request in requests]
        async for _ in ask(engine, prompt(9), 5):
            break
        touched = await engine.swap(lambda: put_in(engine._model, fresh))
        finished = await asyncio.gather(*answers)
        assert touched >= 1
        assert all(len(tokens) == 60 or tokens[-1] in engine.eos_token_ids for tokens in finished)
        again = await whole(ask(engine, prompt(3), 10))
        with pytest.raises(ZeroDivisionError):
            await engine.swap(lambda: print(1 // 0))
        assert engine.failed is None
        assert engine.stats().restarts == 0
    ids = torch.tensor([prompt(3)])
    assert again == other.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :].tolist()


async def test_log_probabilities_are_those_of_the_model(engine: DecoderEngine) -> None:
    ids = prompt(4)
    generation = ask(engine, ids, 6, SamplingWish(top_logprobs=3))
    tokens = await whole(generation)
    assert tokens == reference(ids, 6)
    with torch.inference_mode():
        logits = make_random_llama(torch.float32)[0](torch.tensor([ids + tokens])).logits[0].log_softmax(-1)
    for at, entry in enumerate(generation.logprobs):
        row = logits[len(ids) + at - 1]
        assert entry.token == tokens[at]
        assert entry.logprob == pytest.approx(float(row[tokens[at]]), abs=1e-4)
        assert [token for token, _ in entry.top] == row.topk(3).indices.tolist()


async def test_thinking_ends_at_its_budget(engine: DecoderEngine) -> None:
    end = (3, 4)
    answer = await whole(ask(engine, prompt(2), 12, SamplingWish(thinking=ThinkingLimit(5, end))))
    free = reference(prompt(2), 12)
    assert answer[:5] == free[:5]
    assert answer[5:7] == [3, 4]
    assert len(answer) == 12


async def test_thinking_that_ended_by_itself_is_left_alone() -> None:
    limit = ThinkingLimit(4, (3, 4))
    assert forced_token([1, 3, 4, 9], limit) is None
    assert forced_token([1, 1, 1], limit) is None
    assert forced_token([1, 1, 1, 1], limit) == 3
    assert forced_token([1, 1, 1, 1, 3], limit) == 4
    assert forced_token([1, 1, 1, 1, 3, 4], limit) is None
    assert forced_token([], ThinkingLimit(0, (9,))) == 9


async def test_thinking_that_the_model_begins_itself_is_counted_from_there() -> None:
    limit = ThinkingLimit(2, (3, 4), begin_id=8)
    assert forced_token([1, 1, 1, 1], limit) is None
    assert forced_token([1, 8, 1], limit) is None
    assert forced_token([1, 8, 1, 1], limit) == 3
    assert forced_token([1, 8, 1, 1, 3], limit) == 4
    assert forced_token([8, 3, 4, 8, 1, 1, 1], limit) is None
    assert forced_token([8], ThinkingLimit(0, (9,), begin_id=8)) == 9


async def test_short_neighbours_share_a_call_of_attention_and_long_ones_do_not() -> None:
    def shared(queries: list[int], keys: list[int]) -> list[tuple[slice, slice]]:
        borders = ([0, *itertools.accumulate(queries)], [0, *itertools.accumulate(keys)])
        return list(attention.calls(*borders, width=256))

    many = shared([1] * 32, [20] * 32)
    assert 1 < len(many) < 8
    assert [row for rows, _ in many for row in range(rows.start, rows.stop)] == list(range(32))
    assert [key for _, keys in many for key in range(keys.start, keys.stop)] == list(range(640))
    assert shared([1, 1, 1], [5000, 10, 5000]) == [
        (slice(0, 1), slice(0, 5000)),
        (slice(1, 2), slice(5000, 5010)),
        (slice(2, 3), slice(5010, 10010)),
    ]
    assert shared([1, 0, 1], [9, 0, 9]) == [(slice(0, 2), slice(0, 18))]
    assert shared([0, 0], [0, 0]) == []


async def test_a_reader_that_is_not_eager_gets_the_same_tokens_at_once(engine: DecoderEngine) -> None:
    account = engine._ledger.open_account(0.0)
    patient = engine.submit(prompt(3), 12, GREEDY, account, eager=False)
    (tokens,) = [tokens async for tokens in patient]
    assert tokens == await whole(ask(engine, prompt(3), 12)) == reference(prompt(3), 12)
    assert len(patient.take_gaps()) == 11
    assert patient.take_gaps() == []


@pytest.mark.skipif(
    not CAN_PAUSE,
    reason="continuous batching of transformers 5.17 has a paged attention of its own, which is left alone",
)
async def test_attention_by_sequence_is_the_attention_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: PLC0415

    calls: list[float] = []

    def both(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        split = dict(kwargs)
        mine = attention.attend(module, query, key, value, mask, **split)[0]
        theirs = sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]
        if "cu_seq_lens_q" in kwargs:
            calls.append(float((mine - theirs).abs().max()))
        return theirs, None

    async with running_engine() as engine:
        await whole(ask(engine, [1, 2], 2))
        monkeypatch.setattr(attention, "register", lambda: None)
        transformers.AttentionInterface.register("sdpa", both)
        try:
            await asyncio.gather(*(whole(ask(engine, prompt(number) * 5, 12)) for number in range(12)))
        finally:
            transformers.AttentionInterface.register("sdpa", attention.attend)
    assert len(calls) > 20
    assert max(calls) < 1e-4
