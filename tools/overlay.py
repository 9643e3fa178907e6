"""An environment of a few packages in front of this project's own: another version of one thing, all else shared.

It lives in the cache folder and is made again when its list of packages changes. Nothing of this project's environment
is copied or changed; torch is not downloaded twice.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from .localcluster.paths import cache


def overlay(requirements: Path) -> Path:
    """The Python of the environment that a requirements file describes; built on the first call."""
    wanted = requirements.read_text()
    ours = sysconfig.get_path("purelib")
    mark = hashlib.sha256(f"{wanted}\n{ours}\n{sys.version}".encode()).hexdigest()[:12]
    folder = cache() / "overlays" / f"{requirements.stem}-{mark}"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = _uv()
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python), "-r", str(requirements)]
    subprocess.run(install, check=True)
    # It comes after the environment's own folder, whose packages win; as a site folder, for this project's own .pth.
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "shared.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    (folder / "complete").touch()
    return python


def _uv() -> str:
    beside = cache() / "uv" / "bin" / "uv"
    found = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if found is None:
        raise SystemExit("uv is not installed: run this through make, or `pip install uv`")
    return found


def main() -> None:
    """`python -m tools.overlay REQUIREMENTS COMMAND...`: run Python's COMMAND in that environment."""
    python = overlay(Path(sys.argv[1]))
    os.execv(python, [str(python), *sys.argv[2:]])  # noqa: S606 - it becomes that process


if __name__ == "__main__":
    main()
