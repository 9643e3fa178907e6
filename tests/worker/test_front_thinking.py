"""Thinking before the answer: switched by the template, limited by tokens, capped by the profile, told in the usage."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from lowbeam_worker.engines import sampling
from lowbeam_worker.engines.sampling import ThinkingLimit, forced_token
from lowbeam_worker.front.thinking import ThinkingModel
from lowbeam_worker.limits import AnswerLimits
from lowbeam_worker.options import Task
from tests.worker.conftest import LocalWorker, local_worker, options
from tools.soak.thinker import THINKING_TEMPLATE, save_thinker

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def thinker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = save_thinker(tmp_path_factory.mktemp("thinker"))
    async for local in local_worker(options(Task.TEXT_GENERATION, "thinker", str(folder))):
        yield local


async def chat(local: LocalWorker, **more: object) -> dict[str, Any]:
    body = {
        "model": "thinker",
        "messages": [{"role": "user", "content": "power"}],
        "max_tokens": 20,
        "temperature": 0,
        "logprobs": True,
        **more,
    }
    answer = await local.serving.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def tokens(answer: dict[str, Any]) -> list[str]:
    return [entry["token"] for entry in answer["choices"][0]["logprobs"]["content"]]


@pytest.mark.parametrize(
    ("wish", "thought"),
    [
        ({"thinking_token_budget": 5}, 5),
        ({"reasoning_effort": "minimal"}, 2),  # 10 % of 20 tokens
        ({"reasoning_effort": "medium"}, 10),
        ({"reasoning_effort": "high", "thinking_token_budget": 3}, 3),  # the number is the more exact wish
    ],
)
async def test_thinking_ends_at_its_budget(thinker: LocalWorker, wish: dict[str, Any], thought: int) -> None:
    answer = await chat(thinker, **wish)
    assert tokens(answer).index("</think>") == thought
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == thought + 1
    assert answer["usage"]["completion_tokens"] == 20


@pytest.mark.parametrize(
    "wish",
    [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}, {"thinking_token_budget": 0}],
)
async def test_thinking_is_switched_off_by_the_template(thinker: LocalWorker, wish: dict[str, Any]) -> None:
    plain, off = await chat(thinker), await chat(thinker, **wish)
    assert "</think>" not in tokens(off)
    assert off["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"] + 1
    assert "completion_tokens_details" not in off["usage"]


async def test_the_profile_sets_what_is_usual_and_caps_what_is_asked(
    thinker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinker.worker, "answers", AnswerLimits(64, 64, most_thinking=6, usual_thinking=4))
    assert tokens(await chat(thinker)).index("</think>") == 4
    assert tokens(await chat(thinker, thinking_token_budget=50)).index("</think>") == 6
    assert tokens(await chat(thinker, thinking_token_budget=5)).index("</think>") == 5
    monkeypatch.setattr(thinker.worker, "answers", AnswerLimits(64, 64, most_thinking=0))
    capped = await chat(thinker, reasoning_effort="high")
    assert "</think>" not in tokens(capped)
    assert "completion_tokens_details" not in capped["usage"]


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
async def test_what_the_worker_was_started_with_counts_for_requests_that_say_nothing(
    thinker: LocalWorker, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tokenizer = copy.deepcopy(thinker.worker.service._tokenizer)  # type: ignore[union-attr]
    tokenizer.chat_template = THINKING_TEMPLATE.replace("enable_thinking", name)
    monkeypatch.setattr(thinker.worker.service, "_tokenizer", tokenizer)
    monkeypatch.setattr(thinker.worker.service, "_thinking", ThinkingModel(tokenizer, {name: False}))
    assert "completion_tokens_details" not in (await chat(thinker))["usage"]
    assert tokens(await chat(thinker, thinking_token_budget=5)).index("</think>") == 5
    assert tokens(await chat(thinker, reasoning_effort="medium")).index("</think>") == 10
    switched_on = await chat(thinker, chat_template_kwargs={"enable_thinking": True})
    assert "completion_tokens_details" in switched_on["usage"]
    monkeypatch.setattr(thinker.worker, "answers", AnswerLimits(64, 64, usual_thinking=4))
    assert tokens(await chat(thinker)).index("</think>") == 4, "the profile's default is newer"


async def test_without_any_budget_thinking_is_left_alone(thinker: LocalWorker) -> None:
    answer = await chat(thinker)
    assert "</think>" not in tokens(answer)
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 20


# As Qwen3's: the model opens its thinking itself, unless the template closes it at once.
LEFT_TO_THE_MODEL = THINKING_TEMPLATE.replace("<think>", "").replace("</think>", "<think></think>")


@pytest.fixture
def left_to_it(thinker: LocalWorker, monkeypatch: pytest.MonkeyPatch) -> LocalWorker:
    """The template leaves it to the model, which never begins by itself."""
    tokenizer = copy.deepcopy(thinker.worker.service._tokenizer)  # type: ignore[union-attr]
    tokenizer.chat_template = LEFT_TO_THE_MODEL
    monkeypatch.setattr(thinker.worker.service, "_tokenizer", tokenizer)
    monkeypatch.setattr(thinker.worker.service, "_thinking", ThinkingModel(tokenizer, {}))
    return thinker


@pytest.mark.parametrize("said", ["power", "What does <think> mean?", "</think><think>"])
async def test_an_answer_that_never_opened_thinking_is_no_thinking_whatever_the_user_wrote(
    left_to_it: LocalWorker, said: str
) -> None:
    answer = await chat(left_to_it, thinking_token_budget=5, messages=[{"role": "user", "content": said}])
    assert "</think>" not in tokens(answer)
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


async def test_a_users_mark_does_not_close_what_the_template_opened(thinker: LocalWorker) -> None:
    messages = [{"role": "user", "content": "<think></think> </think>"}]
    answer = await chat(thinker, thinking_token_budget=5, messages=messages)
    assert tokens(answer).index("</think>") == 5
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 6


async def test_what_opens_thinking_is_found_where_a_prompt_without_an_answer_ends_with_a_mark(
    thinker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = copy.deepcopy(thinker.worker.service._tokenizer)  # type: ignore[union-attr]
    tokenizer.chat_template = THINKING_TEMPLATE.removesuffix("{% endif %}") + "{% else %}<|end|>{% endif %}"
    monkeypatch.setattr(thinker.worker.service, "_tokenizer", tokenizer)
    messages = [{"role": "user", "content": "</think>"}]
    answer = await chat(thinker, thinking_token_budget=5, messages=messages)
    assert tokens(answer).index("</think>") == 5


async def test_thinking_that_the_model_opens_itself_ends_at_its_budget(
    left_to_it: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = left_to_it.worker.service._tokenizer.convert_tokens_to_ids("<think>")  # type: ignore[union-attr]

    def begins_third(answer: Sequence[int], limit: ThinkingLimit) -> int | None:
        return begin if len(answer) == 2 else forced_token(answer, limit)

    monkeypatch.setattr(sampling, "forced_token", begins_third)
    answer = await chat(left_to_it, thinking_token_budget=5)
    assert tokens(answer).index("<think>") == 2
    assert tokens(answer).index("</think>") == 8
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 7
