"""Which waiting rows make the next encoder batch: the oldest one, and those that go well with it.

Pure. First-in-first-out batches of ragged rows cost 2 to 3.5 times the CPU of no batching at all, because all are
padded to the longest. Where padding is computed, the oldest row takes those nearest to it in length, under a budget of
padded tokens; where it is passed over (`packing.py`), rows go in the order in which they came, under a budget of real
ones. The oldest row is in every batch, so none starves. There is no wait timer: waiting 10 ms for company halved the
throughput of one client and gave many nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

LEAST_PADDING_EFFICIENCY = 0.75
"""A row that would make more than a quarter of the batch padding waits for company of its own length."""
LEAST_PACKED_EFFICIENCY = 0.25
"""Embeddings and heads see the padding of packed rows as well; with more than this they would begin to cost."""


def choose_batch(lengths: Sequence[int], row_limit: int, token_budget: int, *, packed: bool = False) -> list[int]:
    """Indices into `lengths` (tokens, oldest first) of the next batch; the first is always 0. Empty for no rows.

    Tokens stay within the budget, except that a row longer than it goes alone: padded ones (longest x rows), or for
    `packed` rows the real ones.
    """
    if not lengths:
        return []
    chosen, longest, tokens = [0], lengths[0], lengths[0]
    least = LEAST_PACKED_EFFICIENCY if packed else LEAST_PADDING_EFFICIENCY
    others: Sequence[int] = range(1, len(lengths))
    if not packed:  # nearest first; among equals the older one
        others = sorted(others, key=lambda i: (abs(lengths[i] - lengths[0]), i))
    for index in others:
        if len(chosen) >= row_limit:
            break
        padded, real = max(longest, lengths[index]) * (len(chosen) + 1), tokens + lengths[index]
        if (real if packed else padded) > token_budget or real < least * padded:
            continue
        chosen.append(index)
        longest, tokens = max(longest, lengths[index]), real
    return chosen
