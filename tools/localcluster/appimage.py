"""Images of the project itself: dependencies at their locked versions, installed on this machine and copied in.

So the image build needs no network and no package configuration, and none of it can end up in the image. The Dockerfile
finds one folder in its context: `python/`, a tree for `PYTHONPATH` or site-packages, scripts in `python/bin/`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import paths
from .build import locked, say
from .errors import BuildError, MissingToolError
from .images import build_image

PYTHON_VERSION = "3.11"
"""Of `images.base_image()`; wheels are chosen for it, whatever Python runs this."""


def build_project_image(project: Path, dockerfile: Path, tag: str, extra: str) -> Path:
    """Build an image with the project and one of its extras in `python/`; returns the OCI archive."""
    dependencies = _dependencies(project, extra)
    with tempfile.TemporaryDirectory(dir=paths.cache()) as name:
        tree = Path(name) / "python"
        shutil.copytree(dependencies, tree, copy_function=os.link, symlinks=True)
        _uv(project, "pip", "install", "--no-deps", "--target", str(tree), "--python-version", PYTHON_VERSION, ".")
        return build_image(dockerfile, Path(name), tag)


def _dependencies(project: Path, extra: str) -> Path:
    """Return a folder with the locked dependencies of an extra, cached by their pins."""
    export = ("export", "--frozen", "--no-dev", "--no-emit-project", "--no-header", "--extra", extra)
    pins = _uv(project, *export)
    folder = paths.cache() / "python" / f"{extra}-{hashlib.sha256(pins.encode()).hexdigest()[:16]}"
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            say(f"installing the locked dependencies of lowbeam[{extra}]")
            scratch = folder.with_suffix(".new")
            shutil.rmtree(scratch, ignore_errors=True)
            requirements = folder.with_suffix(".txt")
            requirements.write_text(pins)
            _uv(
                project,
                *("pip", "install", "--no-deps", "--only-binary", ":all:", "--link-mode", "copy"),
                *("--target", str(scratch), "--python-version", PYTHON_VERSION, "-r", str(requirements)),
            )
            scratch.rename(folder)
    return folder


def _uv(project: Path, *args: str) -> str:
    if not shutil.which("uv"):
        raise MissingToolError("building an image of the project needs uv: `pip install uv`")
    done = subprocess.run(["uv", *args], cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"uv {' '.join(args[:2])} failed:\n{done.stderr[-3000:]}")
    return done.stdout
