"""Run this very Python environment inside a pod of a real node, by read-only hostPath mounts: no image to build.

For tests and the demo only: a worker with torch starts in seconds instead of after an image of gigabytes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .images import HOSTBASE


@dataclass(frozen=True, slots=True)
class HostPython:
    """The pieces of a pod that runs `python` (the interpreter of the calling process, with its packages)."""

    python: str
    volumes: list[dict[str, Any]]
    mounts: list[dict[str, Any]]
    image: str = HOSTBASE


def host_python(*extra: Path) -> HostPython:
    """Return what a pod needs to run this interpreter; `extra` folders (an editable checkout) are mounted too.

    Each folder is mounted at its own path, so scripts and links in the environment keep working.
    """
    wanted = [Path("/usr"), Path(sys.base_prefix).resolve(), Path(sys.prefix), *(path.resolve() for path in extra)]
    folders: list[Path] = []
    for path in sorted(set(wanted), key=lambda p: len(p.parts)):
        if not any(path.is_relative_to(outer) for outer in folders):
            folders.append(path)
    # pyenv and uv reach an interpreter through links outside its own folder; inside the pod only real paths exist.
    python = Path(sys.executable)
    if sys.prefix == sys.base_prefix:
        python = python.resolve()
    return HostPython(
        python=str(python),
        volumes=[
            {"name": f"host-{number}", "hostPath": {"path": str(path), "type": "Directory"}}
            for number, path in enumerate(folders)
        ],
        mounts=[
            {"name": f"host-{number}", "mountPath": str(path), "readOnly": True} for number, path in enumerate(folders)
        ],
    )
