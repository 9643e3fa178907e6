"""The clients: each sends one request after the other, good ones and bad ones, and checks what comes back.

A good request must be answered: 429 is taken as it is meant (wait `Retry-After`, send it again), everything else but
200 is a loss. A bad one must be refused with the status that belongs to it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import httpx

from .changes import Writer
from .subject import Subject
from .tally import Tally

Body = dict[str, Any]
_TIMEOUT_SECONDS = 60.0
_PATIENCE_SECONDS = 180.0
"""Longest time in which a request may be held back; several changes pass in it."""
_MEAN_PAUSE_SECONDS = 0.1

Poison = tuple[str, bytes | Body, int]
"""Path, body, and the status that it deserves."""
MALFORMED: tuple[bytes, ...] = (b"", b"{", b"[]", b'{"model": NaN}', b"\xff\xfe", b"[" * 50_000)


class Client:
    """One of the clients of one worker; the kinds of requests are its subclasses' methods."""

    kinds: ClassVar[Mapping[str, int]]
    """Method name and how often it comes, relative to the others."""
    poison: ClassVar[tuple[Poison, ...]]

    def __init__(self, subject: Subject, tally: Tally, writer: Writer, seed: int) -> None:
        self.http = httpx.AsyncClient(base_url=subject.url, timeout=_TIMEOUT_SECONDS)
        self.tally = tally
        self.writer = writer
        self.random = random.Random(seed)  # noqa: S311 - a load, not a secret
        self.sent_s = 0.0
        """When the request in hand was let in."""
        self._port = subject.port

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and then to the end of the request in hand."""
        names, weights = list(self.kinds), list(self.kinds.values())
        async with self.http:
            while not stop.is_set():
                (kind,) = self.random.choices(names, weights)
                try:
                    await getattr(self, kind)()
                except Exception as error:  # whatever it is: the request has no answer
                    self.tally.lose(kind, repr(error))
                await asyncio.sleep(self.random.expovariate(1 / _MEAN_PAUSE_SECONDS))

    async def answer(self, kind: str, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response | None:
        """Send until it is let in; None, and counted as lost, when it is not answered with 200."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            self.sent_s = time.monotonic()
            found = await send()
            if found.status_code != 429:
                break
            self.tally.held_back[found.json()["error"]["code"]] += 1
            if time.monotonic() > deadline:
                self.tally.lose(kind, f"held back for {_PATIENCE_SECONDS:.0f} s")
                return None
            await asyncio.sleep(float(found.headers["Retry-After"]) * self.random.uniform(1, 1.2))
        if found.status_code != 200:
            self.tally.lose(kind, f"{found.status_code}: {found.text}")
            return None
        self.tally.answered[kind] += 1
        return found

    async def ask(self, kind: str, path: str, body: Body) -> Body | None:
        """A whole answer as JSON."""
        found = await self.answer(kind, lambda: self.http.post(path, json=body))
        if found is None:
            return None
        document: Body = found.json()
        self.pay(kind, document["usage"])
        return document

    def pay(self, kind: str, usage: Body) -> None:
        """Every answer states its joules, by the meter that is there."""
        energy = usage["energy"]
        if energy["method"] != "nvml" or energy["joules"] is None or energy["joules"] < 0:
            self.tally.wrong(kind, f"usage.energy is {energy}")
            return
        self.tally.joules += energy["joules"]

    async def poisoned(self) -> None:
        """A request that must be refused."""
        path, body, expected = self.random.choice(self.poison)
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        found = await self.http.post(path, **content)
        if found.status_code == expected and "error" in found.json():
            self.tally.refused[str(expected)] += 1
        elif found.status_code == 429:  # held back before anyone looked at it
            self.tally.held_back[found.json()["error"]["code"]] += 1
        else:
            self.tally.wrong("poison", f"{path} {str(body)[:80]}: {found.status_code} {found.text}, not {expected}")

    async def dropped(self) -> None:
        """A connection that comes to nothing: closed at once, in the middle of the head, or of the body."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: soak\r\nContent-Length: 100\r\n\r\n{"
        writer.write(head[: self.random.choice((0, 20, len(head)))])
        writer.close()
        self.tally.left["dropped connection"] += 1
