"""The writer at the control port: one change after the other, each checked, and what clients may count on meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import count, cycle
from typing import Any

import httpx

from lowbeam.api.wire import ProfileChangeResult, RunningProfile

from .subject import Subject
from .tally import Tally

Change = dict[str, Any]
LONGEST_ANSWER = 48
"""No change lowers the longest answer below what clients ask for."""
_DECODER: tuple[Change, ...] = (
    {"batchLimit": 2},
    {"tokenBudget": 64},
    {"defaultOutputTokens": 24, "maxOutputTokens": 96},
    {"precision": "int8"},
    {"maxThinkingTokens": 4},
    {"requestsPerSecond": 15},
    {"batchLimit": 16, "requestsPerSecond": None},
    {"precision": "fp32"},
    {"powerBudgetWatts": 50},
    {"powerBudgetWatts": None, "defaultThinkingTokens": 3, "maxThinkingTokens": None},
    {"tokenBudget": 512, "batchLimit": 8},
    {"defaultOutputTokens": 8, "maxOutputTokens": LONGEST_ANSWER, "defaultThinkingTokens": None},
)
_ENCODER: tuple[Change, ...] = (
    {"batchLimit": 2},
    {"precision": "int8"},
    {"tokenBudget": 128},
    {"requestsPerSecond": 15},
    {"precision": "bf16"},
    {"batchLimit": 16, "requestsPerSecond": None},
    {"powerBudgetWatts": 50},
    {"powerBudgetWatts": None, "tokenBudget": 512},
    {"precision": "fp32"},
    {"batchLimit": 8},
)
CHANGES = {"decoder": _DECODER, "encoder": _ENCODER}


class Writer:
    """Changes one worker's profile; `steady_since` tells a client whether it may hold an answer against a profile."""

    def __init__(self, subject: Subject, tally: Tally, seed: int) -> None:
        self._subject = subject
        self._tally = tally
        self._generations = count(1)
        self._next = self._shuffled(CHANGES[subject.name], seed)
        self._since_s: float | None = time.monotonic()
        self.profile = subject.telemetry().profile
        self.made: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        """The longest that a change of a field took."""

    def steady_since(self, began_s: float) -> RunningProfile | None:
        """What has been in force since `began_s`, or None when something changed, or may have."""
        return self.profile if self._since_s is not None and self._since_s <= began_s else None

    async def change(self, http: httpx.AsyncClient) -> None:
        """The next change, the same once more, and three that must be refused without any effect."""
        generation = next(self._generations)
        body = {"generation": generation, **next(self._next)}
        self._since_s = None
        first = await self._patch(http, body, 200)
        again = await self._patch(http, body, 200)
        if first is None or again is None:
            return
        if first.content != again.content:
            self._tally.wrong("change", f"the same change gave two answers: {first.text} and {again.text}")
        await self._patch(http, {"generation": generation, "batchLimit": 1, "requestsPerSecond": 1}, 409)
        await self._patch(http, {"generation": generation + 1, "batchLimit": 1, "precision": "fp3"}, 422)
        await self._patch(http, {"generation": generation + 1, "noSuchField": 1}, 422)
        result = ProfileChangeResult.model_validate_json(first.content)
        in_force = RunningProfile.model_validate_json((await http.get(self._url)).content)
        wished = {key: value for key, value in body.items() if in_force.model_dump(by_alias=True)[key] != value}
        if wished or in_force != result.profile:
            self._tally.wrong("change", f"{body} was answered with 200, but {in_force.model_dump(by_alias=True)} runs")
        self.profile, self._since_s = in_force, time.monotonic()
        for field in body.keys() - {"generation"}:
            self.made[field] = self.made.get(field, 0) + 1
            self.seconds[field] = max(self.seconds.get(field, 0.0), result.seconds)

    @property
    def _url(self) -> str:
        return f"{self._subject.control_url}/control/profile"

    async def _patch(self, http: httpx.AsyncClient, body: Change, expected: int) -> httpx.Response | None:
        try:
            answer = await http.patch(self._url, json=body)
        except httpx.HTTPError as error:
            self._tally.lose("change", repr(error))
            return None
        if answer.status_code != expected:
            self._tally.wrong("change", f"{body} was answered with {answer.status_code}: {answer.text}")
            return None
        return answer

    @staticmethod
    def _shuffled(changes: tuple[Change, ...], seed: int) -> Iterator[Change]:
        """Each round in another order, after one in the order above."""
        order, source = list(changes), random.Random(seed)  # noqa: S311 - a load, not a secret
        for number in cycle(range(len(order))):
            yield order[number]
            if number == len(order) - 1:
                source.shuffle(order)
