"""From texts to rows to figures: what every route of an encoder shares.

Texts are tokenised in a thread of their own, checked against the model's length, and queued row by row, so that rows of
different requests share batches. A client that leaves takes its waiting rows with it. Nothing is cut unless the client
says so: a text that is too long is refused with both lengths.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
import orjson
from starlette.responses import Response

from lowbeam_worker.energy.ledger import Account
from lowbeam_worker.engines.base import EngineClosedError
from lowbeam_worker.engines.encoder import EncoderEngine, Vector
from lowbeam_worker.front.reading import MAX_ROWS
from lowbeam_worker.front.shortening import Shortening
from lowbeam_worker.models import Loaded
from lowbeam_worker.refusal import engine_failed, invalid, overloaded, too_long, unavailable, wrong_model
from lowbeam_worker.rows import TokenRow, encoded_rows
from lowbeam_worker.worker import Usage, Worker

MAX_WAITING_ROWS = 4096
"""Beyond this many waiting rows a request is refused with 429: it would wait longer than its client does."""
_TOKENISED_AT_ONCE = 64
"""Rows of a request between two looks at their lengths."""
_COUNTED_CHARACTERS = 65536
"""So much of a text is counted at once: a text that has too many pieces is not read to its end."""

Text = tuple[str, ...]
"""One text, or a pair."""
Result = TypeVar("Result")


class RowRunner:
    """Tokenizer and engine of one encoder model, behind the checks."""

    def __init__(self, worker: Worker, model: str, engine: EncoderEngine, loaded: Loaded, max_tokens: int) -> None:
        self.worker = worker
        self.model = model
        """Its name, also while another one takes over."""
        self.tokenizer = loaded.tokenizer
        self.max_tokens = max_tokens
        self._engine = engine
        self._vocabulary = loaded.vocabulary
        self._shortening = Shortening(loaded.tokenizer)
        self._pool = ThreadPoolExecutor(1, "tokenizer")

    def account(self) -> Account:
        """For a request that begins now."""
        return self.worker.ledger.open_account(time.monotonic())

    def own_account(self) -> Account:
        """For a warm-up, which no request pays for."""
        return self.worker.ledger.open_account(time.monotonic(), own=True)

    def check_model(self, asked: str | None) -> None:
        """Where a body names the model, it must be this one."""
        names = (self.model, *filter(None, [self.worker.options.served_name]))
        if asked is not None and asked not in names:
            raise wrong_model(asked, names)

    async def in_pool(self, work: Callable[[], Result]) -> Result:
        """Run something that takes its time outside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def warm_up(self) -> None:
        """The shortest row, the longest row, and a batch that is as full as one request can make it."""
        ids = self.tokenizer("warm", add_special_tokens=False)["input_ids"][:1] or [0]
        short, long = TokenRow(ids), TokenRow(ids * self.max_tokens)
        for rows in ([short], [long], [short] * min(self._engine.limits.batch, MAX_ROWS)):
            await self.run(rows, self.own_account())

    async def tokenise(
        self, texts: Sequence[Text], *, param: str, truncate: bool = False, from_left: bool = False
    ) -> list[TokenRow]:
        """A row for each text or pair; Refusal for one that is empty or too long."""
        self.check_count(len(texts), param)

        def tokenise() -> list[TokenRow]:
            rows: list[TokenRow] = []
            given = self._checked(texts, param, truncate=truncate, from_left=from_left)
            batch = [text if len(text) == 2 else text[0] for text in given]
            previous, self.tokenizer.truncation_side = self.tokenizer.truncation_side, "left" if from_left else "right"
            try:
                limit = self.max_tokens if truncate else None
                # Pairs repeat a text, such as the query of a ranking: one that is too long shows in the first few.
                for start in range(0, len(batch), _TOKENISED_AT_ONCE):
                    part = batch[start : start + _TOKENISED_AT_ONCE]
                    encoded = self.tokenizer(part, truncation=truncate, max_length=limit, verbose=False)
                    for row in encoded_rows(encoded):
                        rows.append(self.checked_ids(row, len(rows), param))
            finally:
                self.tokenizer.truncation_side = previous
            return rows

        return await self.in_pool(tokenise)

    def check_count(self, rows: int, param: str) -> None:
        """Before anything is tokenised."""
        if not rows:
            raise invalid("There is no input.", param)
        if rows > MAX_ROWS:
            raise invalid(f"There are {rows} inputs; one request takes at most {MAX_ROWS}.", param)

    def count_pieces(self, before: int, text: str, room: int, overlap: int, param: str) -> int:
        """Pieces of a request: those before this text, and its own of up to `room` tokens, which overlap.

        Every piece has the overlap's tokens again, so that a short text can make millions of them: pieces are counted,
        and refused where there are too many, before any is made. A word that the count cuts in two may count twice.
        """
        tokens, pieces = 0, before + 1
        for start in range(0, len(text), _COUNTED_CHARACTERS):
            part = text[start : start + _COUNTED_CHARACTERS]
            tokens += len(self.tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])
            pieces = before + max(1, math.ceil((tokens - overlap) / (room - overlap)))
            if pieces > MAX_ROWS:
                raise invalid(f"There are at least {pieces} pieces; one request takes at most {MAX_ROWS}.", param)
        return pieces

    async def check_texts(self, texts: Sequence[str], param: str, *, truncate: bool = False) -> None:
        """What `tokenise` would refuse, for texts that are made into others first."""
        await self.in_pool(lambda: self._checked([(text,) for text in texts], param, truncate=truncate))

    def check_text(self, text: str, index: int, param: str, *, truncate: bool = False) -> None:
        """The same for one text; in the pool, for it may take its time."""
        self._checked([(text,)], param, index, truncate=truncate)

    def _checked(
        self, texts: Sequence[Text], param: str, first: int = 0, *, truncate: bool, from_left: bool = False
    ) -> list[Text]:
        """Not empty, and not so long that tokenising them would be a waste."""
        most, checked = self._shortening.characters_per_token * self.max_tokens, []
        # Pairs repeat a text, such as the query of a ranking.
        shorten = cache(lambda part: self._shortening(part, most, from_left=from_left))
        for index, text in enumerate(texts, first):
            if all(not part or part.isspace() for part in text):
                raise invalid(f"Input {index} is empty; send at least one word.", param)
            checked.append(tuple(map(shorten, text)))
            if not truncate and max(map(len, checked[-1])) > most:
                longest = max(map(len, text))
                message = f"Input {index} has {longest} characters; this model takes at most {self.max_tokens} tokens."
                raise too_long(message, param)
        return checked

    def checked_ids(self, ids: Sequence[int], index: int, param: str) -> TokenRow:
        """What would make the model fail is refused here."""
        if not ids:
            raise invalid(f"Input {index} has no tokens.", param)
        if len(ids) > self.max_tokens:
            raise too_long(f"Input {index} has {len(ids)} tokens; this model takes at most {self.max_tokens}.", param)
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            wrong = next(it for it in ids if not 0 <= it < self._vocabulary)
            raise invalid(f"Input {index} has the token id {wrong}; this model has 0 to {self._vocabulary - 1}.", param)
        return ids if isinstance(ids, TokenRow) else TokenRow(ids)

    async def run(self, rows: Sequence[TokenRow], account: Account, param: str = "inputs") -> list[Vector]:
        """The model's figures for each row, in order."""
        self.check_count(len(rows), param)
        if self._engine.stats().waiting + len(rows) > MAX_WAITING_ROWS:
            raise overloaded("The queue is full; send the request again in a moment.")
        futures = []
        try:
            for row in rows:
                futures.append(self._engine.submit(row, account))
            found = list(await asyncio.gather(*(asyncio.wrap_future(future) for future in futures)))
        except EngineClosedError as error:
            raise unavailable(f"{error}. Another replica may answer.") from error
        except asyncio.CancelledError:
            self.worker.metrics.ended(self.model, "abort")
            raise
        except Exception as error:
            self.worker.metrics.ended(self.model, "error")
            raise engine_failed(f"The model failed on this input: {type(error).__name__}.") from error
        finally:
            for future in futures:
                self._engine.cancel(future)
        self._check_finite(found, rows)
        return found

    def _check_finite(self, found: Sequence[Vector], rows: Sequence[TokenRow]) -> None:
        """JSON has no word for what is no number, and a null in its place would break clients that trusted it."""
        for index, (figures, row) in enumerate(zip(found, rows, strict=True)):
            # What stands behind a row's own tokens means nothing.
            if not np.isfinite(figures if figures.ndim == 1 else figures[: len(row)]).all():
                self.worker.metrics.ended(self.model, "error")
                raise engine_failed(
                    f"The model's figures for input {index} are no numbers; a wider precision (bf16, fp32) may help."
                )

    def usage(self, account: Account, rows: Sequence[TokenRow], output_tokens: int = 0) -> Usage:
        """Close the account of an answered request."""
        return self.worker.usage(self.model, account, sum(map(len, rows)), output_tokens)


def json_answer(document: object, usage: Usage) -> Response:
    """The answer, with the joules in the headers: most bodies have no place for them."""
    content = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, headers=usage.headers(), media_type="application/json")
