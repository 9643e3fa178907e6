"""The kernel that every CPU figure is compared with: a fixed amount of pure Python and numpy, timed in CPU seconds.

Invariant: its work never changes, or figures of different days can no longer be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

_ROUNDS = 5
_Answer = TypeVar("_Answer")


def kernel_cpu_seconds() -> float:
    """CPU seconds of the kernel on this machine now: the least of a few rounds, which disturbs least."""
    return min(cpu_seconds(_kernel)[0] for _ in range(_ROUNDS))


def cpu_seconds(work: Callable[[], _Answer]) -> tuple[float, _Answer]:
    """CPU seconds of this process for one piece of work, and its answer."""
    started = time.process_time()
    answer = work()
    return time.process_time() - started, answer


def _kernel() -> int:
    total, table = 0, {}
    for number in range(200_000):
        total += number % 7
        table[number & 1023] = total
    matrix = np.arange(40_000, dtype=np.float64).reshape(200, 200) / 40_000
    for _ in range(10):
        matrix = np.sqrt(matrix @ matrix.T) / 14
    ranks = np.lexsort((matrix[0], matrix[1]))
    return total + len(table) + int(ranks[0])
