"""Images of the project itself: dependencies at their locked versions, installed on this machine and copied in.

So the image build needs no network and no package configuration, and none of it can end up in the image. The Dockerfile
finds one folder in its context: `python/`, a tree for `PYTHONPATH` or site-packages, scripts in `python/bin/`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import paths
from .build import locked, say
from .errors import BuildError, MissingToolError
from .images import build_image

PYTHON_VERSION = "3.11"
"""Of `images.base_image()`; wheels are chosen for it, whatever Python runs this."""
_LINKED = re.compile(r"=> (\S+) \(")
_TRITON = re.compile(r"triton(-.*)?")


def build_project_image(project: Path, dockerfile: Path, tag: str, extra: str, *, only_for_cpus: bool = False) -> Path:
    """Build an image with the project and one of its extras in `python/`; returns the OCI archive.

    `only_for_cpus` leaves out what torch's build for CUDA never loads on a CPU: half of it. What it is linked with has
    to stay, or it could not be imported; torch's own build for CPUs, where its index can be reached, has none of that.
    """
    dependencies = _dependencies(project, extra)
    with tempfile.TemporaryDirectory(dir=paths.cache()) as name:
        tree = Path(name) / "python"
        left_out = _never_loaded_on_a_cpu(dependencies) if only_for_cpus else None
        shutil.copytree(dependencies, tree, copy_function=os.link, symlinks=True, ignore=left_out)
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
            # Linked to uv's cache where that is on the same disk: torch and its libraries are gigabytes.
            _uv(
                project,
                *("pip", "install", "--no-deps", "--only-binary", ":all:"),
                *("--target", str(scratch), "--python-version", PYTHON_VERSION, "-r", str(requirements)),
            )
            scratch.rename(folder)
    return folder


def _never_loaded_on_a_cpu(tree: Path) -> Callable[[str, list[str]], set[str]]:
    """For copytree: the libraries of NVIDIA's packages that torch is not linked with, triton, and C++ headers.

    Licences stay. The linker's own answer is asked, so that another version of torch needs no other list.
    """
    torch = tree / "torch"
    linked = subprocess.run(["ldd", torch / "lib" / "libtorch_python.so"], capture_output=True, text=True, check=True)
    needed = {Path(path).resolve() for path in _LINKED.findall(linked.stdout)}

    def left_out(folder: str, names: list[str]) -> set[str]:
        here = Path(folder)
        if here == tree:
            return {name for name in names if _TRITON.fullmatch(name)}
        if here == torch:
            return {"include"} & set(names)
        if here.relative_to(tree).parts[0] != "nvidia":
            return set()
        return {name for name in names if (here / name).is_file() and (here / name).resolve() not in needed}

    return left_out


def _uv(project: Path, *args: str) -> str:
    if not shutil.which("uv"):
        raise MissingToolError("building an image of the project needs uv: `pip install uv`")
    done = subprocess.run(["uv", *args], cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"uv {' '.join(args[:2])} failed:\n{done.stderr[-3000:]}")
    return done.stdout
