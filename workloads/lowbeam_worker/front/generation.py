"""Routes of decoders: /v1/chat/completions and /v1/completions, streamed or whole.

Prompts are rendered and tokenised in a thread of their own and checked against the context, before they reach the
engine. A client that leaves, or a stop sequence, frees the request's slot at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lowbeam_worker.energy.ledger import Account
from lowbeam_worker.engines.base import EngineClosedError
from lowbeam_worker.engines.decoder import DecoderEngine
from lowbeam_worker.engines.generation import BadRequestError, Generation, GenerationFailedError
from lowbeam_worker.engines.sampling import SamplingWish, ThinkingLimit, TokenLogprobs
from lowbeam_worker.front.openai_bodies import ChatBody, CompletionBody, SamplingBody, StreamOptions
from lowbeam_worker.front.reading import read_body
from lowbeam_worker.front.shapes import ChatShape, CompletionShape, Piece, Shape, token_counts, usage_body
from lowbeam_worker.front.shortening import CHARACTERS_PER_TOKEN
from lowbeam_worker.front.text import TextStream
from lowbeam_worker.front.thinking import ThinkingModel
from lowbeam_worker.refusal import Refusal, engine_failed, invalid, overloaded, too_long, unavailable, wrong_model
from lowbeam_worker.worker import Usage, Worker

MAX_WAITING_REQUESTS = 512
"""Beyond this many waiting requests a new one is refused with 429: it would wait longer than its client does."""
_WARM_UP_TOKENS = 4

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt, and the field it came from."""

    ids: list[int]
    param: str
    thinking: ThinkingLimit | None = None
    thinks: bool = False
    opens_thinking: bool = False
    """The answer begins in the middle of it."""


@dataclass(slots=True)
class _Answer:
    """One answer in the making."""

    generation: Generation
    account: Account
    text: TextStream
    prompt: _Prompt
    finish_reason: str = "length"
    waiting: list[TokenLogprobs] = field(default_factory=list)
    """Log-probabilities of tokens whose text is not certain yet."""
    told: int = 0
    """Tokens whose log-probabilities went out."""
    characters: int = 0
    """Characters that went out."""
    seen: int = 0
    """Tokens that were looked at, and count; the generation may be ahead, by what came after a stop sequence."""


class DecoderService:
    """Turns prompts into text."""

    def __init__(self, worker: Worker, model: str, engine: DecoderEngine, tokenizer: Any) -> None:
        self._worker = worker
        self._model = model
        self._engine = engine
        self._tokenizer = tokenizer
        self._thinking = ThinkingModel(tokenizer, worker.options.template_defaults)
        self._pool = ThreadPoolExecutor(1, "tokenizer")
        self.max_tokens = engine.context_tokens
        self.can_limit_thinking = self._thinking.can_limit
        self.routes = {"/v1/chat/completions": self.chat, "/v1/completions": self.completions}

    def model_type(self) -> dict[str, Any]:
        """Not one of TEI's; in the same place."""
        not_applied = sorted(self._engine.unapplied)
        return {
            "generation": {"thinking_budget": self.can_limit_thinking, "generation_config_not_applied": not_applied}
        }

    async def warm_up(self) -> None:
        """A short greedy prompt, a sampled one with log-probabilities, a prompt of several steps, and a full batch."""
        ids = self._tokenizer("warm up", add_special_tokens=False)["input_ids"] or [0]
        greedy, sampled = SamplingWish(), SamplingWish(temperature=1.0, top_p=0.9, seed=1, top_logprobs=1)
        long = (ids * self.max_tokens)[: min(self._engine.limits.step_tokens + 1, self.max_tokens - _WARM_UP_TOKENS)]
        for prompts, wish in (([ids], greedy), ([ids], sampled), ([long], greedy)):
            await asyncio.gather(*(self._run(prompt, wish) for prompt in prompts))
        await asyncio.gather(*(self._run(ids, greedy) for _ in range(self._engine.limits.batch)))

    async def _run(self, ids: list[int], wish: SamplingWish) -> None:
        account = self._worker.ledger.open_account(time.monotonic(), own=True)
        async for _ in self._engine.submit(ids, _WARM_UP_TOKENS, wish, account):
            pass

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat completions."""
        account = self._worker.ledger.open_account(time.monotonic())
        body = await read_body(request, ChatBody)
        self._check(body)
        self._check_length(sum(len(message.for_template()["content"]) for message in body.messages), "messages")
        prompt = await self._in_pool(lambda: self._render(body))
        answer = self._begin(body, prompt, account)
        shape = ChatShape(self._model, self._tokenizer, with_logprobs=body.wanted_logprobs is not None)
        return await self._respond(body, answer, shape)

    async def completions(self, request: Request) -> Response:
        """OpenAI's completions: one prompt, as text or as token ids."""
        account = self._worker.ledger.open_account(time.monotonic())
        body = await read_body(request, CompletionBody)
        self._check(body)
        given = body.prompt
        if isinstance(given, str):
            self._check_length(len(given), "prompt")
            ids = await self._in_pool(lambda: list(self._tokenizer(given, verbose=False)["input_ids"]))
        else:
            ids = list(given)
        answer = self._begin(body, _Prompt(ids, "prompt"), account)
        shape = CompletionShape(self._model, self._tokenizer, with_logprobs=body.wanted_logprobs is not None)
        return await self._respond(body, answer, shape)

    # --- in ----------------------------------------------------------------------------------------------------------

    async def _in_pool(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _check(self, body: SamplingBody) -> None:
        names = (self._model, *filter(None, [self._worker.options.served_name]))
        if body.model not in names:
            raise wrong_model(body.model, names)
        longest = self._worker.answers.longest
        param, asked = body.answer_tokens
        if asked is not None and asked > longest:
            raise invalid(f"This worker gives at most {longest} tokens per answer; {asked} were asked for.", param)

    def _check_length(self, characters: int, param: str) -> None:
        if characters > CHARACTERS_PER_TOKEN * self.max_tokens:
            raise too_long(
                f"The prompt has {characters} characters; this model's context is {self.max_tokens} tokens.", param
            )

    def _render(self, body: ChatBody) -> _Prompt:
        if not self._tokenizer.chat_template:
            raise invalid("This model has no chat template; use /v1/completions.", "messages")
        limits = self._worker.answers
        decided = self._thinking.decide(body, limits, body.answer_tokens[1] or limits.usual)
        messages = [message.for_template() for message in body.messages]

        def render(for_answer: bool) -> str:
            return str(
                self._tokenizer.apply_chat_template(
                    messages, add_generation_prompt=for_answer, tokenize=False, **decided.template
                )
            )

        try:
            text, opening = self._thinking.opening(render)
        except Exception as error:  # a template is a program of the model's author: it may refuse in any way
            raise invalid(f"The model's chat template refuses these messages: {error}", "messages") from error
        ids = list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        limit = self._thinking.limit(decided, opening)
        thinks, is_open = self._thinking.thinks(decided, opening), self._thinking.is_open(opening)
        return _Prompt(ids, "messages", limit, thinks, is_open)

    def _begin(self, body: SamplingBody, prompt: _Prompt, account: Account) -> _Answer:
        ids, context, (_, asked) = prompt.ids, self.max_tokens, body.answer_tokens
        if len(ids) + (asked or 1) > context:
            raise too_long(
                f"The prompt has {len(ids)} tokens and {asked or 'at least 1'} are asked for; "
                f"this model's context is {context} tokens.",
                prompt.param,
            )
        if self._engine.stats().waiting >= MAX_WAITING_REQUESTS:
            raise overloaded("The queue is full; send the request again in a moment.")
        # The engine takes a non-negative seed; an unseeded request gets a fresh one.
        seed = secrets.randbits(62) if body.seed is None else body.seed % (1 << 63)
        wish = SamplingWish(
            body.temperature, body.top_p, seed, body.wanted_logprobs, prompt.thinking, ignore_eos=body.ignore_eos
        )
        length = asked or min(self._worker.answers.usual, context - len(ids))
        try:
            # A stop sequence has to be found as soon as it is written.
            eager = body.stream or bool(body.stops)
            generation = self._engine.submit(ids, length, wish, account, eager=eager)
        except EngineClosedError as error:
            raise unavailable(f"{error}. Another replica may answer.") from error
        except BadRequestError as error:
            raise invalid(f"The request cannot be run: {error}.", prompt.param) from error
        text = TextStream(self._tokenizer, body.stops, whole=not eager)
        return _Answer(generation, account, text, prompt)

    # --- out ---------------------------------------------------------------------------------------------------------

    async def _pieces(self, answer: _Answer) -> AsyncIterator[Piece]:
        """Text as it comes; to be read under `_watched`."""
        generation, metrics, model = answer.generation, self._worker.metrics, self._model
        ends = frozenset() if generation.wish.ignore_eos else self._engine.eos_token_ids
        async for tokens in generation:
            if not answer.seen and generation.first_token_s is not None:
                metrics.first_token(model, generation.first_token_s - answer.account.opened_s)
            for gap_s in generation.take_gaps():
                metrics.next_token(model, gap_s)
            ended = tokens[-1] in ends
            said = tokens[:-1] if ended else tokens
            answer.waiting += generation.logprobs[answer.seen : answer.seen + len(said)]
            answer.seen += len(tokens)
            piece = self._certain(answer, answer.text.push(said))
            if piece.text:
                yield piece
            if ended or answer.text.stopped:
                break
        if generation.tokens and generation.tokens[-1] in ends:
            answer.finish_reason = "stop"
        rest = self._certain(answer, answer.text.finish(), is_last=True)
        if answer.text.stopped:
            answer.finish_reason = "stop"
        if rest.text or rest.logprobs:
            yield rest

    @contextlib.contextmanager
    def _watched(self, answer: _Answer) -> Iterator[None]:
        """Around everything that reads an answer: its slot is free afterwards, however that ends."""
        try:
            yield
        except (GeneratorExit, asyncio.CancelledError):
            self._worker.metrics.ended(self._model, "abort")
            raise
        except GenerationFailedError as error:
            self._worker.metrics.ended(self._model, "error")
            raise engine_failed(f"{error}. Send the request again.") from error
        finally:
            self._engine.cancel(answer.generation)

    def _certain(self, answer: _Answer, text: str, *, is_last: bool = False) -> Piece:
        """The text and the tokens that made it; tokens of held text wait, those of a stop sequence never go out."""
        answer.characters += len(text)
        if answer.text.stopped:
            self._drop_stop(answer)
        elif answer.text.holds and not is_last:
            return Piece(text)
        ready, answer.waiting = answer.waiting, []
        answer.told += len(ready)
        return Piece(text, ready)

    def _drop_stop(self, answer: _Answer) -> None:
        for kept in range(len(answer.waiting)):
            ids = answer.generation.tokens[: answer.told + kept + 1]
            if len(self._tokenizer.decode(ids, skip_special_tokens=True)) > answer.characters:
                del answer.waiting[kept:]
                return

    def _usage(self, answer: _Answer) -> Usage:
        generation = answer.generation
        if timing := generation.timing:
            self._worker.metrics.generated(self._model, *timing, len(generation.tokens))
        return self._worker.usage(self._model, answer.account, len(generation.ids), answer.seen, answer.finish_reason)

    def _usage_body(self, answer: _Answer, usage: Usage) -> dict[str, Any]:
        if not answer.prompt.thinks:
            return usage_body(usage, None)
        thought = self._thinking.tokens(answer.generation.tokens[: answer.seen], is_open=answer.prompt.opens_thinking)
        return usage_body(usage, thought)

    async def _respond(self, body: SamplingBody, answer: _Answer, shape: Shape) -> Response:
        if body.stream:
            events = self._events(body, answer, shape)
            await anext(events)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        with self._watched(answer):
            pieces = [piece async for piece in self._pieces(answer)]
        whole = Piece("".join(piece.text for piece in pieces), [one for piece in pieces for one in piece.logprobs])
        usage = self._usage(answer)
        content = shape.whole(whole, answer.finish_reason) | {"usage": self._usage_body(answer, usage)}
        return Response(orjson.dumps(content), headers=usage.headers(), media_type="application/json")

    async def _events(self, body: SamplingBody, answer: _Answer, shape: Shape) -> AsyncIterator[bytes]:
        """The first item is empty and not for the client: a generator that has not begun frees nothing when it is
        closed, and a client may leave before its answer begins."""
        options = body.stream_options or StreamOptions()

        def so_far() -> dict[str, Any]:
            if not options.include_usage:
                return {}
            count = token_counts(len(answer.generation.ids), answer.seen)
            return {"usage": count if options.continuous_usage_stats else None}

        try:
            with self._watched(answer):
                yield b""
                if (first := shape.first()) is not None:
                    yield _event(first | so_far())
                async for piece in self._pieces(answer):
                    yield _event(shape.piece(piece) | so_far())
            usage = self._usage(answer)
            yield _event(shape.last(answer.finish_reason) | so_far())
            if options.include_usage:
                yield _event(shape.frame([]) | {"usage": self._usage_body(answer, usage)})
        except Refusal as refusal:
            yield _event(refusal.body())  # the status line is long gone
        yield b"data: [DONE]\n\n"


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"
