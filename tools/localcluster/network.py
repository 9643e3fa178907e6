"""Addresses of a cluster: which ranges, which ports, and how KWOK's pod addresses become local to this machine.

Two modes. *routed* (needs CAP_NET_ADMIN): each cluster has a bridge with the API server's address, and the range of
KWOK's pod IPs is made local by AnyIP (`ip route add local RANGE dev lo`), so that an emulator can bind a socket on any
pod's IP and real pods can reach it. *loopback* (no rights): everything is on 127.0.0.1 and KWOK's pods get addresses
out of 127.0.0.0/8, which any process may bind. Its limit: Kubernetes refuses loopback addresses in EndpointSlices, so
Services of KWOK pods have no endpoints; talk to the pods' addresses.

Every cluster has a number of its own on this machine; ranges and ports follow from it, so clusters never collide.
Nothing here touches a route or link that is not the cluster's.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from . import paths
from .build import locked
from .errors import LocalClusterError, MissingToolError

_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21
# Below Linux's ephemeral ports (32768-60999): while an API server is stopped for a test, no outgoing connection of
# another program may be given its port.
_FIRST_PORT = 20_000
_PORTS_PER_CLUSTER = 300


def _capable(*numbers: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return all(mask >> number & 1 for number in numbers)
    return False


def can_route() -> bool:
    """Return whether this process may make links and routes."""
    return _capable(_CAP_NET_ADMIN) and shutil.which("ip") is not None


def require_node_rights() -> None:
    """Raise unless this process may run real nodes."""
    if os.geteuid() != 0 or not _capable(_CAP_NET_ADMIN, _CAP_SYS_ADMIN):
        raise MissingToolError("real nodes need root on Linux; without it use --kwok (control plane and KWOK only)")


def ip(*args: str) -> str:
    """Run iproute2."""
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalClusterError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Network:
    """The addresses of cluster number `index`."""

    MAX_CLUSTERS: ClassVar[int] = 32
    MAX_NODES: ClassVar[int] = 8

    index: int
    routed: bool

    @property
    def host_ip(self) -> str:
        """Where the API server listens."""
        return f"10.{224 + self.index}.0.1" if self.routed else "127.0.0.1"

    @property
    def kwok_cidr(self) -> str:
        """Range of the pod IPs on KWOK nodes; local to this machine."""
        return f"10.{128 + self.index}.0.0/16" if self.routed else f"127.{64 + self.index}.0.0/16"

    @property
    def service_cidr(self) -> str:
        """Range of ClusterIPs."""
        return f"10.{160 + self.index}.0.0/16"

    @property
    def dns_ip(self) -> str:
        """ClusterIP of kube-dns."""
        return f"10.{160 + self.index}.0.10"

    @property
    def kubernetes_ip(self) -> str:
        """ClusterIP of the `kubernetes` Service."""
        return f"10.{160 + self.index}.0.1"

    @property
    def pod_cidr(self) -> str:
        """Range of the pod IPs on all real nodes."""
        return f"10.{192 + self.index}.0.0/16"

    @property
    def bridge(self) -> str:
        """Name of the cluster's bridge on the host."""
        return f"lowbeam{self.index}"

    def node_ip(self, number: int) -> str:
        """Address of real node `number` (from 1) on the bridge."""
        return f"10.{224 + self.index}.0.{10 + number}"

    def node_pod_cidr(self, number: int) -> str:
        """Range of the pod IPs on real node `number`."""
        return f"10.{192 + self.index}.{number}.0/24"

    def create(self) -> None:
        """Make the bridge and the local range."""
        if not self.routed:
            return
        ip("link", "add", self.bridge, "type", "bridge")
        ip("address", "add", f"{self.host_ip}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        ip("route", "add", "local", self.kwok_cidr, "dev", "lo")

    def remove(self) -> None:
        """Take both away; whatever is already gone is fine. Routes to nodes go with the bridge."""
        if self.routed:
            for undo in (("route", "del", "local", self.kwok_cidr, "dev", "lo"), ("link", "del", self.bridge)):
                with contextlib.suppress(LocalClusterError):
                    ip(*undo)

    def free_ports(self, *names: str) -> dict[str, int]:
        """Return a free port for each name, out of this cluster's own window."""
        ports: dict[str, int] = {}
        first = _FIRST_PORT + self.index * _PORTS_PER_CLUSTER
        candidates = iter(range(first, first + _PORTS_PER_CLUSTER))
        for name in names:
            for port in candidates:
                if _free(port):
                    ports[name] = port
                    break
            else:
                raise LocalClusterError(f"no free port between {first} and {first + _PORTS_PER_CLUSTER}")
        return ports

    def _clashes(self) -> bool:
        """Return whether the machine already uses one of the ranges for something else."""
        ranges = (self.kwok_cidr, self.service_cidr, self.pod_cidr, f"{self.host_ip}/24")
        ours = [ipaddress.IPv4Network(cidr, strict=False) for cidr in ranges]
        for route in json.loads(ip("-j", "-4", "route", "show", "table", "all")):
            with contextlib.suppress(ValueError):
                taken = ipaddress.IPv4Network(route["dst"], strict=False)
                # A machine's own 10.0.0.0/8 or default route contains ours: the longer prefix wins, so no clash.
                if any(taken.subnet_of(own) for own in ours):
                    return True
        return False


def _free(port: int) -> bool:
    # The wildcard address: the bridge does not exist yet, and a listener on any address counts.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def claim(home: Path, *, routed: bool) -> Network:
    """Take the lowest free cluster number of this machine for the cluster in `home`."""
    home.mkdir(parents=True, exist_ok=True)  # an entry whose folder is gone counts as free
    paths.REGISTER.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):
        paths.REGISTER.chmod(0o1777)
    with locked(paths.REGISTER / f"lock-{os.getuid()}"):
        for index in range(Network.MAX_CLUSTERS):
            network = Network(index, routed)
            entry = paths.REGISTER / f"cluster-{index}"
            with contextlib.suppress(OSError):
                holder = Path(entry.read_text())
                if holder == home or not holder.is_dir():
                    entry.unlink()
            if routed and network._clashes():
                continue
            with contextlib.suppress(FileExistsError), entry.open("x") as file:
                file.write(str(home))
                return network
    raise LocalClusterError(f"{Network.MAX_CLUSTERS} clusters run already; take some down")


def release(network: Network, home: Path) -> None:
    """Give the number back."""
    entry = paths.REGISTER / f"cluster-{network.index}"
    with contextlib.suppress(OSError):
        if entry.read_text() == str(home):
            entry.unlink()
