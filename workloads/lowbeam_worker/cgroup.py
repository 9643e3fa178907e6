"""CPU and memory that this container may use, by its cgroup: never the host's, which torch would take.

`prepare_threads` must run before torch is imported: OpenMP reads its variables once. With more threads than the CPU
quota a decode step is 2 to 13 times slower (spinning threads are throttled), hence also OMP_WAIT_POLICY=PASSIVE.

Limits may stand in our own cgroup or in any above it, so the smallest on the way up counts. Version 2 has one tree,
version 1 one for each controller; a container often sees its own cgroup as the root of the mount while
/proc/self/cgroup names the path on the host, so that folders on the way may be missing: they are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

_ROOT = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")
_UNLIMITED_V1_BYTES = 1 << 60
"""cgroup v1 writes a huge number where there is no limit."""
Limit = TypeVar("Limit", int, float)


def cpu_quota(root: Path = _ROOT, self_cgroup: Path = _SELF) -> float | None:
    """CPUs of the smallest quota on the way up from our cgroup; None where there is no quota."""
    return _smallest("cpu", _quota_of, root, self_cgroup)


def memory_limit_bytes(root: Path = _ROOT, self_cgroup: Path = _SELF) -> int | None:
    """The smallest memory limit on the way up from our cgroup; None where there is no limit."""
    return _smallest("memory", _memory_of, root, self_cgroup)


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


def _smallest(controller: str, limit_of: Callable[[Path], Limit | None], root: Path, self_cgroup: Path) -> Limit | None:
    limits = [limit_of(folder) for folder in _folders(controller, root, self_cgroup)]
    return min((limit for limit in limits if limit is not None), default=None)


def _folders(controller: str, root: Path, self_cgroup: Path) -> Iterator[Path]:
    """Our cgroup and its ancestors: in version 2's tree, and in the tree of version 1's controller."""
    for line in _read(self_cgroup).splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if not names:
            yield from _way_up(root, path)
        elif controller in names.split(","):
            # The tree is mounted under the list of its controllers, with links from each of them.
            for mount in {names, controller}:
                yield from _way_up(root / mount, path)
    yield from (root, root / controller)


def _way_up(tree: Path, path: str) -> Iterator[Path]:
    folder = tree / path.strip("/")
    while folder != tree:
        yield folder
        folder = folder.parent
    yield tree


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
    except (OSError, UnicodeDecodeError):
        return ""
