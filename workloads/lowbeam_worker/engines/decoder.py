"""The decoder: admission in front of continuous batching, and a supervisor behind it.

A single bad request (too long for the cache, a token id out of range, empty) kills transformers' loop for everyone, so
each request is checked before it is queued. Should the loop die all the same, the requests in it fail, those still
waiting are kept, and a new loop is started; after `MOST_RESTARTS` in a row without a finished request the engine gives
up.

Admission: first in, first out, under the batch limit, and only when the cache can hold the request to its last token; a
cache that is promised twice would throw away and recompute, which costs joules. A lowered batch limit counts from the
next step; requests beyond it keep their place and finish later.

Everything here runs in the event loop, except the step listener and the (re)start.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from lowbeam_worker.energy.ledger import Account, Ledger
from lowbeam_worker.engines.base import EngineStats
from lowbeam_worker.engines.continuous import PAGE_TOKENS, ContinuousBatching, choose_sizes
from lowbeam_worker.models import CannotLoadError, Loaded

log = logging.getLogger(__name__)

MOST_RESTARTS = 5
_WATCH_SECONDS = 0.25


class BadRequestError(ValueError):
    """A request that would kill the loop; the message says what is wrong with it."""


class GenerationFailedError(RuntimeError):
    """The loop died, or was stopped, with this request in it."""


@dataclass(frozen=True, slots=True)
class SamplingWish:
    """How tokens are drawn; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def for_engine(self) -> dict[str, Any]:
        """Nothing for a greedy request."""
        return (
            {} if self.temperature == 0 else {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        )


class Generation:
    """One request in the engine; iterate over it for its tokens, cancel it when nobody wants more."""

    def __init__(
        self, name: str, ids: Sequence[int], max_new_tokens: int, wish: SamplingWish, account: Account
    ) -> None:
        self.name = name
        self.ids = ids
        self.max_new_tokens = max_new_tokens
        self.wish = wish
        self.account = account
        self.tokens: list[int] = []
        self._news: asyncio.Queue[list[int] | Exception | None] = asyncio.Queue()

    @property
    def cache_tokens(self) -> int:
        """Cache that it needs until its last token, in whole pages."""
        return -(-(len(self.ids) + self.max_new_tokens) // PAGE_TOKENS) * PAGE_TOKENS

    async def __aiter__(self) -> AsyncIterator[list[int]]:
        """Newly generated tokens, as they come; raises GenerationFailedError."""
        while (news := await self._news.get()) is not None:
            if isinstance(news, Exception):
                raise news
            yield news

    def _push(self, tokens: Sequence[int]) -> None:
        fresh = list(tokens[len(self.tokens) :])
        if fresh:
            self.tokens.extend(fresh)
            self._news.put_nowait(fresh)

    def _end(self, error: Exception | None = None) -> None:
        self._news.put_nowait(error)


class DecoderEngine:
    """Runs one causal language model."""

    def __init__(self, loaded: Loaded, ledger: Ledger, *, batch_limit: int) -> None:
        config = loaded.model.config.get_text_config()
        self._model = loaded.model
        self._ledger = ledger
        self._sizes = choose_sizes(config, loaded.model.dtype, loaded.device)
        if batch_limit > self._sizes.requests:
            raise CannotLoadError(
                f"--batch-limit {batch_limit} is above {self._sizes.requests}, the ceiling on this device"
            )
        self._limit = batch_limit
        self.vocabulary = int(config.vocab_size)
        self.context_tokens = min(int(config.max_position_embeddings), self._sizes.cache_tokens)
        self.eos_token_ids = frozenset(_eos_token_ids(loaded))
        self._loop: ContinuousBatching | None = None
        self._waiting: deque[Generation] = deque()
        self._running: dict[str, Generation] = {}
        self._nobody = ledger.open_account(time.monotonic())
        self._names = (f"r{number}" for number in itertools.count())
        self._watch: asyncio.Task[None] | None = None
        self._restarts = self._restarts_in_a_row = 0
        self._failed: str | None = None
        self._stopping = False

    # --- Engine ------------------------------------------------------------------------------------------------------

    @property
    def batch_limit(self) -> int:
        """Most requests in one step."""
        return self._limit

    @property
    def batch_limit_ceiling(self) -> int:
        """Buffers are reserved for so many."""
        return self._sizes.requests

    @property
    def failed(self) -> str | None:
        """Why the engine gave up, or None."""
        return self._failed

    def start(self) -> None:
        """Start the supervisor, which starts the loop."""
        self._watch = asyncio.get_running_loop().create_task(self._supervise(), name="decoder-supervisor")

    async def stop(self) -> None:
        """Stop the supervisor, then the loop; requests still in it fail."""
        self._stopping = True
        if self._watch is not None:
            await self._watch  # not cancelled: it may be starting a loop, whose thread would outlive it
        loop, self._loop = self._loop, None
        self._fail([*self._running.values(), *self._waiting], "the worker is shutting down")
        self._waiting.clear()
        if loop is not None:
            await asyncio.to_thread(loop.stop)

    def set_batch_limit(self, limit: int) -> None:
        """From the next step on; what is running finishes."""
        self._limit = limit
        if self._loop is not None:
            self._loop.set_batch_limit(limit)
        self._admit()

    def stats(self) -> EngineStats:
        """Counts in requests."""
        used = sum(generation.cache_tokens for generation in list(self._running.values()))
        return EngineStats(
            len(self._running), len(self._waiting), restarts=self._restarts, cache_usage=used / self._sizes.cache_tokens
        )

    # --- requests ----------------------------------------------------------------------------------------------------

    def submit(self, ids: Sequence[int], max_new_tokens: int, wish: SamplingWish, account: Account) -> Generation:
        """Queue a request; raises BadRequestError for one that the loop would not survive."""
        if not ids:
            raise BadRequestError("the prompt is empty")
        if min(ids) < 0 or max(ids) >= self.vocabulary:
            raise BadRequestError(f"a token id is outside 0 to {self.vocabulary - 1}")
        if max_new_tokens < 1:
            raise BadRequestError("at least one token must be asked for")
        if len(ids) + max_new_tokens > self.context_tokens:
            raise BadRequestError(f"prompt and answer exceed {self.context_tokens} tokens")
        generation = Generation(next(self._names), ids, max_new_tokens, wish, account)
        if self._failed:
            generation._end(GenerationFailedError(self._failed))
        else:
            self._waiting.append(generation)
            self._admit()
        return generation

    def cancel(self, generation: Generation) -> None:
        """Free its slot; whoever iterates over it sees its end. Does nothing for one that is over."""
        if self._running.pop(generation.name, None) is not None:
            if self._loop is not None:
                self._loop.cancel(generation.name)
        elif generation in self._waiting:
            self._waiting.remove(generation)
        else:
            return
        generation._end()
        self._admit()

    def _admit(self) -> None:
        if self._loop is None or self._loop.why_dead():
            return  # the supervisor admits when there is a loop again
        promised = sum(generation.cache_tokens for generation in self._running.values())
        while self._waiting and len(self._running) < self._limit:
            generation = self._waiting[0]
            # The context may end between two pages: a request that fills it is admitted alone.
            if self._running and promised + generation.cache_tokens > self._sizes.cache_tokens:
                return
            self._running[generation.name] = generation
            accepted = self._loop.submit(
                generation.name,
                generation.ids,
                generation.max_new_tokens,
                generation.wish.for_engine(),
                self._handler(self._loop, generation),
            )
            if not accepted:
                del self._running[generation.name]
                return
            self._waiting.popleft()
            promised += generation.cache_tokens

    def _handler(self, loop: ContinuousBatching, generation: Generation) -> Any:
        def on_output(output: Any) -> None:
            if loop is not self._loop or generation.name not in self._running:
                return  # a late word from a loop that was replaced, or to a client that left
            generation._push(output.generated_tokens)
            if output.is_finished():
                del self._running[generation.name]
                if output.error is None:
                    self._restarts_in_a_row = 0
                    generation._end()
                else:
                    generation._end(GenerationFailedError(str(output.error)))
                self._admit()

        return on_output

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        while not self._stopping:
            reason = self._loop.why_dead() if self._loop else None
            if self._loop is None or reason:
                await self._replace_loop(reason)
                if self._failed:
                    return
            await asyncio.sleep(_WATCH_SECONDS)

    async def _replace_loop(self, reason: str | None) -> None:
        dead, self._loop = self._loop, None
        if dead is not None:
            log.error("the generation loop died and is started again: %s", reason)
            self._restarts += 1
            self._restarts_in_a_row += 1
            self._fail(list(self._running.values()), f"the generation loop died: {reason}")
            await asyncio.to_thread(dead.stop)
        if self._restarts_in_a_row > MOST_RESTARTS:
            self._give_up(f"it died {self._restarts_in_a_row} times in a row, last: {reason}")
            return
        try:
            loop = await asyncio.to_thread(
                ContinuousBatching, self._model, sorted(self.eos_token_ids), self._sizes, self._on_step
            )
        except Exception as error:
            log.exception("the generation loop does not start")
            self._give_up(str(error))
            return
        loop.set_batch_limit(self._limit)
        self._loop = loop
        self._admit()

    def _give_up(self, reason: str) -> None:
        self._failed = f"the generation loop cannot run: {reason}"
        self._fail([*self._running.values(), *self._waiting], self._failed)
        self._waiting.clear()

    def _fail(self, generations: Sequence[Generation], reason: str) -> None:
        for generation in generations:
            self._running.pop(generation.name, None)
            generation._end(GenerationFailedError(reason))

    def _on_step(self, began_s: float, ended_s: float, members: Sequence[tuple[str, int]]) -> None:
        """In the loop's thread. A member whose client left in this very moment is charged to nobody."""
        if ended_s:
            self._ledger.end_step(ended_s)
            return
        shares = []
        for name, tokens in members:
            generation = self._running.get(name)
            shares.append((generation.account if generation else self._nobody, tokens))
        self._ledger.begin_step(began_s, shares)


def _eos_token_ids(loaded: Loaded) -> list[int]:
    stated = loaded.model.generation_config.eos_token_id
    if stated is None:
        stated = loaded.tokenizer.eos_token_id
    return [] if stated is None else [stated] if isinstance(stated, int) else list(stated)
