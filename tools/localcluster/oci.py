"""Write an OCI image archive by hand: one layer, no registry, no engine."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CHUNK = 1 << 20


def write_archive(
    archive: Path, name: str, root: Path, *, entrypoint: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Path:
    """Pack the tree under `root` as image `name`; every file belongs to root in it."""
    with tempfile.NamedTemporaryFile(dir=archive.parent, suffix=".layer") as layer:
        with tarfile.open(fileobj=layer, mode="w") as tar:
            for entry in sorted(root.iterdir()):
                tar.add(entry, entry.name, filter=_owned_by_root)
        layer.flush()
        size, digest = layer.tell(), _digest_file(Path(layer.name))
        config = _encode(
            {
                "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
                "os": "linux",
                "config": {
                    "Env": [_PATH, *(f"{key}={value}" for key, value in (env or {}).items())],
                    **({"Entrypoint": list(entrypoint)} if entrypoint else {}),
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            }
        )
        manifest = _encode(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
                "layers": [
                    {
                        "mediaType": "application/vnd.oci.image.layer.v1.tar",
                        "digest": f"sha256:{digest}",
                        "size": size,
                    }
                ],
            }
        )
        annotations = {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rsplit(":", 1)[-1],
        }
        index = _encode(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [
                    _descriptor("application/vnd.oci.image.manifest.v1+json", manifest) | {"annotations": annotations}
                ],
            }
        )
        scratch = archive.with_suffix(".new")
        with tarfile.open(scratch, "w") as tar:
            _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _add(tar, "index.json", index)
            for body in (manifest, config):
                _add(tar, f"blobs/sha256/{hashlib.sha256(body).hexdigest()}", body)
            tar.add(layer.name, f"blobs/sha256/{digest}")
        scratch.replace(archive)
    return archive


def _owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _encode(document: Mapping[str, object]) -> bytes:
    return json.dumps(document).encode()


def _descriptor(media_type: str, body: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(body).hexdigest()}", "size": len(body)}


def _add(tar: tarfile.TarFile, name: str, body: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(body)
    tar.addfile(info, io.BytesIO(body))


def _digest_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
