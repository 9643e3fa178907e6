"""What can be built: one row per part, pinned by the go.mod and go.sum of its module folder.

Invariant: a binary belongs to exactly one part. Versions appear here only where a linker flag needs them.
To move a part to a new version: `go get -tool PACKAGE@VERSION` in its module folder, for kubernetes with every
staging module's `replace` moved along. What uses client-go and is not Kubernetes itself shares the module `common`: one
version of each dependency, compiled once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import paths
from .errors import LocalClusterError

KUBERNETES_VERSION = "v1.36.3"
_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
_KUBERNETES_FLAGS = tuple(
    f"-X {package}.{variable}={value}"
    for package in _VERSION_PACKAGES
    for variable, value in (("gitVersion", KUBERNETES_VERSION), ("gitMajor", _MAJOR), ("gitMinor", _MINOR))
)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One `go build`: the binaries it makes, from which module folder, with which flags."""

    name: str
    module: str
    binaries: Mapping[str, str]
    """Binary name -> Go package."""
    tags: str = ""
    ldflags: tuple[str, ...] = ()
    assets: tuple[str, tuple[str, ...]] | None = None
    """Go module and the YAML files in it to join into `assets.yaml` beside the binaries."""
    envtest: bool = field(default=False)
    """Whether `KUBEBUILDER_ASSETS` may provide the binary."""
    on_demand: bool = field(default=False)
    """Built when something asks for it, not by `build` without names."""

    @property
    def folder(self) -> Path:
        """The committed module folder."""
        return paths.MODULES / self.module

    def key(self) -> str:
        """Return the cache key: changes with go.mod, go.sum, own sources, flags and packages, and with nothing else."""
        digest = hashlib.sha256()
        for file in sorted([self.folder / "go.mod", self.folder / "go.sum", *self.folder.rglob("*.go")]):
            digest.update(file.name.encode() + b"\0" + (file.read_bytes() if file.exists() else b"") + b"\0")
        digest.update(repr((sorted(self.binaries.items()), self.tags, self.ldflags, self.assets)).encode())
        return digest.hexdigest()[:16]


_KWOK_STAGES = (
    "kustomize/stage/node/fast/node-initialize.yaml",
    "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "kustomize/stage/pod/fast/pod-ready.yaml",
    "kustomize/stage/pod/fast/pod-complete.yaml",
    "kustomize/stage/pod/fast/pod-delete.yaml",
)


def _kubernetes(name: str, *commands: str, envtest: bool = False) -> Part:
    binaries = {command: f"k8s.io/kubernetes/cmd/{command}" for command in commands}
    return Part(name, "kubernetes", binaries, ldflags=_KUBERNETES_FLAGS, envtest=envtest)


_ALL = (
    Part("etcd", "etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, envtest=True),
    _kubernetes("kube-apiserver", "kube-apiserver", envtest=True),
    _kubernetes("kubectl", "kubectl", envtest=True),
    _kubernetes("kube-controllers", "kube-controller-manager", "kube-scheduler"),
    _kubernetes("kube-node", "kubelet", "kube-proxy"),
    Part(
        "kwok",
        "common",
        {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        assets=("sigs.k8s.io/kwok", _KWOK_STAGES),
    ),
    Part(
        "containerd",
        "common",
        {
            name: f"github.com/containerd/containerd/v2/cmd/{name}"
            for name in ("containerd", "containerd-shim-runc-v2", "ctr")
        },
        tags="no_btrfs no_zfs no_devmapper",
        ldflags=("-X github.com/containerd/containerd/v2/version.Version=2.4.2",),
    ),
    Part(
        "cni",
        "cni",
        {
            path.rsplit("/", 1)[-1]: f"github.com/containernetworking/plugins/plugins/{path}"
            for path in ("main/bridge", "main/loopback", "ipam/host-local", "meta/portmap")
        },
    ),
    Part("coredns", "common", {"coredns": "lowbeam.dev/localcluster/common/coredns"}),
    Part(
        "nodetools",
        "nodetools",
        {name: f"lowbeam.dev/localcluster/nodetools/{name}" for name in ("fakegpu", "pause")},
    ),
    Part(
        "prometheus",
        "common",
        {"prometheus": "github.com/prometheus/prometheus/cmd/prometheus"},
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
    Part(
        "promtool",
        "common",
        {"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
    Part(
        "monitoring",
        "monitoring",
        {},
        assets=(
            "github.com/prometheus-operator/prometheus-operator",
            tuple(
                f"example/prometheus-operator-crd/monitoring.coreos.com_{kinds}.yaml"
                for kinds in ("podmonitors", "prometheusrules")
            ),
        ),
    ),
    Part("helm", "common", {"helm": "helm.sh/helm/v4/cmd/helm"}),
    Part("helm-unittest", "common", {"helm-unittest": "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"}),
    Part("kubeconform", "kubeconform", {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"}),
    Part("k6", "k6", {"k6": "go.k6.io/k6"}, on_demand=True),
)

PARTS: Mapping[str, Part] = {part.name: part for part in _ALL}
USUAL = tuple(part.name for part in _ALL if not part.on_demand)
"""What `build` makes when no part is named."""
_OWNER: Mapping[str, Part] = {binary: part for part in _ALL for binary in part.binaries}

CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl", "kube-controllers")
NODE = ("kube-node", "containerd", "cni", "coredns", "nodetools")


def part_of(binary: str) -> Part:
    """Return the part that makes `binary`."""
    try:
        return _OWNER[binary]
    except KeyError:
        known = ", ".join(sorted(_OWNER))
        raise LocalClusterError(f"no part makes a binary {binary!r}; known binaries: {known}") from None
