"""Routes of sentence embeddings: OpenAI's /v1/embeddings and TEI's /embed.

Vectors are normalised as the model's card says (OpenAI) or as the client says (TEI). `dimensions` keeps the first ones
and normalises again, which makes sense for models that were trained for it (Matryoshka); nothing in a model's files
says whether it was.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from lowbeam_worker.engines.encoder import Vector
from lowbeam_worker.front.encoding import RowRunner, json_answer
from lowbeam_worker.front.openai_bodies import EmbeddingsBody
from lowbeam_worker.front.reading import read_body
from lowbeam_worker.front.tei_bodies import EmbedBody
from lowbeam_worker.refusal import invalid
from lowbeam_worker.rows import TokenRow
from lowbeam_worker.sentence import SentenceRecipe, normalised


class EmbeddingService:
    """Turns texts into vectors."""

    def __init__(self, runner: RowRunner, recipe: SentenceRecipe, size: int) -> None:
        self._runner = runner
        self._recipe = recipe
        self._size = size
        self.warm_up = runner.warm_up
        self.max_tokens = runner.max_tokens
        self.routes = {"/v1/embeddings": self.embeddings, "/embed": self.embed}

    def model_type(self) -> dict[str, Any]:
        """As TEI's /info says it."""
        return {"embedding": {"pooling": self._recipe.pooling}}

    async def embeddings(self, request: Request) -> Response:
        """OpenAI's embeddings."""
        account = self._runner.account()
        body = await read_body(request, EmbeddingsBody)
        self._runner.check_model(body.model)
        self._check_size(body.dimensions)
        rows = await self._rows(_listed(body.input), "input")
        vectors = await self._runner.run(rows, account, "input")
        usage = self._runner.usage(account, rows)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _encoded(_shaped(vector, body.dimensions, self._recipe.normalise), body.encoding_format),
            }
            for index, vector in enumerate(vectors)
        ]
        counts = {"prompt_tokens": usage.input_tokens, "total_tokens": usage.input_tokens, "energy": usage.energy}
        return json_answer({"object": "list", "data": data, "model": self._runner.model, "usage": counts}, usage)

    async def embed(self, request: Request) -> Response:
        """TEI's embed: a list of vectors, even for one text."""
        account = self._runner.account()
        body = await read_body(request, EmbedBody)
        self._check_size(body.dimensions)
        rows = await self._rows(_listed(body.inputs), "inputs", truncate=body.truncate, from_left=body.from_left)
        vectors = await self._runner.run(rows, account)
        usage = self._runner.usage(account, rows)
        return json_answer([_shaped(vector, body.dimensions, body.normalize) for vector in vectors], usage)

    async def _rows(
        self, given: Sequence[Any], param: str, *, truncate: bool = False, from_left: bool = False
    ) -> list[TokenRow]:
        self._runner.check_count(len(given), param)
        if isinstance(given[0], str):
            texts = [(text,) for text in given]
            return await self._runner.tokenise(texts, param=param, truncate=truncate, from_left=from_left)
        most = self._runner.max_tokens
        if truncate:
            given = [ids[-most:] if from_left else ids[:most] for ids in given]
        return [self._runner.checked_ids(ids, index, param) for index, ids in enumerate(given)]

    def _check_size(self, dimensions: int | None) -> None:
        if dimensions is not None and dimensions > self._size:
            raise invalid(
                f"This model's vectors have {self._size} dimensions; {dimensions} were asked for.", "dimensions"
            )


def _listed(given: Any) -> list[Any]:
    """A text or one row of token ids alone stands for a list of one."""
    alone = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    return [given] if alone else list(given)


def _shaped(vector: Vector, dimensions: int | None, normalise: bool) -> Vector:
    cut = vector if dimensions is None else vector[:dimensions]
    return normalised(cut) if normalise else np.ascontiguousarray(cut)


def _encoded(vector: Vector, encoding: str) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii") if encoding == "base64" else vector
