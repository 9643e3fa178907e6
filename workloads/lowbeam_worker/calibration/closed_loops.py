"""The engines that are measured, under closed loops through the interface that the front uses.

Decides the load of a point: always as many requests as its batch, and never an empty queue behind an encoder's batch.
Every prompt and answer is as long as the profile says; prompts are random token ids, so that nothing is shared between
them, and an answer does not end before its length.

A decoder's first answers have different lengths: requests that begin together would read their prompts together and
end together for ever, and a window would see one wave more or less.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from lowbeam_worker.building import CPU_TOKENS, GPU_TOKENS
from lowbeam_worker.calibration.load import Load, LoadFailedError, Seen, StepWatch
from lowbeam_worker.calibration.options import CalibrationOptions
from lowbeam_worker.engines.base import Engine, Limits
from lowbeam_worker.engines.decoder import DecoderEngine, SamplingWish
from lowbeam_worker.engines.encoder import EncoderEngine
from lowbeam_worker.engines.packing import pack
from lowbeam_worker.heads import class_logits, span_logits, token_logits
from lowbeam_worker.models import CannotLoadError, Loaded
from lowbeam_worker.options import Task
from lowbeam_worker.sentence import embedder, max_tokens, read_recipe

_GREEDY = SamplingWish()


def loaded_engine(options: CalibrationOptions, loaded: Loaded, watch: StepWatch) -> tuple[Engine, Load]:
    """The engine that the worker would run, and its load; raises CannotLoadError for lengths that it does not take."""
    special = set(loaded.tokenizer.all_special_ids)
    ids = [number for number in range(len(loaded.tokenizer)) if number not in special]
    if options.task.generative:
        decoder = DecoderEngine(loaded, watch, batch_limit=1)
        _check_length(options.input_tokens + options.output_tokens, decoder.context_tokens)
        decoder.eos_token_ids = frozenset()  # an answer ends at its length, whatever the model would like to say
        known = [number for number in ids if number < decoder.vocabulary]
        return decoder, DecoderLoad(decoder, watch, known, (options.input_tokens, options.output_tokens))
    recipe = read_recipe(loaded.folder) if options.task is Task.FEATURE_EXTRACTION else None
    _check_length(options.input_tokens, max_tokens(loaded, recipe))
    heads = {Task.TOKEN_CLASSIFICATION: token_logits, Task.QUESTION_ANSWERING: span_logits}
    encoder = EncoderEngine(
        embedder(loaded, recipe) if recipe else heads.get(options.task, class_logits)(loaded),
        watch,
        batch_limit=1,
        token_budget=GPU_TOKENS if loaded.device.type == "cuda" else CPU_TOKENS,
        packed=pack(loaded.model),
    )
    return encoder, EncoderLoad(encoder, watch, ids, options.input_tokens)


def _check_length(asked: int, most: int) -> None:
    if asked > most:
        raise CannotLoadError(f"{asked} tokens are asked for and the model takes {most}; lower --input-tokens")


class _Slots:
    """Tasks that each keep one request in the engine."""

    def __init__(self, watch: StepWatch) -> None:
        self._watch = watch
        self._tasks: list[asyncio.Task[None]] = []

    def together(self) -> tuple[float, float]:
        """Seconds of steps so far, and the same times the requests in them."""
        return self._watch.busy_s, self._watch.member_s

    def check(self) -> None:
        """Raises LoadFailedError when a request has failed."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise LoadFailedError(f"{type(error).__name__}: {error}") from error

    async def stop(self) -> None:
        """Take them out."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, slots: Sequence[Coroutine[Any, Any, None]]) -> None:
        self._tasks = [asyncio.create_task(slot) for slot in slots]


class DecoderLoad(_Slots):
    """As many requests as the batch; the next one begins when one ends."""

    def __init__(self, engine: DecoderEngine, watch: StepWatch, ids: Sequence[int], tokens: tuple[int, int]) -> None:
        super().__init__(watch)
        self._engine = engine
        self._ids = ids
        self._input_tokens, self._output_tokens = tokens
        self._chance = random.Random(0)  # noqa: S311 - prompts, not secrets
        self._seen: Seen | None = None
        self._written = self._finished = self._settled = self._batch = self._restarts = 0

    @property
    def most(self) -> tuple[int, str]:
        """By the key-value cache and the engine's buffers."""
        stats, ceiling = self._engine.stats(), self._engine.ceilings.batch
        page, cache = stats.cache_page_tokens or 1, stats.cache_tokens or 0
        tokens = self._input_tokens + self._output_tokens
        fits = cache // (-(-tokens // page) * page)
        if fits < ceiling:
            return fits, f"the key-value cache of {cache} tokens holds {fits} requests of {tokens}"
        return ceiling, f"the engine runs at most {ceiling} requests together"

    @property
    def settled(self) -> bool:
        """True when the answers of different lengths are through."""
        return self._settled == self._batch

    def start(self, batch: int) -> None:
        """Keep so many requests in the engine."""
        self._engine.set_limits(Limits(batch, self._engine.limits.step_tokens))
        self._restarts = self._engine.stats().restarts
        self._batch, self._settled = batch, 0
        self._begin([self._slot(number) for number in range(batch)])

    def watch(self, seen: Seen | None) -> None:
        """Write down from now on what requests take; None: no more."""
        self._seen = seen

    def check(self) -> None:
        """Raises LoadFailedError when a request has failed, or the generation loop died and was started again."""
        super().check()
        if self._engine.stats().restarts > self._restarts:
            raise LoadFailedError("the generation loop died under it")

    def requests(self) -> float:
        """By tokens written: answers are equally long."""
        return self._written / self._output_tokens

    def finished(self) -> int:
        """Requests that have ended so far."""
        return self._finished

    async def _slot(self, number: int) -> None:
        await self._one(max(1, self._output_tokens * (number + 1) // self._batch))
        self._settled += 1
        while True:
            await self._one(self._output_tokens)

    async def _one(self, tokens: int) -> None:
        prompt = self._chance.choices(self._ids, k=self._input_tokens)
        account = self._watch.open_account(time.monotonic())
        generation = self._engine.submit(prompt, tokens, _GREEDY, account)
        before_s: float | None = None
        try:
            async for news in generation:
                now_s = time.monotonic()
                self._written += len(news)
                if self._seen is not None and before_s is not None:
                    self._seen.between_tokens.add((now_s - before_s) / len(news), len(news))
                before_s = now_s
        finally:
            self._engine.cancel(generation)
        self._finished += 1
        if self._seen is not None and generation.timing is not None:
            _, reading_s, writing_s = generation.timing
            self._seen.first_token.add(reading_s)
            self._seen.latency.add(reading_s + writing_s)


class EncoderLoad(_Slots):
    """Twice as many rows as the batch: while one batch runs, the next one waits in full."""

    def __init__(self, engine: EncoderEngine, watch: StepWatch, ids: Sequence[int], input_tokens: int) -> None:
        super().__init__(watch)
        self._engine = engine
        self._ids = ids
        self._input_tokens = input_tokens
        self._chance = random.Random(0)  # noqa: S311 - prompts, not secrets
        self._failed_before = 0

    @property
    def most(self) -> tuple[int, str]:
        """By the budget of padded tokens, which the worker has too; a row that is longer goes alone."""
        budget = self._engine.limits.step_tokens
        rows = max(1, budget // self._input_tokens)
        return rows, f"a batch of {budget} padded tokens holds {rows} rows of {self._input_tokens}"

    @property
    def settled(self) -> bool:
        """Rows have no phases."""
        return True

    def start(self, batch: int) -> None:
        """Keep the engine's queue full."""
        self._engine.set_limits(Limits(batch, self._engine.limits.step_tokens))
        self._failed_before = self._failed_steps()
        self._begin([self._slot() for _ in range(2 * batch)])

    def watch(self, seen: Seen | None) -> None:
        """Write down from now on what batches take; None: no more."""
        self._watch.latency = None if seen is None else seen.latency

    def check(self) -> None:
        """Raises LoadFailedError when a row has failed, or batches have: the engine splits them until they pass."""
        super().check()
        # One step may have ended just now and not be counted by the engine yet.
        if self._failed_steps() - self._failed_before > 1:
            raise LoadFailedError("batches fail and only pass in halves, probably for want of memory")

    def requests(self) -> float:
        """Rows of batches that have ended."""
        return self._watch.rows

    def finished(self) -> int:
        """Rows of batches that have ended."""
        return self._watch.rows

    async def _slot(self) -> None:
        while True:
            row = self._chance.choices(self._ids, k=self._input_tokens)
            future = self._engine.submit(row, self._watch.open_account(time.monotonic()))
            try:
                await asyncio.wrap_future(future)
            finally:
                self._engine.cancel(future)

    def _failed_steps(self) -> int:
        return self._watch.steps - self._engine.stats().steps
