"""OCI archives without a registry: the node's own small images, a Debian base, and builds from Dockerfiles.

Every archive is cached outside the tree by what went into it. Images are named `localhost/NAME:TAG`; pods use them
with `imagePullPolicy: Never`. Nothing of this machine's package configuration ends up in an image.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import build, debian, paths
from .build import locked, say
from .errors import BuildError
from .oci import write_archive

PAUSE = "localhost/pause:1"
COREDNS = "localhost/coredns:1"
HOSTBASE = "localhost/hostbase:1"
_DEBIAN = "bookworm"
_BASE = "localhost/debian-python:3.11"
_BASE_PACKAGES = "python3,python3-distutils,ca-certificates"


def _cached(file_name: str, make: Callable[[Path], object]) -> Path:
    folder = paths.cache() / "images"
    target = folder / file_name
    if not target.exists():
        with locked(folder / f"{file_name}.lock"):
            if not target.exists():
                make(target)
    return target


def _single_binary(image: str, name: str) -> Path:
    program = build.binary(name)

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as root:
            shutil.copy(program, Path(root) / name)
            write_archive(target, image, Path(root), entrypoint=[f"/{name}"])

    return _cached(f"{name}-{program.parent.name.rsplit('-', 1)[-1]}.tar", make)


def pause_image() -> Path:
    """Return the archive of the sandbox image."""
    return _single_binary(PAUSE, "pause")


def coredns_image() -> Path:
    """Return the archive of CoreDNS."""
    return _single_binary(COREDNS, "coredns")


def hostbase_image() -> Path:
    """Return the archive of an empty root, for pods that mount the host's /usr, interpreter and venv read-only."""

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            for folder in ("usr", "etc", "root", "tmp", "proc", "sys", "dev", "opt", "var/tmp", "run"):
                (root / folder).mkdir(parents=True)
            for folder in ("tmp", "var/tmp"):
                (root / folder).chmod(0o1777)
            for link in ("bin", "lib", "lib64", "sbin"):
                if Path("/", link).is_symlink():  # merged /usr, as on Debian 12 and later
                    (root / link).symlink_to(f"usr/{link}")
            (root / "etc/passwd").write_text(
                "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
            )
            (root / "etc/group").write_text("root:x:0:\n")
            (root / "etc/nsswitch.conf").write_text("hosts: files dns\n")
            write_archive(target, HOSTBASE, root, env={"HOME": "/root"})

    return _cached("hostbase-1.tar", make)


def base_image() -> str:
    """Return the name of a small Debian with Python 3.11, for a Dockerfile's `ARG BASE`; made by debootstrap once."""
    archive = base_archive()
    _buildah_image(archive, _BASE)
    return _BASE


def base_archive() -> Path:
    """Return the archive behind `base_image()`."""
    debian.require({"debootstrap": "debootstrap"})

    def make(target: Path) -> None:
        say(f"making the base image {_BASE} with debootstrap (about 75 s)")
        with tempfile.TemporaryDirectory(dir=target.parent) as name:
            root = Path(name) / "root"
            command = ["debootstrap", "--variant=minbase", f"--include={_BASE_PACKAGES}", _DEBIAN, str(root)]
            if mirror := _mirror():
                command.append(mirror)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BuildError(f"debootstrap failed:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
            # What a runtime image never needs; the apt configuration also names this machine's mirror.
            for rubbish in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
                shutil.rmtree(root / rubbish, ignore_errors=True)
            for file in [*(root / "var/log").rglob("*.log"), root / "etc/apt/sources.list", root / "etc/resolv.conf"]:
                file.unlink(missing_ok=True)
            write_archive(target, _BASE, root)

    return _cached(f"debian-python-{hashlib.sha256(_BASE_PACKAGES.encode()).hexdigest()[:12]}.tar", make)


def _mirror() -> str | None:
    """Return the mirror of the machine's own apt sources, so that debootstrap uses what works here."""
    printed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in printed.stdout.splitlines():
        site, _, codename = line.partition(" ")
        if codename.strip() == _DEBIAN:
            return site
    return None


def _storage() -> list[str]:
    root = paths.cache() / "buildah"
    return ["--root", str(root / "root"), "--runroot", str(root / "run"), "--storage-driver", "vfs"]


def _buildah(*args: str) -> str:
    debian.require({"buildah": "buildah", "runc": "runc"})
    done = subprocess.run(["buildah", *_storage(), *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"buildah {args[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def _buildah_image(archive: Path, name: str) -> None:
    """Make buildah know an archive by name; pulls it again when the archive is newer."""
    mark = paths.cache() / "buildah" / (archive.name + ".pulled")
    if mark.exists() and mark.stat().st_mtime >= archive.stat().st_mtime:
        return
    pulled = _buildah("pull", "--policy", "always", f"oci-archive:{archive}").split()[-1]
    _buildah("tag", pulled, name)
    mark.touch()


def build_image(dockerfile: Path, context: Path, tag: str, build_args: dict[str, str] | None = None) -> Path:
    """Build a Dockerfile without an engine and without pulling; returns the OCI archive of image `tag`.

    `ARG BASE` in the Dockerfile is `base_image()` unless `build_args` says otherwise. Steps run in a chroot with the
    host's network; a Dockerfile that needs Python packages copies wheels made on the host, so that it builds offline.
    """
    arguments = {"BASE": base_image(), **(build_args or {})}
    folder = paths.cache() / "images"
    archive = folder / (tag.replace("/", "_").replace(":", "_") + ".tar")
    with locked(folder / f"{archive.name}.lock"):
        options = [option for key, value in arguments.items() for option in ("--build-arg", f"{key}={value}")]
        # --timestamp: the same input gives the same image, whenever it is built.
        _buildah(
            *("bud", "--isolation", "chroot", "--pull-never", "--layers=false", "--timestamp", "0", "--format", "oci"),
            *options,
            *("-t", tag, "-f", str(dockerfile), str(context)),
        )
        scratch = archive.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        _buildah("push", tag, f"oci-archive:{scratch}:{tag}")
        # The archive is what is kept; left in buildah's store, every build would add a full copy.
        _buildah("rmi", tag)
        scratch.replace(archive)
    return archive
