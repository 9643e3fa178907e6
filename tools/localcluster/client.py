"""kubectl against one cluster: what every kind of cluster offers to tests and to the demo."""

from __future__ import annotations

import json
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import build, parts, paths
from .errors import LocalClusterError

_KUBECTL_TIMEOUT_S = 120.0


class ClusterClient(ABC):
    """A cluster that is up. As a context manager it goes down at the end of the block."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The cluster's name."""

    @property
    @abstractmethod
    def kubeconfig(self) -> Path:
        """Kubeconfig of the administrator."""

    @property
    @abstractmethod
    def kwok_cidr(self) -> str:
        """Range of the pod IPs on KWOK nodes; any process on this machine may bind a socket on them."""

    @abstractmethod
    def load_image(self, archive: Path) -> None:
        """Import an OCI archive into every real node."""

    @abstractmethod
    def down(self) -> None:
        """End the cluster and leave nothing behind."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def environment(self) -> dict[str, str]:
        """Return this process's environment with KUBECONFIG set, and kubectl and helm (when built) first on PATH."""
        tools = [build.binary("kubectl").parent]
        helm = paths.cache() / "bin" / f"helm-{parts.PARTS['helm'].key()}"
        if helm.is_dir():
            tools.append(helm)
        path = os.pathsep.join([*(str(t) for t in tools), os.environ.get("PATH", os.defpath)])
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def kubectl(self, *args: str, stdin: str | None = None, timeout_s: float = _KUBECTL_TIMEOUT_S) -> str:
        """Run kubectl as the administrator and return what it prints; a failure is an error with its message."""
        try:
            done = subprocess.run(
                [build.binary("kubectl"), f"--kubeconfig={self.kubeconfig}", *args],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LocalClusterError(f"kubectl {' '.join(args)}: no answer within {timeout_s:.0f} s") from error
        if done.returncode:
            raise LocalClusterError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *args: str) -> Any:
        """Return `kubectl get ... -o json`, decoded."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects server-side."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(listed))

    def binary(self, name: str) -> Path:
        """Return a tool of the pinned version (helm, kubeconform, ...), built now if missing."""
        return build.binary(name)
