"""Programs of the machine that are not built from Go: found, installed when we are root, or asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

from . import paths
from .build import locked, say
from .errors import MissingToolError


def require(programs: Mapping[str, str]) -> None:
    """Make sure of programs, given as program -> Debian package; installs the missing ones with apt-get when root."""
    missing = sorted({package for program, package in programs.items() if not shutil.which(program)})
    if not missing:
        return
    wanted = " ".join(missing)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise MissingToolError(f"missing programs: install {wanted} (Debian package names) and run again")
    with locked(paths.cache() / "apt.lock"):
        say(f"installing Debian packages: {wanted}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
        for command in (install, ["apt-get", "update", "-q"], install):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if command is install and done.returncode == 0:
                return
        raise MissingToolError(f"apt-get could not install {wanted}:\n{done.stderr[-2000:]}")
