"""Compiles the stand-in for NVIDIA's management library; see `stub_nvml.c` for what it can be told."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tools.localcluster.debian import require

LIBRARY = "libnvidia-ml.so.1"
_SOURCE = Path(__file__).with_name("stub_nvml.c")


def build_stub(folder: Path) -> Path:
    """Compile the stub into `folder` and return `folder`: put it into LD_LIBRARY_PATH before a process starts."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / LIBRARY
    require({"gcc": "build-essential"})
    if not target.exists() or target.stat().st_mtime < _SOURCE.stat().st_mtime:
        unfinished = target.with_suffix(".part")
        command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
        subprocess.run([*command, "-o", str(unfinished), str(_SOURCE)], check=True)
        unfinished.rename(target)
    return folder
