"""Which waiting rows make the next encoder batch: the oldest one, and those nearest to it in length.

Pure. First-in-first-out batches of ragged rows cost 2 to 3.5 times the CPU of no batching at all, because all are
padded to the longest; nearest lengths under a padded-token budget cost 0.6 of it. The oldest row is in every batch, so
none starves. There is no wait timer: waiting 10 ms for company halved the throughput of one client and gave many
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

LEAST_PADDING_EFFICIENCY = 0.75
"""A row that would make more than a quarter of the batch padding waits for company of its own length."""


def choose_batch(lengths: Sequence[int], row_limit: int, padded_token_budget: int) -> list[int]:
    """Indices into `lengths` (tokens, oldest first) of the next batch; the first is always 0. Empty for no rows.

    Padded tokens (longest x rows) stay within the budget, except that a row longer than it goes alone.
    """
    if not lengths:
        return []
    chosen, longest, tokens = [0], lengths[0], lengths[0]
    # Nearest first; among equals the older one.
    for index in sorted(range(1, len(lengths)), key=lambda i: (abs(lengths[i] - lengths[0]), i)):
        if len(chosen) >= row_limit:
            break
        padded = max(longest, lengths[index]) * (len(chosen) + 1)
        if padded > padded_token_budget or tokens + lengths[index] < LEAST_PADDING_EFFICIENCY * padded:
            continue
        chosen.append(index)
        longest, tokens = max(longest, lengths[index]), tokens + lengths[index]
    return chosen
