"""Real nodes: containerd, runc, kubelet, kube-proxy and a device plugin, each node in namespaces of its own.

A node is a holder process with its own network and mount namespace. The usual paths (/var/lib/kubelet, /run/containerd,
...) are the node's folder there, so nothing of a node lands in the host's own directories; iptables, nftables and CNI
bridges live in the node's network namespace and end with it. What does reach the machine: cgroups and a few sysctls,
both recorded before they change (`machine.py`). Needs root and Linux.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import build, debian, images, machine, paths, process
from .controlplane import ControlPlane
from .errors import LocalClusterError
from .network import Network, ip, require_node_rights
from .pki import Authority
from .process import Command, Running
from .state import State

REAL_NODE_LABEL = "lowbeam.dev/real-node=true"
"""Label of every node that runs real containers; KWOK's nodes do not have it."""
_PROGRAMS = {"runc": "runc", "iptables": "iptables", "nft": "nftables", "ip": "iproute2", "unshare": "util-linux"}
DIRECTORIES = {
    "/var/lib/kubelet": "kubelet",
    "/var/lib/containerd": "containerd",
    "/run/containerd": "run",
    "/run/netns": "netns",
    "/var/log/pods": "pod-logs",
    "/var/log/containers": "container-logs",
    "/var/lib/cni": "cni-state",
}
"""Path in the node's mount namespace -> folder of the node."""


def prepare_machine() -> None:
    """Check rights and programs; installs missing Debian packages when it can."""
    require_node_rights()
    debian.require(_PROGRAMS)


@dataclass(frozen=True, slots=True)
class RealNode:
    """Real node `number` (from 1) of a cluster."""

    state: State
    plane: ControlPlane
    number: int

    @property
    def name(self) -> str:
        """Name of the Node object."""
        return f"node-{self.number}"

    @property
    def home(self) -> Path:
        """Folder of the node."""
        return self.state.home / self.name

    @property
    def cgroup(self) -> str:
        """Name of the node's cgroup below each controller."""
        return f"lowbeam-{self.state.network.index}-{self.number}"

    def holder(self) -> Command:
        """Make folders and cgroups; returns the command that holds the node's namespaces."""
        for folder in DIRECTORIES.values():
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        self.state.cgroups.append(self.cgroup)
        self.state.save()
        machine.make_cgroup(self.cgroup)
        steps = [
            f"mount --bind {shlex.quote(str(self.home / folder))} {inside}" for inside, folder in DIRECTORIES.items()
        ]
        script = " && ".join([*steps, "ip link set lo up", f"exec {shlex.quote(str(build.binary('pause')))}"])
        return self._command("netns", "unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script)

    def holds(self, holder: Running) -> bool:
        """Return whether the holder has finished its mounts."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{holder.pid}/exe").resolve() == build.binary("pause").resolve()
        return False

    def connect(self, holder: Running) -> None:
        """Plug the node into the cluster's bridge and set the routes of both sides."""
        network, number = self.state.network, self.number
        port, node_ip = f"{network.bridge}n{number}", network.node_ip(number)
        ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        ip("link", "set", port, "master", network.bridge, "up")
        ip("route", "add", network.node_pod_cidr(number), "via", node_ip)
        if number == 1:
            # ClusterIPs work from the host too: node 1's kube-proxy translates them.
            ip("route", "add", network.service_cidr, "via", node_ip)

        def inside(*args: str) -> None:
            subprocess.run(["nsenter", "-t", str(holder.pid), "--net", "ip", *args], check=True)

        inside("address", "add", f"{node_ip}/24", "dev", "eth0")
        inside("link", "set", "eth0", "up")
        inside("route", "add", "default", "via", network.host_ip)
        for other in range(1, self.state.spec.nodes + 1):
            if other != number:
                inside("route", "add", network.node_pod_cidr(other), "via", network.node_ip(other))

    def commands(self, authority: Authority, holder: Running) -> Iterator[Command]:
        """Write the node's configuration; yields its parts in the order of starting."""
        network, config = self.state.network, self.home / "config"
        (config / "net.d").mkdir(parents=True, exist_ok=True)
        (config / "resolv.conf").write_text("")
        (config / "containerd.toml").write_text(self._containerd_config(config))
        (config / "net.d" / "10-bridge.conflist").write_text(json.dumps(_cni_config(network, self.number)))
        serving = authority.server(self.name, [network.node_ip(self.number)], [self.name])
        kubelet = self._kubelet_config(config) | {
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
        }
        (config / "kubelet.yaml").write_text(yaml.safe_dump(kubelet))
        (config / "kube-proxy.yaml").write_text(yaml.safe_dump(self._proxy_config()))
        client = authority.client(f"{self.name}-client", f"system:node:{self.name}", "system:nodes")
        kubeconfig = self.plane.kubeconfig(self.name, client)
        yield self._inside(holder, "containerd", build.binary("containerd"), "--config", config / "containerd.toml")
        yield self._inside(
            holder,
            "kubelet",
            build.binary("kubelet"),
            f"--config={config / 'kubelet.yaml'}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={network.node_ip(self.number)}",
            f"--node-labels={REAL_NODE_LABEL}",
        )
        yield self._inside(holder, "kube-proxy", build.binary("kube-proxy"), f"--config={config / 'kube-proxy.yaml'}")
        if gpus := self.state.spec.fake_gpus:
            sockets = "/var/lib/kubelet/device-plugins"
            yield self._inside(holder, "fakegpu", build.binary("fakegpu"), str(gpus), sockets)

    def _inside(self, holder: Running, part: str, *argv: str | Path) -> Command:
        return self._command(part, *_enter(holder), *argv)

    def _command(self, part: str, *argv: str | Path) -> Command:
        part = f"{part}-{self.number}"
        # containerd finds its shim by PATH.
        path = os.pathsep.join([str(build.binary("containerd").parent), "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
        return Command(part, tuple(str(a) for a in argv), self.state.home / "logs" / f"{part}.log", {"PATH": path})

    def _containerd_config(self, config: Path) -> str:
        return f"""version = 3
imports = []
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{images.PAUSE}'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = '{shutil.which("runc")}'
  SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['{build.binary("bridge").parent}']
  conf_dir = '{config / "net.d"}'
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.internal.v1.opt']
  path = '{self.home / "opt"}'
"""

    def _kubelet_config(self, config: Path) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "failSwapOn": False,
            "address": self.state.network.node_ip(self.number),
            "readOnlyPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.plane.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [self.state.network.dns_ip],
            "clusterDomain": "cluster.local",
            "resolvConf": str(config / "resolv.conf"),
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
            "nodeStatusUpdateFrequency": "5s",
            "syncFrequency": "10s",
            "volumePluginDir": str(self.home / "volume-plugins"),
        }

    def _proxy_config(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            # Traffic from elsewhere (the host) is masqueraded, or its answers would not find back.
            "clusterCIDR": self.state.network.pod_cidr,
            "hostnameOverride": self.name,
            "clientConnection": {"kubeconfig": str(self.plane.home / "kube-proxy.kubeconfig")},
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }


def _enter(holder: Running) -> tuple[str, ...]:
    return ("nsenter", "-t", str(holder.pid), "--net", "--mount", "--")


def _cni_config(network: Network, number: int) -> dict[str, Any]:
    ranges = [[{"subnet": network.node_pod_cidr(number)}]]
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "lowbeam", "plugins": [bridge, portmap]}


def coredns_objects(network: Network) -> list[dict[str, Any]]:
    """Return the objects of the cluster's DNS; it runs on real nodes only."""
    text = (paths.PACKAGE / "coredns.yaml").read_text().replace("CLUSTER_DNS_IP", network.dns_ip)
    return list(yaml.safe_load_all(text))


def base_images() -> list[Path]:
    """Return the archives that every node needs."""
    return [images.pause_image(), images.coredns_image(), images.hostbase_image()]


def containerd_answers(holder: Running) -> bool:
    """Return whether containerd of the node behind `holder` serves requests."""
    command = [*_enter(holder), str(build.binary("ctr")), "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def load_image(state: State, archive: Path) -> None:
    """Import an OCI archive into every real node's containerd."""
    holders = [run for part, run in state.processes.items() if part.startswith("netns-")]
    if not holders:
        raise LocalClusterError(f"cluster {state.spec.name!r} has no real node to load {archive.name} into")
    for holder in holders:
        command = [*_enter(holder), str(build.binary("ctr")), "-n", "k8s.io", "images", "import", str(archive)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LocalClusterError(f"import of {archive}: {done.stderr.strip()}")


def tear_down(state: State) -> None:
    """End every real node: kubelets first, so that nothing restarts; then all that runs in the nodes' cgroups."""
    ours = [run for part, run in state.processes.items() if part.startswith(("kubelet-", "fakegpu-", "kube-proxy-"))]
    process.stop(ours, grace_s=2.0)
    machine.kill_cgroups(state.cgroups)


def restore_machine(state: State) -> None:
    """Remove the nodes' cgroups, and what the machine lent them when no other cluster needs it."""
    machine.remove_cgroups(state.cgroups)
    if state.spec.nodes:
        machine.release(state.home)
