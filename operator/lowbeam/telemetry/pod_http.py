"""HTTP to pods: bounded answers, bounded time, and every failure a value.

Decides what counts as an answer at all; what it means is the business of the clients that ask.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

import aiohttp
from pydantic import ValidationError

from lowbeam.telemetry.samples import SampleProblem

READ_TIMEOUT_SECONDS = 1.5
CHANGE_TIMEOUT_SECONDS = 10.0
"""A batch change settles within 10 s or counts as failed (control.md)."""
LARGEST_ANSWER_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    content: bytes

    @property
    def detail(self) -> str:
        """The `error` or `detail` of a JSON body, else its first characters."""
        try:
            parsed = json.loads(self.content)
        except (ValueError, RecursionError):  # the second: brackets in brackets, some thousand deep
            return self.content[:200].decode(errors="replace")
        if isinstance(parsed, dict):
            return str(parsed.get("error") or parsed.get("detail") or parsed)[:200]
        return str(parsed)[:200]


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer, and why."""

    problem: SampleProblem
    what: str


class PodHttp:
    """Keep-alive connections to many pods. `async with` opens and closes them."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        # trust_env stays off: a proxy of the environment has no business between the operator and pods.
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        url: str,
        *,
        token: str | None = None,
        body: bytes | None = None,
        seconds: float,
        most_bytes: int = LARGEST_ANSWER_BYTES,
    ) -> Answer | Failure:
        """One request. `most_bytes`: more than any honest answer has."""
        if self._session is None:
            raise RuntimeError("connections to pods are not open: use `async with`")
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as response:
                content = await _read_bounded(response.content, most_bytes)
                if content is None:
                    return Failure(SampleProblem.TOO_LARGE, f"more than {most_bytes} bytes")
                return Answer(response.status, content)
        except TimeoutError:
            return Failure(SampleProblem.TIMEOUT, f"no answer within {seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Failure(SampleProblem.UNREACHABLE, f"{type(error).__name__}: {error}")


async def _read_bounded(stream: aiohttp.StreamReader, most_bytes: int) -> bytes | None:
    content = bytearray()
    async for chunk in stream.iter_any():
        content += chunk
        if len(content) > most_bytes:
            return None
    return bytes(content)


def first_problem(error: ValidationError, whose: str) -> str:
    """Which field of an answer is wrong; `whose` answer it is."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "body"
    return f"field {where}: {first['msg']}; {whose} and operator must be of compatible releases"
