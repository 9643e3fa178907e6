"""Where things live. Nothing is ever written into the source tree.

Two places: the cache (binaries, images, cluster state), which may be deleted while no cluster runs, and a small
machine-wide register of cluster numbers, because address ranges are shared by all caches of a machine.
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
MODULES = PACKAGE / "modules"
KWOK_STAGES = PACKAGE / "kwok-stages.yaml"
"""Ours beside KWOK's own: what else a kubelet does."""
REGISTER = Path("/tmp/lowbeam-localcluster")


def cache() -> Path:
    """Return the cache root: `$LOWBEAM_CACHE`, else `$XDG_CACHE_HOME/lowbeam`, else `~/.cache/lowbeam`."""
    if own := os.environ.get("LOWBEAM_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lowbeam"


def cluster_dir(name: str) -> Path:
    """Return the folder that holds one cluster's state, keys, data and logs."""
    return cache() / "clusters" / name
