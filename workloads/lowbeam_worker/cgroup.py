"""CPU and memory that this container may use, by its cgroup: never the host's, which torch would take.

`prepare_threads` must run before torch is imported: OpenMP reads its variables once. With more threads than the CPU
quota a decode step is 2 to 13 times slower (spinning threads are throttled), hence also OMP_WAIT_POLICY=PASSIVE.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED_V1_BYTES = 1 << 60
"""cgroup v1 writes a huge number where there is no limit."""


def cpu_quota(root: Path = _ROOT, self_cgroup: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs of the smallest quota on the way up from our cgroup; None where there is no quota."""
    quotas = [quota for folder in _folders(root, self_cgroup) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def memory_limit_bytes(root: Path = _ROOT, self_cgroup: Path = Path("/proc/self/cgroup")) -> int | None:
    """The smallest memory limit on the way up from our cgroup; None where there is no limit."""
    limits = [limit for folder in _folders(root, self_cgroup) if (limit := _memory_of(folder)) is not None]
    return min(limits, default=None)


def thread_count(quota: float | None, usable_cpus: int) -> int:
    """Whole CPUs within the quota: a thread on a fraction of a CPU makes all others wait for it."""
    return max(1, usable_cpus if quota is None else min(usable_cpus, int(quota)))


def prepare_threads() -> int:
    """Set the thread variables that are not set yet and return the thread count; call before importing torch."""
    threads = thread_count(cpu_quota(), len(os.sched_getaffinity(0)))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Tokenisation has one thread of its own; the tokenizers' pool would compete with the model for the quota.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return int(os.environ["OMP_NUM_THREADS"]) if os.environ["OMP_NUM_THREADS"].isdigit() else threads


def _folders(root: Path, self_cgroup: Path) -> Iterator[Path]:
    """Our cgroup and its ancestors, version 2; then version 1's controllers."""
    try:
        lines = self_cgroup.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    folder = root / own
    while folder != root:
        yield folder
        folder = folder.parent
    yield from (root, root / "cpu", root / "memory")


def _quota_of(folder: Path) -> float | None:
    words = _read(folder / "cpu.max").split()
    if not words:
        words = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
    try:
        quota, period = int(words[0]), int(words[1])
    except (ValueError, IndexError):
        return None  # "max 100000", or no such file
    return quota / period if quota > 0 and period > 0 else None


def _memory_of(folder: Path) -> int | None:
    text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
    return int(text) if text.isdigit() and int(text) < _UNLIMITED_V1_BYTES else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
