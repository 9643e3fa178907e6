"""The control plane as plain processes: etcd, API server, controller-manager, scheduler, and KWOK and Prometheus.

Decides the flags and nothing else: each function returns a `Command`; `cluster.py` runs them. Real RBAC, the Node
authorizer and NodeRestriction are on; every part has an identity of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import build, paths
from .network import Network
from .pki import Authority, Pair, write_kubeconfig
from .process import Command

# With the default client limits (20-50 requests/s) 500 pods take 25 s; these make it a few seconds.
_QPS, _BURST = 500, 1000
# An API server that a test stops for 60 s must not cost every node its Ready condition.
_NODE_GRACE = "120s"
PORTS = ("etcd", "etcd-peer", "apiserver", "controller-manager", "scheduler", "kwok", "prometheus")

RBAC: tuple[dict[str, Any], ...] = (
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "localcluster:kwok"},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["nodes", "nodes/status", "pods", "pods/status"],
                "verbs": ["get", "list", "watch", "update", "patch", "delete"],
            },
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["get", "list", "watch", "create", "update", "patch"],
            },
            {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]},
        ],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "localcluster:prometheus"},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["nodes", "pods", "services", "endpoints"],
                "verbs": ["get", "list", "watch"],
            },
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
        ],
    },
    *(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"localcluster:{user}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }
        for user, role in (
            ("kwok", "localcluster:kwok"),
            ("prometheus", "localcluster:prometheus"),
            ("kube-apiserver-kubelet-client", "system:kubelet-api-admin"),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Flags of the control plane of one cluster, whose keys and configs are files in `home`."""

    name: str
    home: Path
    network: Network
    ports: dict[str, int]

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{self.network.host_ip}:{self.ports['apiserver']}"

    @property
    def prometheus_url(self) -> str:
        """URL of Prometheus."""
        return f"http://{self.network.host_ip}:{self.ports['prometheus']}"

    @property
    def pki(self) -> Path:
        """Folder of keys and certificates."""
        return self.home / "pki"

    def make_identities(self) -> Authority:
        """Make the CA, the API server's certificates and one kubeconfig per part."""
        authority = Authority(self.pki)
        authority.signing_pair("sa")
        authority.server(
            "apiserver",
            sorted({self.network.host_ip, "127.0.0.1", self.network.kubernetes_ip}),
            [
                "localhost",
                "kubernetes",
                *(f"kubernetes.default{suffix}" for suffix in ("", ".svc", ".svc.cluster.local")),
            ],
        )
        authority.client("kubelet-client", "kube-apiserver-kubelet-client")
        self.kubeconfig("admin", authority.client("admin", "admin", "system:masters"))
        for user in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
            self.kubeconfig(user, authority.client(user, f"system:{user}"))
        for user in ("kwok", "prometheus"):
            self.kubeconfig(user, authority.client(user, user))
        return authority

    def kubeconfig(self, user: str, pair: Pair) -> Path:
        """Write the kubeconfig of one identity."""
        path = self.home / ("kubeconfig" if user == "admin" else f"{user}.kubeconfig")
        return write_kubeconfig(path, cluster=self.name, server=self.server, authority=self.pki / "ca.crt", user=pair)

    def _command(self, part: str, *argv: str | Path) -> Command:
        return Command(part, tuple(str(a) for a in argv), self.home / "logs" / f"{part}.log", {})

    def etcd(self) -> Command:
        """The store. Without fsync: a test cluster need not survive a power cut."""
        client = f"http://127.0.0.1:{self.ports['etcd']}"
        peer = f"http://127.0.0.1:{self.ports['etcd-peer']}"
        return self._command(
            "etcd",
            build.binary("etcd"),
            f"--data-dir={self.home / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )

    def apiserver(self) -> Command:
        """The API server, with verified TLS on both sides and real authorization."""
        pki, ip = self.pki, self.network.host_ip
        # The API server refuses a loopback address as the endpoint of the `kubernetes` Service.
        reconciler = () if self.network.routed else ("--endpoint-reconciler-type=none",)
        return self._command(
            "apiserver",
            build.binary("kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self.ports['etcd']}",
            f"--bind-address={ip}",
            f"--advertise-address={ip}",
            f"--secure-port={self.ports['apiserver']}",
            f"--service-cluster-ip-range={self.network.service_cidr}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki / 'sa.pub'}",
            f"--service-account-signing-key-file={pki / 'sa.key'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--anonymous-auth=false",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'kubelet-client.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged",
            *reconciler,
        )

    def controller_manager(self) -> Command:
        """The built-in controllers."""
        pki = self.pki
        return self._command(
            "controller-manager",
            build.binary("kube-controller-manager"),
            f"--kubeconfig={self.home / 'kube-controller-manager.kubeconfig'}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.ports['controller-manager']}",
            "--leader-elect=false",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={pki / 'sa.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            f"--kube-api-qps={_QPS}",
            f"--kube-api-burst={_BURST}",
            f"--node-monitor-grace-period={_NODE_GRACE}",
        )

    def scheduler(self) -> Command:
        """The default scheduler; its client limits can only be set by file."""
        config = self.home / "scheduler.yaml"
        document = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {
                "kubeconfig": str(self.home / "kube-scheduler.kubeconfig"),
                "qps": _QPS,
                "burst": _BURST,
            },
        }
        config.write_text(yaml.safe_dump(document, sort_keys=False))
        return self._command(
            "scheduler",
            build.binary("kube-scheduler"),
            f"--config={config}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.ports['scheduler']}",
        )

    def kwok(self) -> Command:
        """KWOK, which plays the kubelet of every node annotated `kwok.x-k8s.io/node=fake` and of no other."""
        return self._command(
            "kwok",
            build.binary("kwok"),
            f"--kubeconfig={self.home / 'kwok.kubeconfig'}",
            f"--config={build.asset('kwok')},{paths.KWOK_STAGES}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--node-lease-duration-seconds=40",
            f"--cidr={self.network.kwok_cidr}",
            f"--node-ip={self.network.host_ip}",
            f"--server-address=127.0.0.1:{self.ports['kwok']}",
        )

    def prometheus(self) -> Command:
        """Prometheus; scrapes pods annotated `prometheus.io/scrape: "true"`, rules from `prometheus/rules/*.yaml`."""
        folder = self.home / "prometheus"
        (folder / "rules").mkdir(parents=True, exist_ok=True)
        config = folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump(self._prometheus_config(folder), sort_keys=False))
        return self._command(
            "prometheus",
            build.binary("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=6h",
            f"--web.listen-address={self.network.host_ip}:{self.ports['prometheus']}",
            "--web.enable-lifecycle",
        )

    def _prometheus_config(self, folder: Path) -> dict[str, Any]:
        annotation = "__meta_kubernetes_pod_annotation_prometheus_io_"
        relabel = [
            {"source_labels": [f"{annotation}scrape"], "regex": "true", "action": "keep"},
            {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "Running", "action": "keep"},
            # A pod without a port annotation is scraped on the port that discovery found.
            {
                "source_labels": ["__meta_kubernetes_pod_ip", f"{annotation}port"],
                "regex": "(.+);(.+)",
                "replacement": "$1:$2",
                "target_label": "__address__",
            },
            {"source_labels": [f"{annotation}path"], "regex": "(.+)", "target_label": "__metrics_path__"},
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
            {"source_labels": ["__meta_kubernetes_pod_node_name"], "target_label": "node"},
            {"regex": "__meta_kubernetes_pod_label_(.+)", "action": "labelmap"},
        ]
        discovery = {"role": "pod", "kubeconfig_file": str(self.home / "prometheus.kubeconfig")}
        return {
            "global": {"scrape_interval": "5s", "scrape_timeout": "4s", "evaluation_interval": "5s"},
            "rule_files": [str(folder / "rules" / "*.yaml")],
            "scrape_configs": [
                {"job_name": "pods", "kubernetes_sd_configs": [discovery], "relabel_configs": relabel},
            ],
        }
