"""What the figures were measured on, without naming the machine: processor, cores, memory, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from lowbeam import __version__


def hardware() -> str:
    """One line: `2 x Intel(R) Xeon(R) ..., 23 GiB`."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{os.cpu_count()} x {_processor()} (shared), {pages / 2**30:.0f} GiB, {platform.system()}"


def versions() -> str:
    """One line of what the figures depend on."""
    parts = [f"lowbeam {__version__}", f"Python {platform.python_version()}"]
    parts += [f"{name} {version(name)}" for name in ("numpy", "highspy", "kopf", "kubernetes")]
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
