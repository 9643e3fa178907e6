"""What real nodes change on the machine outside their own namespaces: cgroups, a few sysctls, mount points.

Invariants: values are recorded before the first kubelet of any cluster changes them, and set back when the last
cluster with real nodes goes; only cgroups made here are ever emptied or removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import paths
from .build import locked

_CGROUPS = Path("/sys/fs/cgroup")
_SYSCTLS = (
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)
"""What a kubelet sets outside its network namespace."""
_KILL_TIMEOUT_S = 10.0
_RECORD = paths.REGISTER / "machine.json"


def _hierarchies() -> list[Path]:
    """Return the cgroup hierarchies: one on a v2 machine; one per controller, and maybe `unified`, on v1."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [folder for folder in _CGROUPS.iterdir() if folder.is_dir() and not folder.is_symlink()]


def make_cgroup(name: str) -> None:
    """Make a cgroup in every hierarchy, ready to take processes."""
    for hierarchy in _hierarchies():
        folder = hierarchy / name
        if hierarchy == _CGROUPS:
            wanted = "+cpuset +cpu +io +memory +pids"
            (hierarchy / "cgroup.subtree_control").write_text(wanted)
            folder.mkdir(exist_ok=True)
            (folder / "cgroup.subtree_control").write_text(wanted)
            continue
        folder.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):  # a new v1 cpuset is empty and takes no process
            if (folder / file).exists():
                (folder / file).write_text((hierarchy / file).read_text())


def kill_cgroups(names: Sequence[str]) -> None:
    """Kill whatever runs in the cgroups: all of it is ours, because nobody else puts processes there."""
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while pids := {pid for name in names for pid in _members(name)}:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _members(name: str) -> Iterator[int]:
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name):  # unlike rglob it copes with folders that vanish meanwhile
            with contextlib.suppress(OSError):
                yield from map(int, (Path(folder) / "cgroup.procs").read_text().split())


def remove_cgroups(names: Sequence[str]) -> None:
    """Remove empty cgroups with everything below them."""
    for name in names:
        for hierarchy in _hierarchies():
            for folder, _, _ in os.walk(hierarchy / name, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()


def claim(user: Path, directories: Iterable[str]) -> None:
    """Record the sysctls and make missing mount points, on behalf of the cluster in folder `user`."""
    with locked(_RECORD.with_suffix(".lock")):
        record: dict[str, Any] = {"sysctls": _read_sysctls(), "users": [], "made": []}
        if _RECORD.exists():
            record = json.loads(_RECORD.read_text())
        missing = [name for name in directories if not Path(name).exists()]
        record["users"].append(str(user))
        record["made"] += missing
        _RECORD.write_text(json.dumps(record))
        for name in missing:
            Path(name).mkdir(parents=True)


def release(user: Path) -> None:
    """Undo it, unless another cluster still needs it.

    A mount point that goes here would take the mounts on it away in every other cluster's mount namespace.
    """
    with locked(_RECORD.with_suffix(".lock")):
        if not _RECORD.exists():
            return
        record = json.loads(_RECORD.read_text())
        record["users"] = [other for other in record["users"] if other != str(user) and Path(other).is_dir()]
        if record["users"]:
            _RECORD.write_text(json.dumps(record))
            return
        for name, value in record["sysctls"].items():
            _sysctl(name).write_text(value)
        for name in reversed(record["made"]):
            with contextlib.suppress(OSError):
                Path(name).rmdir()
        _RECORD.unlink()


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")


def _read_sysctls() -> dict[str, str]:
    return {name: _sysctl(name).read_text().strip() for name in _SYSCTLS if _sysctl(name).exists()}
