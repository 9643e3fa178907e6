"""Routes of encoders: /v1/embeddings and TEI's /predict.

Texts are tokenised in a thread of their own, checked against the model's length, and queued row by row, so that rows of
different requests share batches. A client that leaves takes its waiting rows with it.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from lowbeam_worker.energy.ledger import Account
from lowbeam_worker.engines.encoder import EncoderEngine, Vector
from lowbeam_worker.front.requests import MAX_ROWS, EmbeddingsBody, PredictBody, read_body
from lowbeam_worker.refusal import engine_failed, invalid, overloaded, too_long, wrong_model
from lowbeam_worker.worker import Usage, Worker

MAX_WAITING_ROWS = 4096
"""Beyond this many waiting rows a request is refused with 429: it would wait longer than its client does."""


class EncoderService:
    """Turns texts into rows of numbers."""

    def __init__(
        self, worker: Worker, engine: EncoderEngine, tokenizer: Any, *, max_tokens: int, labels: Sequence[str]
    ) -> None:
        self._worker = worker
        self._engine = engine
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._vocabulary = len(tokenizer)
        self._labels = labels
        self._pool = ThreadPoolExecutor(1, "tokenizer")

    async def warm_up(self) -> None:
        """One row of full length and one short one through tokenizer and engine."""
        account = self._worker.ledger.open_account(time.monotonic())
        texts = ["warm " * self._max_tokens, "up"]
        ids = await self._tokenise([(text,) for text in texts], truncate=True)
        await self._encode(ids, account)

    async def embeddings(self, request: Request) -> Response:
        """OpenAI's embeddings."""
        account = self._worker.ledger.open_account(time.monotonic())
        body = await read_body(request, EmbeddingsBody)
        if body.model != self._worker.options.model:
            raise wrong_model(body.model, self._worker.options.model)
        rows: list[Any] = [body.input] if isinstance(body.input, str) or _is_ids(body.input) else list(body.input)
        if rows and not isinstance(rows[0], str):
            ids = [self._checked_ids(row, index) for index, row in enumerate(rows)]
        else:
            ids = await self._tokenise([(row,) for row in rows], truncate=False)
        vectors = await self._encode(ids, account)
        usage = self._worker.usage(account, sum(len(row) for row in ids), 0)
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        answer = {
            "object": "list",
            "data": data,
            "model": body.model,
            "usage": {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens, "energy": usage.energy},
        }
        return _json(answer, usage)

    async def predict(self, request: Request) -> Response:
        """TEI's text classification: scores of all labels, best first."""
        account = self._worker.ledger.open_account(time.monotonic())
        body = await read_body(request, PredictBody)
        single = isinstance(body.inputs, str) or (bool(body.inputs) and isinstance(body.inputs[0], str))
        rows: list[Any] = [body.inputs] if single else list(body.inputs)
        texts: list[tuple[str, ...]] = [(row,) if isinstance(row, str) else tuple(row) for row in rows]
        ids = await self._tokenise(texts, truncate=body.truncate)
        scores = await self._encode(ids, account)
        usage = self._worker.usage(account, sum(len(row) for row in ids), 0)
        ranked = [
            [
                {"score": score, "label": label}
                for score, label in sorted(zip(row.tolist(), self._labels, strict=True), reverse=True)
            ]
            for row in scores
        ]
        # TEI's body has no place for usage: the joules travel in the headers.
        return _json(ranked[0] if single else ranked, usage)

    async def _tokenise(self, texts: Sequence[tuple[str, ...]], *, truncate: bool) -> list[list[int]]:
        for index, text in enumerate(texts):
            if not any(part.strip() for part in text):
                raise invalid(f"Input {index} is empty; send at least one word.", "input")
        if not texts:
            raise invalid("There is no input.", "input")
        batch = [text if len(text) == 2 else text[0] for text in texts]
        limit = self._max_tokens if truncate else None
        encoded = await asyncio.get_running_loop().run_in_executor(
            self._pool,
            lambda: self._tokenizer(batch, truncation=truncate, max_length=limit, verbose=False)["input_ids"],
        )
        return [self._checked_ids(ids, index) for index, ids in enumerate(encoded)]

    def _checked_ids(self, ids: Sequence[int], index: int) -> list[int]:
        if not ids:
            raise invalid(f"Input {index} has no tokens.", "input")
        if len(ids) > self._max_tokens:
            raise too_long(
                f"Input {index} has {len(ids)} tokens; this model takes at most {self._max_tokens}.", "input"
            )
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise invalid(f"Input {index} has a token id outside 0 to {self._vocabulary - 1}.", "input")
        return list(ids)

    async def _encode(self, ids: Sequence[Sequence[int]], account: Account) -> list[Vector]:
        if len(ids) > MAX_ROWS:
            raise invalid(f"There are {len(ids)} inputs; one request takes at most {MAX_ROWS}.", "input")
        if self._engine.stats().waiting + len(ids) > MAX_WAITING_ROWS:
            raise overloaded("The queue is full; send the request again in a moment.")
        futures = [self._engine.submit(row, account) for row in ids]
        try:
            return list(await asyncio.gather(*(asyncio.wrap_future(future) for future in futures)))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise engine_failed(f"The model failed on this input: {type(error).__name__}.") from error
        finally:
            for future in futures:
                future.cancel()


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], int)


def _encoded(vector: Vector, encoding: str) -> Any:
    return base64.b64encode(vector.tobytes()).decode("ascii") if encoding == "base64" else vector


def _json(answer: object, usage: Usage) -> Response:
    content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, headers=usage.headers(), media_type="application/json")
