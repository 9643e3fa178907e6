"""Which rows share an encoder batch, and what happens to rows around a bad one."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.engines import encoder
from lowbeam_worker.engines.batching import LEAST_PADDING_EFFICIENCY, choose_batch
from lowbeam_worker.engines.encoder import EncoderEngine

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 16), st.integers(1, 1024))
def test_a_batch_has_the_oldest_row_and_keeps_to_its_limits(lengths: list[int], rows: int, budget: int) -> None:
    chosen = choose_batch(lengths, rows, budget)
    longest = max(lengths[index] for index in chosen)
    assert chosen[0] == 0
    assert len(set(chosen)) == len(chosen) <= rows
    assert len(chosen) == 1 or longest * len(chosen) <= budget
    assert sum(lengths[index] for index in chosen) >= LEAST_PADDING_EFFICIENCY * longest * len(chosen)


@given(LENGTHS, st.integers(1, 16))
def test_every_row_has_its_turn(lengths: list[int], rows: int) -> None:
    waiting, turns = list(lengths), 0
    while waiting:
        chosen = set(choose_batch(waiting, rows, 512))
        waiting = [length for index, length in enumerate(waiting) if index not in chosen]
        turns += 1
    assert turns <= len(lengths)


@given(LENGTHS, st.integers(1, 16), st.integers(1, 1024))
def test_where_padding_is_free_rows_go_in_the_order_they_came(lengths: list[int], rows: int, budget: int) -> None:
    chosen = choose_batch(lengths, rows, budget, packed=True)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= rows
    assert len(chosen) == 1 or sum(lengths[index] for index in chosen) <= budget


def test_a_packed_batch_takes_all_lengths_but_no_rectangle_that_is_nearly_empty() -> None:
    assert choose_batch([8, 230, 9, 210], 8, 512, packed=True) == [0, 1, 2, 3]
    assert choose_batch([230, *[1] * 40], 64, 512, packed=True) == [0, 1, 2, 3]


def test_a_short_row_is_not_padded_to_a_long_one() -> None:
    assert choose_batch([8, 500, 9, 510], 8, 4096) == [0, 2]


def test_a_row_that_breaks_the_model_does_not_take_its_neighbours_down() -> None:
    seen: list[int] = []

    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        seen.append(len(batch))
        if any(13 in row for row in batch):
            raise RuntimeError("a row that the model cannot take")
        return np.array([[sum(row)] for row in batch], dtype=np.float32)

    ledger = Ledger()
    engine = EncoderEngine(forward, ledger, batch_limit=8, token_budget=512)
    account = ledger.open_account(0.0)
    futures = [engine.submit([number, number], account) for number in (1, 13, 2, 3)]
    engine.start()
    assert [future.result(10)[0] for future in (futures[0], *futures[2:])] == [2.0, 4.0, 6.0]
    with pytest.raises(RuntimeError, match="cannot take"):
        futures[1].result(10)
    assert engine.failed is None
    assert seen[0] == 4, "the poison has company"


def test_rows_of_another_kind_wait_for_a_step_of_their_own_and_pay_nothing_for_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[list[int]] = []
    now_s = [100.0]
    monkeypatch.setattr(encoder, "time", SimpleNamespace(monotonic=lambda: now_s[0], process_time=lambda: 0.0))

    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        steps.append([row[0] for row in batch])
        now_s[0] += 8.0 if batch[0][0] < 0 else 0.25
        return np.zeros((len(batch), 1), dtype=np.float32)

    ledger = Ledger()
    engine = EncoderEngine(forward, ledger, batch_limit=3, token_budget=512, kind=lambda row: row[0] < 0)
    long, short = ledger.open_account(0.0), ledger.open_account(0.0)
    futures = [engine.submit([number], long if number < 0 else short) for number in (1, -1, 2, -2, 3, 4, -3)]
    engine.start()
    for future in futures:
        future.result(10)
    assert steps == [[1, 2, 3], [-1, -2, -3], [4]], "the oldest row's kind goes first, and none starves"
    assert long.busy_s == pytest.approx(8.0)
    assert short.busy_s == pytest.approx(0.5)


def test_a_row_whose_client_left_costs_nothing() -> None:
    rows: list[Sequence[int]] = []

    def forward(batch: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        rows.extend(batch)
        return np.zeros((len(batch), 1), dtype=np.float32)

    ledger = Ledger()
    engine = EncoderEngine(forward, ledger, batch_limit=8, token_budget=512)
    account = ledger.open_account(0.0)
    left, stayed = engine.submit([1], account), engine.submit([2], account)
    left.cancel()
    engine.start()
    stayed.result(10)
    assert rows == [[2]]
