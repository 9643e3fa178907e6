"""The encoder loop: one thread that takes the best batch of waiting rows, runs it, and resolves their futures.

A row is one sequence of token ids. Rows that nobody waits for any more are dropped before they cost anything. An error
in a batch fails the rows of that batch only, and only after each of them failed alone as well.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from lowbeam_worker.energy.ledger import Account, Ledger
from lowbeam_worker.engines.base import EngineStats
from lowbeam_worker.engines.batching import choose_batch

Vector = NDArray[np.float32]
Forward = Callable[[Sequence[Sequence[int]]], NDArray[np.float32]]
"""Token ids of a batch -> one output row each."""
ROW_CEILING = 65536
"""Rows are also bounded by the token budget, so any limit of the wire format is safe."""


class _Row:
    __slots__ = ("account", "future", "ids")

    def __init__(self, ids: Sequence[int], account: Account) -> None:
        self.ids = ids
        self.account = account
        self.future: Future[Vector] = Future()


class EncoderEngine:
    """Runs `forward` on batches chosen by `choose_batch`."""

    def __init__(self, forward: Forward, ledger: Ledger, *, batch_limit: int, padded_token_budget: int) -> None:
        self._forward = forward
        self._ledger = ledger
        self._limit = batch_limit
        self._budget = padded_token_budget
        self._waiting: list[_Row] = []
        self._running = 0
        self._tokens = self._padded = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)

    @property
    def batch_limit(self) -> int:
        """Most rows in one step."""
        return self._limit

    @property
    def batch_limit_ceiling(self) -> int:
        """Any limit of the wire format."""
        return ROW_CEILING

    @property
    def failed(self) -> str | None:
        """An error ends a batch, never the thread; a dead thread means the interpreter is going down."""
        return None if self._thread.is_alive() or self._stopping else "the encoder thread is not running"

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """Finish the running batch, fail what waits."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, 10)
        for row in self._waiting:
            row.future.cancel()

    def set_batch_limit(self, limit: int) -> None:
        """From the next batch on."""
        with self._changed:
            self._limit = limit

    def stats(self) -> EngineStats:
        """Counts in rows."""
        with self._changed:
            efficiency = self._tokens / self._padded if self._padded else None
            return EngineStats(self._running, len(self._waiting), padding_efficiency=efficiency)

    def submit(self, ids: Sequence[int], account: Account) -> Future[Vector]:
        """Queue one row. Cancel the future to leave."""
        row = _Row(ids, account)
        with self._changed:
            if self._stopping:
                row.future.cancel()
            else:
                self._waiting.append(row)
                self._changed.notify()
        return row.future

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            if not batch:
                continue
            try:
                self._resolve(batch, self._step(batch))
            except Exception as error:  # whatever torch raises belongs to the rows, not to the thread
                self._fail_or_split(batch, error)
            with self._changed:
                self._running = 0

    def _take(self) -> list[_Row] | None:
        with self._changed:
            while True:
                self._waiting = [row for row in self._waiting if not row.future.cancelled()]
                if self._stopping:
                    return None
                if self._waiting:
                    break
                self._changed.wait()
            chosen = set(choose_batch([len(row.ids) for row in self._waiting], self._limit, self._budget))
            batch = [row for index, row in enumerate(self._waiting) if index in chosen]
            self._waiting = [row for index, row in enumerate(self._waiting) if index not in chosen]
            # From here on cancel() is refused, so results can be set without a race.
            batch = [row for row in batch if row.future.set_running_or_notify_cancel()]
            self._running = len(batch)
            return batch

    def _step(self, batch: list[_Row]) -> NDArray[np.float32]:
        self._ledger.begin_step(time.monotonic(), [(row.account, len(row.ids)) for row in batch])
        try:
            return self._forward([row.ids for row in batch])
        finally:
            self._ledger.end_step(time.monotonic())

    def _resolve(self, batch: list[_Row], outputs: NDArray[np.float32]) -> None:
        with self._changed:
            self._tokens += sum(len(row.ids) for row in batch)
            self._padded += max((len(row.ids) for row in batch), default=0) * len(batch)
        for row, output in zip(batch, outputs, strict=True):
            row.future.set_result(output)

    def _fail_or_split(self, batch: list[_Row], error: Exception) -> None:
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        for row in batch:  # one of them is the culprit: the others must not notice
            try:
                row.future.set_result(self._step([row])[0])
            except Exception as own:  # as above
                row.future.set_exception(own)
