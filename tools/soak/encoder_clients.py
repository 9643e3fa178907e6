"""Clients of the encoder: texts of all lengths, one or many, as text or ids, and vectors that are known."""

from __future__ import annotations

import asyncio
import base64
import random
from typing import ClassVar

import httpx
import numpy as np
from numpy.typing import NDArray

from .changes import Writer
from .clients import MALFORMED, Body, Client, Poison
from .subject import Subject
from .tally import Tally

Vector = NDArray[np.float32]
MODEL = "encoder"
EXACT = 1e-4
"""Largest difference of a number in fp32, whoever shares the batch."""
ALIKE = 0.85
"""Least cosine with the fp32 vector at any precision; at int8 a single word was seen at 0.896."""
_TEXTS = 64
_WORDS = (
    "power",
    "is",
    "scarce",
    "and",
    "quality",
    "has",
    "a",
    "floor",
    "watts",
    "have",
    "cap",
    "return",
    "shoes",
    "7",
)
_BASE: Body = {"model": MODEL, "input": "x"}
_WRONG_FIELDS: tuple[Body, ...] = (
    *({"input": ""}, {"input": []}, {"input": ["x", " "]}, {"input": "power " * 3000}, {"input": "x " * 100_000}),
    *(
        {"input": [10**6]},
        {"input": [-1]},
        {"input": [[]]},
        {"input": [1] * 5000},
        {"input": 5},
        {"input": ["x"] * 3000},
    ),
    *({"dimensions": 10**6}, {"dimensions": 0}, {"encoding_format": "hex"}, {"unheard_of": 1}, {"input": None}),
)


class EncoderClient(Client):
    """Embeds."""

    kinds: ClassVar = {"one": 5, "several": 3, "many": 1, "packed": 1, "leaves_waiting": 1, "poisoned": 3, "dropped": 2}
    poison: ClassVar[tuple[Poison, ...]] = (
        *(("/v1/embeddings", _BASE | wrong, 400) for wrong in _WRONG_FIELDS),
        *(("/v1/embeddings", body, 400) for body in MALFORMED),
        ("/embed", {"inputs": []}, 400),
        ("/v1/embeddings", _BASE | {"model": "another"}, 404),
        ("/v1/completions", {"model": MODEL, "prompt": "x"}, 400),
    )

    def __init__(self, subject: Subject, tally: Tally, writer: Writer, seed: int, known: dict[str, Vector]) -> None:
        super().__init__(subject, tally, writer, seed)
        self._known = known

    async def one(self) -> None:
        """One text."""
        await self._embed("one", self.random.choices(list(self._known), k=1))

    async def several(self) -> None:
        """A few texts of different lengths."""
        await self._embed("several", self.random.choices(list(self._known), k=self.random.randrange(2, 9)))

    async def many(self) -> None:
        """More than a batch holds."""
        await self._embed("many", self.random.choices(list(self._known), k=24))

    async def packed(self) -> None:
        """The same as base64."""
        (text,) = self.random.choices(list(self._known), k=1)
        answer = await self.ask("packed", "/v1/embeddings", {**_BASE, "input": text, "encoding_format": "base64"})
        if answer:
            vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")
            self._check("packed", text, vector)

    async def leaves_waiting(self) -> None:
        """Does not wait for the answer."""
        body = {**_BASE, "input": list(self._known)[:20]}
        post = asyncio.create_task(self.http.post("/v1/embeddings", json=body))
        await asyncio.sleep(self.random.uniform(0, 0.1))
        post.cancel()
        await asyncio.gather(post, return_exceptions=True)
        self.tally.left["before the answer"] += 1

    async def _embed(self, kind: str, texts: list[str]) -> None:
        answer = await self.ask(kind, "/v1/embeddings", {**_BASE, "input": texts})
        if answer is None:
            return
        if len(answer["data"]) != len(texts):
            self.tally.wrong(kind, f"{len(answer['data'])} vectors for {len(texts)} texts")
            return
        for text, one in zip(texts, answer["data"], strict=True):
            self._check(kind, text, np.asarray(one["embedding"], np.float32))

    def _check(self, kind: str, text: str, vector: Vector) -> None:
        self.tally.compared += 1
        known, profile = self._known[text], self.writer.steady_since(self.sent_s)
        cosine = float(vector @ known)
        off = float(np.abs(vector - known).max())
        if cosine < ALIKE or (profile is not None and profile.precision == "fp32" and off > EXACT):
            at = profile.precision if profile else "a change of precision"
            self.tally.wrong(kind, f"{text[:40]!r} at {at}: cosine {cosine:.4f}, largest difference {off:.2g}")


async def known_vectors(url: str) -> dict[str, Vector]:
    """What the worker says to each text alone, before anything else happens."""
    source = random.Random(7)  # noqa: S311 - a load, not a secret
    texts = [" ".join(source.choices(_WORDS, k=1 + number * number // 30)) for number in range(_TEXTS)]
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        answers = [await http.post("/v1/embeddings", json={**_BASE, "input": text}) for text in texts]
    data = [answer.raise_for_status().json()["data"][0]["embedding"] for answer in answers]
    return {text: np.asarray(one, np.float32) for text, one in zip(texts, data, strict=True)}
