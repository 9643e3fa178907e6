"""The encoder loop: one thread that takes the best batch of waiting rows, runs it, and resolves their futures.

A row is one sequence of token ids. Where rows are of several kinds, only those of one kind share a step: what one kind
costs is no other's to wait for or to pay. Rows that nobody waits for any more are dropped before they cost anything. An
error in a batch fails only the rows that fail alone as well: the batch is split in halves until the culprits stand by
themselves. An error of the device fails every row it meets; after `MOST_FAILURES` batches in a row without one good row
the engine gives up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from lowbeam_worker.energy.ledger import Account, Ledger
from lowbeam_worker.engines.base import EngineClosedError, EngineStats, Limits, check_limits
from lowbeam_worker.engines.batching import choose_batch

Vector = NDArray[np.float32]
Forward = Callable[[Sequence[Sequence[int]]], NDArray[np.float32]]
"""Token ids of a batch -> one output row each."""
Kind = Callable[[Sequence[int]], Hashable]
"""Token ids of a row -> what rows must have in common to share a step."""
ROW_CEILING = 65536
"""Rows are also bounded by the token budget, so any limit of the wire format is safe."""
STEP_TOKEN_CEILING = 1 << 20
MOST_FAILURES = 32


class _Row:
    __slots__ = ("account", "future", "ids", "kind")

    def __init__(self, ids: Sequence[int], kind: Hashable, account: Account) -> None:
        self.ids = ids
        self.kind = kind
        self.account = account
        self.future: Future[Vector] = Future()


class EncoderEngine:
    """Runs `forward` on batches chosen by `choose_batch`; `packed`: padding costs it nothing. All rows are of one kind
    unless `kind` says otherwise."""

    def __init__(
        self,
        forward: Forward,
        ledger: Ledger,
        *,
        batch_limit: int,
        token_budget: int,
        packed: bool = False,
        kind: Kind | None = None,
    ) -> None:
        self._forward = forward
        self._ledger = ledger
        self._limits = Limits(batch_limit, token_budget)
        self._packed = packed
        self._kind = kind
        self._waiting: list[_Row] = []
        self._swaps: deque[tuple[Callable[[], None], Future[int]]] = deque()
        self._running = 0
        self._steps = self._tokens = self._padded = 0
        self._failures = 0
        self._changed = threading.Condition()
        self._closed: str | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)

    @property
    def limits(self) -> Limits:
        """In force from the next batch on."""
        return self._limits

    @property
    def ceilings(self) -> Limits:
        """Any limit of the wire format."""
        return Limits(ROW_CEILING, STEP_TOKEN_CEILING)

    @property
    def failed(self) -> str | None:
        """Why no row can be run any more, or None."""
        if self._failures >= MOST_FAILURES:
            return f"{self._failures} batches in a row failed to the last row"
        return None if self._thread.is_alive() or self._stopping else "the encoder thread is not running"

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """Finish the running batch, fail what waits."""
        with self._changed:
            self._stopping = True
            self._closed = "the worker is shutting down"
            self._changed.notify_all()
        await asyncio.to_thread(self._thread.join, 10)
        for row in self._waiting:
            row.future.cancel()
        for _, done in self._swaps:
            done.cancel()

    def set_limits(self, limits: Limits) -> None:
        """From the next batch on."""
        check_limits(limits, self.ceilings)
        with self._changed:
            self._limits = limits

    async def swap(self, change: Callable[[], None]) -> int:
        """Run `change` between two batches, in the thread that runs them."""
        done: Future[int] = Future()
        with self._changed:
            if self._stopping:
                raise EngineClosedError(self._closed)
            self._swaps.append((change, done))
            self._changed.notify_all()
        return await asyncio.wrap_future(done)

    async def drain(self) -> None:
        """Take nothing new; return when nothing is inside any more."""
        with self._changed:
            self._closed = self._closed or "the engine drains"
        await asyncio.to_thread(self._until_empty)

    def stats(self) -> EngineStats:
        """Counts in rows."""
        with self._changed:
            return EngineStats(
                self._running,
                len(self._waiting),
                steps=self._steps,
                tokens=self._tokens,
                padded_tokens=self._padded,
            )

    def submit(self, ids: Sequence[int], account: Account) -> Future[Vector]:
        """Queue one row."""
        if not ids:
            raise ValueError("a row has no tokens")
        row = _Row(ids, self._kind(ids) if self._kind else None, account)
        with self._changed:
            if self._closed:
                raise EngineClosedError(self._closed)
            self._waiting.append(row)
            self._changed.notify_all()
        return row.future

    def cancel(self, ticket: Future[Vector]) -> None:
        """Drop a row that is still waiting; one that runs finishes unheard."""
        ticket.cancel()

    def _until_empty(self) -> None:
        with self._changed:
            while (self._waiting or self._running) and not self._stopping:
                self._changed.wait()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            if batch:
                self._compute(batch)
            with self._changed:
                self._running = 0
                self._changed.notify_all()

    def _take(self) -> list[_Row] | None:
        with self._changed:
            while True:
                while self._swaps:
                    self._do_swap(*self._swaps.popleft())
                self._waiting = [row for row in self._waiting if not row.future.cancelled()]
                if self._stopping:
                    return None
                if self._waiting:
                    break
                self._changed.notify_all()
                self._changed.wait()
            alike = [index for index, row in enumerate(self._waiting) if row.kind == self._waiting[0].kind]
            lengths = [len(self._waiting[index].ids) for index in alike]
            found = choose_batch(lengths, self._limits.batch, self._limits.step_tokens, packed=self._packed)
            chosen = {alike[place] for place in found}
            batch = [row for index, row in enumerate(self._waiting) if index in chosen]
            self._waiting = [row for index, row in enumerate(self._waiting) if index not in chosen]
            # From here on cancel() is refused, so results can be set without a race.
            batch = [row for row in batch if row.future.set_running_or_notify_cancel()]
            self._running = len(batch)
            return batch

    def _do_swap(self, change: Callable[[], None], done: Future[int]) -> None:
        waiting = len(self._waiting)
        self._changed.release()  # a change of weights takes long; rows may queue up meanwhile
        try:
            change()
        except Exception as error:  # belongs to who asked for the change
            done.set_exception(error)
        else:
            done.set_result(waiting)
        finally:
            self._changed.acquire()

    def _compute(self, batch: list[_Row]) -> None:
        """Run a batch; one that fails is split until the rows to blame stand alone."""
        good = 0
        parts = deque([batch])
        while parts:
            part = parts.popleft()
            try:
                outputs = self._step(part)
            except Exception as error:  # whatever torch raises belongs to the rows, not to the thread
                if len(part) == 1:
                    part[0].future.set_exception(error)
                else:
                    parts.extend((part[: len(part) // 2], part[len(part) // 2 :]))
                continue
            good += len(part)
            for row, output in zip(part, outputs, strict=True):
                row.future.set_result(output)
        self._failures = 0 if good else self._failures + 1

    def _step(self, batch: list[_Row]) -> NDArray[np.float32]:
        # Padding is nobody's own: the seconds of the whole batch are split by real tokens.
        shares = [(row.account, float(len(row.ids))) for row in batch]
        self._ledger.begin_step(time.monotonic(), shares, time.process_time(), self)
        try:
            outputs = self._forward([row.ids for row in batch])
        finally:
            self._ledger.end_step(time.monotonic(), time.process_time(), self)
        with self._changed:
            self._steps += 1
            tokens = sum(len(row.ids) for row in batch)
            self._tokens += tokens
            self._padded += tokens if self._packed else max(len(row.ids) for row in batch) * len(batch)
        return outputs
