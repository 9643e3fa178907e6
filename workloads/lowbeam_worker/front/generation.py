"""Routes of decoders: /v1/chat/completions and /v1/completions, streamed or whole.

Prompts are rendered and tokenised in a thread of their own and checked against the context, before they reach the
engine. A client that leaves, or a stop sequence, frees the request's slot at once.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lowbeam_worker.energy.ledger import Account
from lowbeam_worker.engines.decoder import (
    BadRequestError,
    DecoderEngine,
    Generation,
    GenerationFailedError,
    SamplingWish,
)
from lowbeam_worker.front.requests import ChatBody, CompletionBody, SamplingBody, read_body
from lowbeam_worker.front.text import TextStream
from lowbeam_worker.refusal import Refusal, engine_failed, invalid, overloaded, too_long, wrong_model
from lowbeam_worker.worker import Usage, Worker

MAX_WAITING_REQUESTS = 512
"""Beyond this many waiting requests a new one is refused with 429: it would wait longer than its client does."""


@dataclass(slots=True)
class _Answer:
    """One answer in the making."""

    generation: Generation
    account: Account
    text: TextStream
    finish_reason: str = "length"


class DecoderService:
    """Turns prompts into text."""

    def __init__(self, worker: Worker, engine: DecoderEngine, tokenizer: Any) -> None:
        self._worker = worker
        self._engine = engine
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(1, "tokenizer")

    async def warm_up(self) -> None:
        """A prompt and a few tokens, greedy and sampled, through the engine."""
        ids = self._tokenizer("warm up", add_special_tokens=False)["input_ids"] or [0]
        for wish in (SamplingWish(), SamplingWish(temperature=1.0, top_p=0.9, seed=1)):
            account = self._worker.ledger.open_account(time.monotonic())
            async for _ in self._engine.submit(ids, 4, wish, account):
                pass

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat completions."""
        account = self._worker.ledger.open_account(time.monotonic())
        body = await read_body(request, ChatBody)
        messages = [message.for_template() for message in body.messages]
        ids = await self._in_pool(lambda: self._render(messages))
        answer = self._begin(body, ids, "messages", account)
        return await self._respond(body, answer, _ChatShape(body.model))

    async def completions(self, request: Request) -> Response:
        """OpenAI's completions: one prompt, as text or as token ids."""
        account = self._worker.ledger.open_account(time.monotonic())
        body = await read_body(request, CompletionBody)
        prompt = body.prompt
        ids = (
            list(prompt)
            if isinstance(prompt, list)
            else await self._in_pool(lambda: self._tokenizer(prompt)["input_ids"])
        )
        answer = self._begin(body, ids, "prompt", account)
        return await self._respond(body, answer, _CompletionShape(body.model))

    # --- in ----------------------------------------------------------------------------------------------------------

    async def _in_pool(self, work: Callable[[], list[int]]) -> list[int]:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _render(self, messages: list[dict[str, str]]) -> list[int]:
        if not self._tokenizer.chat_template:
            raise invalid("This model has no chat template; use /v1/completions.", "messages")
        try:
            text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template is a program of the model's author: it may refuse in any way
            raise invalid(f"The model's chat template refuses these messages: {error}", "messages") from error
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _begin(self, body: SamplingBody, ids: list[int], param: str, account: Account) -> _Answer:
        served, context = self._worker.options.model, self._engine.context_tokens
        if body.model != served:
            raise wrong_model(body.model, served)
        longest = self._worker.options.max_output_tokens
        asked = body.answer_tokens
        if asked is not None and asked > longest:
            raise invalid(
                f"This worker gives at most {longest} tokens per answer; {asked} were asked for.", "max_tokens"
            )
        if len(ids) + (asked or 1) > context:
            raise too_long(
                f"The prompt has {len(ids)} tokens and {asked or 'at least 1'} are asked for; "
                f"this model's context is {context} tokens.",
                param,
            )
        if self._engine.stats().waiting >= MAX_WAITING_REQUESTS:
            raise overloaded("The queue is full; send the request again in a moment.")
        # The engine takes a non-negative seed; an unseeded request gets a fresh one.
        seed = secrets.randbits(62) if body.seed is None else body.seed % (1 << 63)
        wish = SamplingWish(body.temperature, body.top_p, seed)
        try:
            generation = self._engine.submit(ids, asked or min(longest, context - len(ids)), wish, account)
        except BadRequestError as error:
            raise invalid(f"The request cannot be run: {error}.", param) from error
        return _Answer(generation, account, TextStream(self._tokenizer, body.stops))

    # --- out ---------------------------------------------------------------------------------------------------------

    async def _pieces(self, answer: _Answer) -> AsyncIterator[str]:
        """Text as it comes; cancels the generation whenever the reader stops reading."""
        generation, metrics, model = answer.generation, self._worker.metrics, self._worker.options.model
        previous = 0.0
        try:
            async for tokens in generation:
                now = time.monotonic()
                if previous:
                    metrics.next_token(model, (now - previous) / len(tokens))
                else:
                    metrics.first_token(model, now - answer.account.opened_s)
                previous = now
                ended = tokens[-1] in self._engine.eos_token_ids
                text = answer.text.push(tokens[:-1] if ended else tokens)
                if text:
                    yield text
                if ended or answer.text.stopped:
                    answer.finish_reason = "stop"
                    break
            rest = answer.text.finish()
            if answer.text.stopped:
                answer.finish_reason = "stop"
            if rest:
                yield rest
        except GenerationFailedError as error:
            raise engine_failed(f"{error}. Send the request again.") from error
        finally:
            self._engine.cancel(generation)

    def _usage(self, answer: _Answer) -> Usage:
        return self._worker.usage(answer.account, len(answer.generation.ids), len(answer.generation.tokens))

    async def _respond(self, body: SamplingBody, answer: _Answer, shape: _Shape) -> Response:
        if body.stream:
            events = self._events(body, answer, shape)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        text = "".join([piece async for piece in self._pieces(answer)])
        usage = self._usage(answer)
        content = orjson.dumps(shape.whole(text, answer.finish_reason) | {"usage": _usage_body(usage)})
        return Response(content, headers=usage.headers(), media_type="application/json")

    async def _events(self, body: SamplingBody, answer: _Answer, shape: _Shape) -> AsyncIterator[bytes]:
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        extra: dict[str, Any] = {"usage": None} if with_usage else {}
        pieces = self._pieces(answer)
        try:
            if (first := shape.first()) is not None:
                yield _event(first | extra)
            async for text in pieces:
                yield _event(shape.piece(text) | extra)
            usage = self._usage(answer)
            yield _event(shape.last(answer.finish_reason) | extra)
            if with_usage:
                yield _event(shape.frame([]) | {"usage": _usage_body(usage)})
        except Refusal as refusal:
            yield _event(refusal.body())  # the status line is long gone
        finally:
            await pieces.aclose()  # type: ignore[attr-defined] # an async generator, though declared as an iterator
            self._engine.cancel(answer.generation)
        yield b"data: [DONE]\n\n"


class _Shape:
    """The JSON around an answer; the two routes differ in little else."""

    prefix = ""
    whole_object = ""
    piece_object = ""

    def __init__(self, model: str) -> None:
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = model

    def frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """One event of a stream."""
        return self._frame(self.piece_object, choices)

    def first(self) -> dict[str, Any] | None:
        """The event before any text."""
        return None

    def piece(self, text: str) -> dict[str, Any]:
        """An event with text."""
        raise NotImplementedError

    def last(self, finish_reason: str) -> dict[str, Any]:
        """The event that says why it ends."""
        raise NotImplementedError

    def whole(self, text: str, finish_reason: str) -> dict[str, Any]:
        """The answer in one piece."""
        raise NotImplementedError

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}


class _ChatShape(_Shape):
    prefix = "chatcmpl"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def first(self) -> dict[str, Any]:
        return self._delta({"role": "assistant", "content": ""})

    def piece(self, text: str) -> dict[str, Any]:
        return self._delta({"content": text})

    def last(self, finish_reason: str) -> dict[str, Any]:
        return self._delta({}, finish_reason)

    def whole(self, text: str, finish_reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return self._frame(self.whole_object, [choice])

    def _delta(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        return self.frame([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])


class _CompletionShape(_Shape):
    prefix = "cmpl"
    whole_object = piece_object = "text_completion"

    def piece(self, text: str) -> dict[str, Any]:
        return self.whole(text, None)

    def last(self, finish_reason: str) -> dict[str, Any]:
        return self.whole("", finish_reason)

    def whole(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return self.frame([{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}])


def _usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "energy": usage.energy,
    }


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"
