"""One request in the decoder: its tokens as they come, and what is needed to run it again when the loop died."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from lowbeam_worker.energy.ledger import Account
from lowbeam_worker.engines.continuous import PAGE_TOKENS
from lowbeam_worker.engines.sampling import Chooser, SamplingWish, TokenLogprobs


class BadRequestError(ValueError):
    """A request that would kill the loop; the message says what is wrong with it."""


class GenerationFailedError(RuntimeError):
    """The loop died because of this request, or was stopped with it inside."""


class Generation:
    """Iterate over it for its tokens, `cancel` it at its engine when nobody wants more.

    `eager`: tokens come one by one; else all at the end, without waking the reader for each.
    """

    def __init__(
        self,
        name: str,
        ids: Sequence[int],
        max_new_tokens: int,
        wish: SamplingWish,
        account: Account,
        *,
        penalty: RepetitionPenaltyLogitsProcessor | None = None,
        eager: bool = True,
    ) -> None:
        self.name = name
        self.ids = list(ids)
        self.max_new_tokens = max_new_tokens
        self.wish = wish
        self.account = account
        self.tokens: list[int] = []
        """The answer so far."""
        self.suspect = False
        """It was in a step that killed the loop, and has not survived a step since."""
        self.deaths = 0
        """How many deaths of the loop in a row it was in without anyone to blame."""
        self.chooser = None if wish.is_plain and penalty is None else Chooser(wish, len(self.ids), penalty)
        self.submitted_s = time.monotonic()
        self.entered_s: float | None = None
        """When it got its slot first."""
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self._eager = eager
        self._told = 0
        """How many of `tokens` went to the reader."""
        self._gaps_s: list[float] = []
        self._carried = 0
        self._news: asyncio.Queue[list[int] | Exception | None] = asyncio.Queue()

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        """One for each of `tokens`; empty where none were asked for."""
        return self.chooser.logprobs[: len(self.tokens)] if self.chooser else []

    @property
    def timing(self) -> tuple[float, float, float] | None:
        """Seconds until its slot, from there to the first token, and from there to the newest; None without a token."""
        if self.entered_s is None or self.first_token_s is None or self.last_token_s is None:
            return None
        return (
            self.entered_s - self.submitted_s,
            self.first_token_s - self.entered_s,
            self.last_token_s - self.first_token_s,
        )

    def take_gaps(self) -> list[float]:
        """Seconds from one token to the next, of those that came since this was asked last."""
        gaps, self._gaps_s = self._gaps_s, []
        return gaps

    @property
    def cache_tokens(self) -> int:
        """Cache that it needs until its last token, in whole pages."""
        return -(-(len(self.ids) + self.max_new_tokens) // PAGE_TOKENS) * PAGE_TOKENS

    @property
    def sequence(self) -> list[int]:
        """Prompt and answer so far: what a loop is given."""
        return [*self.ids, *self.tokens]

    @property
    def tokens_left(self) -> int:
        """How many more may come."""
        return self.max_new_tokens - len(self.tokens)

    async def __aiter__(self) -> AsyncIterator[list[int]]:
        """Newly generated tokens, as they come; raises GenerationFailedError."""
        while (news := await self._news.get()) is not None:
            if isinstance(news, Exception):
                raise news
            yield news

    def enters_loop(self) -> None:
        """What a loop generates from here on comes after `tokens`."""
        self.entered_s = self.entered_s or time.monotonic()
        self._carried = len(self.tokens)
        if self.chooser:
            del self.chooser.logprobs[self._carried :]  # of a step whose token never arrived

    def push(self, generated: Sequence[int]) -> None:
        """All tokens of the present loop."""
        fresh = list(generated[len(self.tokens) - self._carried :])
        if fresh:
            now_s = time.monotonic()
            if self.last_token_s is not None:
                self._gaps_s += [(now_s - self.last_token_s) / len(fresh)] * len(fresh)
            self.last_token_s = now_s
            self.first_token_s = self.first_token_s or now_s
            self.tokens.extend(fresh)
            if self._eager:
                self._tell()

    def end(self, error: Exception | None = None) -> None:
        """There will be no more."""
        if len(self.tokens) > self._told:
            self._tell()
        self._news.put_nowait(error)

    def _tell(self) -> None:
        self._news.put_nowait(self.tokens[self._told :])
        self._told = len(self.tokens)
