"""Load generators that somebody else wrote, for tests/clients: an environment for each in the cache folder.

Each client is installed from its own lock file (`tests/clients/NAME.lock.txt`), by hash, into an environment that is
named after the lock's content; nothing of it reaches the project's own environment. `python -m tools.clients lock`
renews the lock files.

Invariants: an environment is complete or not used (a stamp is its last file); two installations of one client at the
same time make one (a file lock per client); no lock file names a package index.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .localcluster import paths
from .localcluster.build import locked
from .localcluster.errors import MissingToolError

LOCKS = Path(__file__).resolve().parents[1] / "tests" / "clients"
PYTHON = "3.11"
"""The lock files are resolved for this version."""
CLIENTS: Mapping[str, tuple[str, ...]] = {
    "aiperf": ("aiperf==0.13.0",),
    # torch as in uv.lock: uv then links the copy that it has.
    "guidellm": ("guidellm==0.8.1", "torch==2.15.0"),
}
_STAMP = ".complete"


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"[clients] {message}", file=sys.stderr, flush=True)


def lock_file(name: str) -> Path:
    """Where a client's pinned requirements are."""
    return LOCKS / f"{name}.lock.txt"


def program(name: str) -> Path:
    """Return the path of a client's program, installed now if the cache has none."""
    return install(name) / "bin" / name


def install(name: str) -> Path:
    """Return the folder of a client's environment, made now if the cache has none."""
    pinned = lock_file(name)
    home = paths.cache() / "clients"
    target = home / f"{name}-{hashlib.sha256(pinned.read_bytes()).hexdigest()[:16]}"
    with locked(home / f"{name}.lock"):
        if (target / _STAMP).exists():
            return target
        started = time.monotonic()
        say(f"installing {name} ({pinned.name}) into {target}")
        shutil.rmtree(target, ignore_errors=True)
        _uv("venv", "--quiet", "--python", PYTHON, str(target))
        python = str(target / "bin" / "python")
        _uv("pip", "install", "--quiet", "--require-hashes", "--python", python, "-r", str(pinned))
        (target / _STAMP).touch()
        say(f"installed {name} in {time.monotonic() - started:.0f} s")
    return target


def lock(name: str) -> None:
    """Resolve a client's requirements anew, with the hash of every file that may be installed."""
    source = "\n".join(CLIENTS[name]) + "\n"
    resolve = ("pip", "compile", "--quiet", "--generate-hashes", "--python-version", PYTHON)
    plain = ("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links")
    pinned = _uv(*resolve, *plain, "-", source=source)
    header = f"# {' '.join(CLIENTS[name])}: made by `python -m tools.clients lock {name}`\n"
    lock_file(name).write_text(header + pinned, encoding="utf-8")


def _uv(*arguments: str, source: str = "") -> str:
    own = paths.cache() / "uv" / "bin" / "uv"  # where the Makefile puts one
    program = shutil.which("uv") or (str(own) if own.exists() else None)
    if program is None:
        raise MissingToolError("no uv: run `make env` once, or `pip install uv`, and try again")
    # A virtual environment that is active would be taken for the one that is meant.
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    done = subprocess.run(
        [program, *arguments], input=source, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingToolError(f"uv {' '.join(arguments[:2])} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.clients", description=__doc__)
    parser.add_argument("command", choices=("install", "lock"))
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"default: {', '.join(CLIENTS)}")
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.clients if name not in CLIENTS]:
        parser.error(f"unknown client {unknown[0]!r}; known: {', '.join(CLIENTS)}")
    try:
        for name in arguments.clients or CLIENTS:
            (install if arguments.command == "install" else lock)(name)
    except MissingToolError as error:
        print(f"clients: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
