"""The same tests on kind (`CLUSTER=kind`), for machines with a container engine and no root, or no Linux.

The nodes of `kind-config.yaml` are kind's; KWOK runs beside them as a process, with pod IPs out of 127.0.0.0/8. Parts
cannot be stopped one by one here. Not run in the project's own CI, which has no container engine.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from . import build, network, paths, process
from .client import ClusterClient
from .cluster import SAMPLE_KWOK_NODES
from .errors import LocalClusterError, MissingToolError
from .process import Command

CONFIG = paths.PACKAGE.parents[1] / "kind-config.yaml"


class KindCluster(ClusterClient):
    """A cluster made by kind, with KWOK beside it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._home = paths.cluster_dir(f"kind-{name}")
        self._network = network.claim(self._home, routed=False)

    @classmethod
    def up(cls, name: str, kwok_nodes: Path = SAMPLE_KWOK_NODES) -> KindCluster:
        """Create the cluster and wait until its nodes and KWOK's are ready."""
        if not shutil.which("kind"):
            raise MissingToolError("CLUSTER=kind: install kind and a container engine, or unset CLUSTER")
        cluster = cls(name)
        try:
            cluster._kind("create", "cluster", f"--config={CONFIG}", "--wait=120s")
            port = cluster._network.free_ports("kwok")["kwok"]
            process.spawn(cluster._kwok(port), cluster._home)
            cluster.kubectl("create", "-f", str(kwok_nodes))
            cluster.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s")
        except BaseException:
            cluster.down()
            raise
        return cluster

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._name

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the administrator."""
        return self._home / "kubeconfig"

    @property
    def kwok_cidr(self) -> str:
        """Range of the pod IPs on KWOK nodes."""
        return self._network.kwok_cidr

    def load_image(self, archive: Path) -> None:
        """Import an OCI archive into every node."""
        self._kind("load", "image-archive", str(archive))

    def down(self) -> None:
        """Delete the cluster and end KWOK."""
        process.stop(list(process.marked(self._home)))
        try:
            self._kind("delete", "cluster")
        finally:
            shutil.rmtree(self._home, ignore_errors=True)
            network.release(self._network, self._home)

    def _kwok(self, port: int) -> Command:
        argv = (
            build.binary("kwok"),
            f"--kubeconfig={self.kubeconfig}",
            f"--config={build.asset('kwok')},{paths.KWOK_STAGES}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--node-lease-duration-seconds=40",
            f"--cidr={self.kwok_cidr}",
            f"--server-address=127.0.0.1:{port}",
        )
        return Command("kwok", tuple(str(a) for a in argv), self._home / "kwok.log", {})

    def _kind(self, *args: str) -> None:
        command = ["kind", *args, f"--name={self._name}"]
        if args[0] != "load":
            command.append(f"--kubeconfig={self.kubeconfig}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LocalClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
