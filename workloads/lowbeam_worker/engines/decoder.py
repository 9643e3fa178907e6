"""The decoder: admission in front of continuous batching, and a supervisor behind it.

A single bad request (too long for the cache, a token id out of range, empty) kills transformers' loop for everyone, so
each request is checked before it is queued. Should the loop die all the same, a new one is started and those that were
in it are run again from the token where they were, one suspect at a time and nobody new beside it: the loop dies again
only in the step of the culprit, which fails, and the others never notice. A request that was in `MOST_DEATHS` deaths
that nobody could be blamed for fails as well, so that each request costs a bounded number of restarts. The engine gives
up, for then the device is to blame, after `MOST_RESTARTS` in a row without a single new token, after
`MOST_RECENT_RESTARTS` within `RECENT_SECONDS`, or when a step takes longer than `LONGEST_STEP_SECONDS`.

Admission: first in, first out, under the batch limit, and only when the cache can hold the request to its last token; a
cache that is promised twice would throw away and recompute, which costs joules. A lowered limit counts from the next
step; requests beyond it keep their place and finish later.

Everything here runs in the event loop, except the step listener and the (re)start.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from lowbeam_worker.energy.ledger import Account, Ledger
from lowbeam_worker.engines.base import EngineClosedError, EngineStats, Limits, check_limits
from lowbeam_worker.engines.continuous import PAGE_TOKENS, ContinuousBatching, choose_sizes
from lowbeam_worker.engines.generation import BadRequestError, Generation, GenerationFailedError
from lowbeam_worker.engines.sampling import MOST_LOGPROBS, SamplingWish, repetition_penalty, unapplied
from lowbeam_worker.engines.steps import Steps
from lowbeam_worker.models import CannotLoadError, Loaded

__all__ = ["BadRequestError", "DecoderEngine", "Generation", "GenerationFailedError", "SamplingWish"]
log = logging.getLogger(__name__)

MOST_DEATHS = 3
MOST_RESTARTS = 5
MOST_RECENT_RESTARTS = 20
RECENT_SECONDS = 600.0
LONGEST_STEP_SECONDS = 300.0
_WATCH_SECONDS = 0.25


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
        self._limits = Limits(batch_limit, self._sizes.step_tokens)
        self.vocabulary = int(config.vocab_size)
        self.context_tokens = min(int(config.max_position_embeddings), self._sizes.cache_tokens)
        self.eos_token_ids = frozenset(_eos_token_ids(loaded))
        self.unapplied = unapplied(loaded.model.generation_config)
        """What the model's generation config asks for and does not get: answers are not those of `transformers`."""
        try:
            self._penalty = repetition_penalty(loaded.model.generation_config)
        except (TypeError, ValueError) as error:
            raise CannotLoadError(f"the model's generation_config.json is wrong: {error}") from error
        if self.unapplied:
            log.warning("of the model's generation_config.json these are not applied: %s", self.unapplied)
        self._loop: ContinuousBatching | None = None
        self._waiting: deque[Generation] = deque()
        self._running: dict[str, Generation] = {}
        self._names = (f"r{number}" for number in itertools.count())
        self._watch: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._restarts = self._restarts_in_a_row = 0
        self._recent_restarts: deque[float] = deque(maxlen=MOST_RECENT_RESTARTS)
        self._closed: str | None = None
        self._failed: str | None = None
        self._stopping = False
        self._steps = Steps(ledger, self._running)

    # --- Engine ------------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """In force from the next step on."""
        return self._limits

    @property
    def ceilings(self) -> Limits:
        """Buffers are reserved for so many."""
        return Limits(self._sizes.requests, self._sizes.step_tokens)

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
        self._closed = self._closed or "the worker is shutting down"
        self._wake.set()
        if self._watch is not None:
            # Not cancelled: it may be starting a loop, whose thread would outlive it. Nor may its failure keep a loop.
            await asyncio.wait({self._watch})
        loop, self._loop = self._loop, None
        self._fail([*self._running.values(), *self._waiting], "the worker is shutting down")
        self._waiting.clear()
        if loop is not None:
            await asyncio.to_thread(loop.stop)

    def set_limits(self, limits: Limits) -> None:
        """From the next step on; what is running finishes."""
        check_limits(limits, self.ceilings)
        self._limits = limits
        if self._loop is not None:
            self._loop.set_limits(limits)
        self._admit()

    async def swap(self, change: Callable[[], None]) -> int:
        """Alter the weights in place between two steps; the dtype of keys and values must stay as it is."""
        loop = self._loop
        if loop is None:
            raise EngineClosedError("the generation loop is being started; try again in a moment")
        touched = len(self._running)
        try:
            await asyncio.to_thread(loop.while_paused, change)
        except RuntimeError as error:
            if reason := loop.why_dead():
                raise EngineClosedError(f"the generation loop died before it could pause: {reason}") from error
            raise
        return touched

    async def drain(self) -> None:
        """Take nothing new; return when nothing is inside any more."""
        self._closed = self._closed or "the engine drains"
        await self._empty.wait()

    def stats(self) -> EngineStats:
        """Counts in requests."""
        used = sum(generation.cache_tokens for generation in self._running.values())
        return EngineStats(
            len(self._running),
            len(self._waiting),
            restarts=self._restarts,
            cache_usage=used / self._sizes.cache_tokens,
            cache_tokens=self._sizes.cache_tokens,
            cache_page_tokens=PAGE_TOKENS,
            steps=self._steps.count,
            tokens=self._steps.tokens,
            padded_tokens=self._steps.tokens,
            prices=self._steps.cost.prices,
        )

    # --- requests ----------------------------------------------------------------------------------------------------

    def submit(
        self, ids: Sequence[int], max_new_tokens: int, wish: SamplingWish, account: Account, *, eager: bool = True
    ) -> Generation:
        """Queue a request; raises BadRequestError for one that the loop would not survive, or EngineClosedError."""
        self._check(ids, max_new_tokens, wish)
        if self._closed or self._failed:
            raise EngineClosedError(self._failed or self._closed)
        generation = Generation(
            next(self._names), ids, max_new_tokens, wish, account, penalty=self._penalty, eager=eager
        )
        self._waiting.append(generation)
        self._empty.clear()
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
        generation.end()
        self._admit()

    def _check(self, ids: Sequence[int], max_new_tokens: int, wish: SamplingWish) -> None:
        thinking, top = wish.thinking, wish.top_logprobs
        problems = (
            (not ids, "the prompt is empty"),
            (bool(ids) and (min(ids) < 0 or max(ids) >= self.vocabulary), self._outside("a token id")),
            (max_new_tokens < 1, "at least one token must be asked for"),
            (len(ids) + max_new_tokens > self.context_tokens, f"prompt and answer exceed {self.context_tokens} tokens"),
            (not 0 <= wish.temperature <= 100, "the temperature is outside 0 to 100"),  # also false for NaN
            (not 0 < wish.top_p <= 1, "top-p is outside 0 to 1"),
            (top is not None and not 0 <= top <= MOST_LOGPROBS, "too many log-probabilities"),
            (thinking is not None and (thinking.tokens < 0 or not thinking.end_ids), "the thinking budget is wrong"),
            (
                thinking is not None and any(not 0 <= one < self.vocabulary for one in thinking.end_ids),
                self._outside("a token id of the end of thinking"),
            ),
        )
        if found := next((text for wrong, text in problems if wrong), None):
            raise BadRequestError(found)

    def _outside(self, what: str) -> str:
        return f"{what} is outside 0 to {self.vocabulary - 1}"

    def _admit(self) -> None:
        if not self._running and not self._waiting:
            self._empty.set()
            return
        if self._loop is None or self._loop.is_ending or self._loop.why_dead():
            return  # the supervisor admits when there is a loop again
        promised = sum(generation.cache_tokens for generation in self._running.values())
        while self._waiting and len(self._running) < self._limits.batch:
            generation = self._waiting[0]
            if any(other.suspect for other in self._running.values()):
                return  # nobody joins a suspect: who has not survived a step without it might be the culprit as well
            # The context may end between two pages: a request that fills it is admitted alone.
            if self._running and promised + generation.cache_tokens > self._sizes.cache_tokens:
                return
            if not self._enters(self._loop, generation):
                return
            if generation.name in self._running:
                promised += generation.cache_tokens

    def _enters(self, loop: ContinuousBatching, generation: Generation) -> bool:
        """Hand the first that waits to the loop. False: it takes no more; one that it cannot take in at all fails."""
        generation.enters_loop()
        self._running[generation.name] = generation
        try:
            accepted = loop.submit(
                generation.name,
                generation.sequence,
                generation.tokens_left,
                generation.chooser,
                self._handler(loop, generation),
                ignore_eos=generation.wish.ignore_eos,
            )
        except Exception as error:
            log.exception("the generation loop cannot take a request in")
            self._waiting.popleft()
            self._fail([generation], f"the generation loop cannot take it in: {error}")
            return True
        if accepted:
            self._waiting.popleft()
        else:
            del self._running[generation.name]
        return accepted

    def _handler(self, loop: ContinuousBatching, generation: Generation) -> Callable[[Any], None]:
        def on_output(output: Any) -> None:
            if loop is not self._loop or self._running.get(generation.name) is not generation:
                return  # a late word from a loop that was replaced, or to a client that left
            if output.error is not None:
                if loop.is_ending:
                    self._wake.set()  # not its own error: the supervisor finds out whose
                    return
                del self._running[generation.name]
                generation.end(GenerationFailedError(str(output.error)))
                self._admit()
                return
            self._restarts_in_a_row = 0
            generation.push(output.generated_tokens)
            cleared, generation.suspect = generation.suspect, False
            if output.is_finished():
                del self._running[generation.name]
                generation.end()
            if cleared or output.is_finished():
                self._admit()

        return on_output

    # --- the loop ----------------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        try:
            await self._keep_running()
        except Exception as error:  # nobody awaits this task while the engine runs: whoever waits would wait for ever
            log.exception("the supervisor of the generation loop failed")
            self._give_up(f"{type(error).__name__}: {error}")

    async def _keep_running(self) -> None:
        while not self._stopping:
            reason = self._loop.why_dead() if self._loop else None
            if self._loop is None or reason:
                await self._replace_loop(reason)
            elif self._steps.seconds_in_step(time.monotonic()) > LONGEST_STEP_SECONDS:
                self._give_up(f"a step takes longer than {LONGEST_STEP_SECONDS:.0f} s")
            if self._failed:
                return
            ending = self._loop is not None and self._loop.is_ending
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                # A loop that is ending tells its reason within milliseconds.
                await asyncio.wait_for(self._wake.wait(), 0.01 if ending else _WATCH_SECONDS)

    async def _replace_loop(self, reason: str | None) -> None:
        dead, self._loop = self._loop, None
        if dead is not None:
            log.error("the generation loop died and is started again: %s", reason)
            self._restarts += 1
            self._restarts_in_a_row += 1
            self._recent_restarts.append(time.monotonic())
            self._take_back(reason or "")
            await asyncio.to_thread(dead.stop)
        if self._restarts_in_a_row > MOST_RESTARTS:
            self._give_up(f"it died {self._restarts_in_a_row} times in a row, last: {reason}")
            return
        recent = self._recent_restarts
        if len(recent) == MOST_RECENT_RESTARTS and recent[-1] - recent[0] < RECENT_SECONDS:
            self._give_up(f"it died {len(recent)} times in {recent[-1] - recent[0]:.0f} s, last: {reason}")
            return
        try:
            loop = await asyncio.to_thread(
                ContinuousBatching, self._model, sorted(self.eos_token_ids), self._sizes, self._steps
            )
        except Exception as error:
            log.exception("the generation loop does not start")
            self._give_up(str(error))
            return
        loop.set_limits(self._limits)
        self._loop = loop
        self._admit()

    def _take_back(self, reason: str) -> None:
        """After a death: the culprit fails, if it is known; the others wait again, in their order, as suspects."""
        inside = list(self._running.values())
        self._running.clear()
        suspects = inside if len(inside) == 1 else [generation for generation in inside if generation.suspect]
        # With one suspect, or one request, it is the culprit: all the others have survived a step without it.
        found = len(suspects) == 1
        for generation in inside:
            generation.deaths = 0 if found else generation.deaths + 1
        guilty = suspects if found else [generation for generation in inside if generation.deaths >= MOST_DEATHS]
        self._fail(guilty, f"the generation loop died of it: {reason}")
        for generation in reversed(inside):
            if generation not in guilty:
                generation.suspect = True
                self._waiting.appendleft(generation)

    def _give_up(self, reason: str) -> None:
        self._failed = f"the generation loop cannot run: {reason}"
        log.error("%s", self._failed)
        self._fail([*self._running.values(), *self._waiting], self._failed)
        self._waiting.clear()

    def _fail(self, generations: Sequence[Generation], reason: str) -> None:
        for generation in generations:
            self._running.pop(generation.name, None)
            generation.end(GenerationFailedError(reason))
        if not self._running and not self._waiting:
            self._empty.set()


def _eos_token_ids(loaded: Loaded) -> list[int]:
    stated = loaded.model.generation_config.eos_token_id
    if stated is None:
        stated = loaded.tokenizer.eos_token_id
    if stated is None:
        return []
    ids = list(stated) if isinstance(stated, list | tuple) else [stated]
    if any(type(one) is not int for one in ids):
        raise CannotLoadError(
            f"the model's eos_token_id is {stated!r}, which is no token id; correct it in its generation_config.json"
        )
    return ids
