"""The handle on one cluster: start it, use it, stop and start single parts, take it down.

Invariants: one `up` or `down` per name at a time (a file lock); a failed `up` leaves nothing behind; a cluster that
belongs to a process which has ended is cleaned by the next `up`.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import build, machine, network, node, parts, paths, process
from .build import locked, say
from .client import ClusterClient
from .controlplane import PORTS, RBAC, ControlPlane
from .errors import LocalClusterError
from .pki import Authority
from .process import Command, Running
from .state import ClusterSpec, State, names, this_process

SAMPLE_KWOK_NODES = paths.PACKAGE / "kwok-nodes.yaml"
"""12 GPU nodes of 3 classes in 2 pools."""
_READY_TIMEOUT_S = 120.0
# An API server would drain open watches for a minute; nobody here waits for that.
_STOP_GRACE_S = 2.0


class Cluster(ClusterClient):
    """A cluster made of plain processes on this machine."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._plane = ControlPlane(state.spec.name, state.home, state.network, state.ports)

    # ---- start and end

    @classmethod
    def up(cls, spec: ClusterSpec, *, keep: bool = False) -> Cluster:
        """Build what is missing, start the cluster and wait until it is ready.

        Unless `keep`, the cluster belongs to the calling process: when that is gone, the next `up` cleans it away.
        """
        if spec.nodes:
            node.prepare_machine()
        build.ensure_all(_needed(spec))
        clean_orphans()
        with locked(_lock(spec.name)):
            if old := State.load(spec.name):
                if not old.abandoned():
                    raise LocalClusterError(
                        f"cluster {spec.name!r} is up already; use it, or `down --name {spec.name}` first"
                    )
                say(f"cleaning up after an earlier run of {spec.name}")
                _tear_down(old)
            home = paths.cluster_dir(spec.name)
            shutil.rmtree(home, ignore_errors=True)
            claimed = network.claim(home, routed=network.can_route())
            state = State(home, spec, claimed, None if keep else this_process())
            state.ports.update(claimed.free_ports(*PORTS))
            state.save()
            cluster = cls(state)
            started = time.monotonic()
            try:
                cluster._start()
            except BaseException:
                _tear_down(state)
                raise
            say(f"cluster {spec.name} is ready after {time.monotonic() - started:.1f} s")
            return cluster

    @classmethod
    def attach(cls, name: str) -> Cluster:
        """Return the handle on a cluster that is up."""
        state = State.load(name)
        if state is None or not state.ready:
            raise LocalClusterError(f"no cluster {name!r} is up; start it with `up --name {name}`")
        return cls(state)

    def down(self) -> None:
        """End every process and undo everything the cluster took from the machine."""
        take_down(self.name)

    def keep(self) -> None:
        """Let the cluster outlive the process that started it."""
        self._state.owner = None
        self._state.save()

    # ---- use

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._state.spec.name

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the administrator."""
        return self._state.home / "kubeconfig"

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self._plane.server

    @property
    def prometheus_url(self) -> str:
        """URL of Prometheus."""
        if "prometheus" not in self._state.commands:
            raise LocalClusterError(f"cluster {self.name!r} was started without --prometheus")
        return self._plane.prometheus_url

    @property
    def kwok_cidr(self) -> str:
        """Range of the pod IPs on KWOK nodes; any process on this machine may bind a socket on them."""
        return self._state.network.kwok_cidr

    @property
    def host_ip(self) -> str:
        """Address of this machine as seen from pods on real nodes (127.0.0.1 without rights to route)."""
        return self._state.network.host_ip

    @property
    def state(self) -> State:
        """The record of the cluster."""
        return self._state

    def load_image(self, archive: Path) -> None:
        """Import an OCI archive into the containerd of every real node."""
        node.load_image(self._state, archive)

    # ---- parts

    def stop_part(self, part: str) -> None:
        """End one part and leave it ended, as if its machine had gone."""
        process.stop([self._running(part)], grace_s=_STOP_GRACE_S)

    def kill_part(self, part: str) -> None:
        """End one part with SIGKILL."""
        self._running(part).send(signal.SIGKILL)
        process.stop([self._running(part)])

    def start_part(self, part: str) -> None:
        """Start a stopped part again with the same flags and data, and wait until it is ready."""
        if self._running(part).alive():
            raise LocalClusterError(f"part {part!r} of cluster {self.name!r} runs already")
        self._run(self._state.commands[part])
        self._wait_part(part)

    def part_alive(self, part: str) -> bool:
        """Return whether a part runs."""
        return self._running(part).alive()

    def log(self, part: str) -> Path:
        """Return the log file of a part."""
        self._running(part)
        return self._state.commands[part].log

    def _running(self, part: str) -> Running:
        try:
            return self._state.processes[part]
        except KeyError:
            known = ", ".join(self._state.processes)
            raise LocalClusterError(f"cluster {self.name!r} has no part {part!r}; it has {known}") from None

    # ---- the order of starting

    def _start(self) -> None:
        state, plane, spec = self._state, self._plane, self._state.spec
        authority = plane.make_identities()
        state.network.create()
        self._run(plane.etcd())
        self._run(plane.apiserver())
        self._wait_part("apiserver")
        self._run(plane.controller_manager())
        self._run(plane.scheduler())
        self.apply(*RBAC)
        if spec.kwok_nodes is not None:
            self._run(plane.kwok())
            self.kubectl("create", "-f", str(spec.kwok_nodes))
        if spec.prometheus:
            self._run(plane.prometheus())
        # The API server refuses pods until their namespace has its default ServiceAccount.
        self._wait("the default ServiceAccount", lambda: self._has("serviceaccount", "default"))
        self._start_nodes(authority)
        if spec.kwok_nodes is not None:
            self._wait("the KWOK nodes", lambda: self._nodes_ready(minimum=1))
        if spec.prometheus:
            self._wait_part("prometheus")
        state.ready = True
        state.save()

    def _start_nodes(self, authority: Authority) -> None:
        state = self._state
        if not state.spec.nodes:
            return
        machine.claim(state.home, node.DIRECTORIES)
        for number in range(1, state.spec.nodes + 1):
            real = node.RealNode(state, self._plane, number)
            holder = self._run(real.holder())
            self._wait(f"namespaces of {real.name}", partial(real.holds, holder))
            real.connect(holder)
            for command in real.commands(authority, holder):
                self._run(command)
                if command.part == f"containerd-{number}":
                    self._wait(f"containerd of {real.name}", partial(node.containerd_answers, holder))
        for archive in node.base_images():
            self.load_image(archive)
        self.apply(*node.coredns_objects(state.network))
        self._wait("the real nodes", lambda: self._nodes_ready(minimum=state.spec.nodes))
        if state.spec.fake_gpus:
            self._wait("the fake GPUs", self._gpus_offered)
        self._wait("CoreDNS", self._coredns_ready)

    def _run(self, command: Command) -> Running:
        self._state.commands[command.part] = command
        self._state.save()
        running = process.spawn(command, self._state.home)
        self._state.processes[command.part] = running
        self._state.save()
        return running

    def _wait(self, what: str, ready: Callable[[], object], *, timeout_s: float = _READY_TIMEOUT_S) -> None:
        watch = {part: (run, self._state.commands[part].log) for part, run in self._state.processes.items()}
        process.wait_until(what, ready, timeout_s=timeout_s, watch=watch)

    def _wait_part(self, part: str) -> None:
        ready = {
            "apiserver": lambda: self._answers(f"{self.server}/readyz"),
            "etcd": lambda: self._answers(f"http://127.0.0.1:{self._state.ports['etcd']}/readyz"),
            "prometheus": lambda: self._answers(f"{self._plane.prometheus_url}/-/ready"),
        }.get(part, lambda: True)
        # Only what the part needs is watched: a test may have stopped any other.
        watch = {one: (self._running(one), self._state.commands[one].log) for one in dict.fromkeys(("etcd", part))}
        process.wait_until(f"{part} to be ready", ready, timeout_s=_READY_TIMEOUT_S, watch=watch)

    def _answers(self, url: str) -> bool:
        context = None
        if url.startswith("https"):
            pki = self._plane.pki
            context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
            context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        try:
            with urllib.request.urlopen(url, timeout=5, context=context) as answer:  # noqa: S310 - our own URL
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _has(self, kind: str, name: str) -> bool:
        with contextlib.suppress(LocalClusterError):
            return bool(self.kubectl("get", kind, name, "--ignore-not-found", "-o", "name"))
        return False

    def _nodes_ready(self, *, minimum: int) -> bool:
        nodes = self.get("nodes")["items"]
        ready = [
            any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", []))
            for item in nodes
        ]
        return len(nodes) >= minimum and all(ready)

    def _gpus_offered(self) -> bool:
        real = self.get("nodes", "-l", node.REAL_NODE_LABEL)["items"]
        wanted = str(self._state.spec.fake_gpus)
        return all(item["status"]["allocatable"].get("nvidia.com/gpu") == wanted for item in real)

    def _coredns_ready(self) -> bool:
        deployment = self.get("deployment", "coredns", "-n", "kube-system")
        return bool(deployment["status"].get("availableReplicas"))


def _needed(spec: ClusterSpec) -> list[str]:
    needed = list(parts.CONTROL_PLANE)
    if spec.kwok_nodes is not None:
        needed.append("kwok")
    if spec.nodes:
        needed += parts.NODE
    if spec.prometheus:
        needed.append("prometheus")
    return needed


def _lock(name: str) -> Path:
    return paths.cache() / "clusters" / f"{name}.lock"


def take_down(name: str) -> bool:
    """Take a cluster down, whatever state it is in; returns False when there is none of that name."""
    with locked(_lock(name)):
        state = State.load(name)
        if state is None:
            return False
        _tear_down(state)
        return True


def clean_orphans() -> None:
    """Take down every cluster of this cache whose owner process has ended without doing so."""
    for name in names():
        if _is_orphan(State.load(name)):
            with locked(_lock(name)):
                state = State.load(name)  # again: meanwhile somebody may have cleaned it and started a new one
                if state is not None and _is_orphan(state):
                    say(f"cleaning up cluster {name}: the process that started it is gone")
                    _tear_down(state)


def _is_orphan(state: State | None) -> bool:
    return state is not None and state.owner is not None and not state.owner.alive()


def _tear_down(state: State) -> None:
    # First whoever would start new pods, then the pods, then the rest; etcd last, to spare the others' error logs.
    running = dict(state.processes)
    process.stop([p for part, p in running.items() if part in ("controller-manager", "scheduler")])
    node.tear_down(state)
    last = {part: running.pop(part) for part in ("apiserver", "etcd") if part in running}
    process.stop(list(running.values()), grace_s=3.0)
    for part in last.values():
        # The API server drains open watches for as long as it may; nobody is left to watch.
        process.stop([part], grace_s=1.5)
    process.stop(list(process.marked(state.home)), grace_s=1.0)
    node.restore_machine(state)
    state.network.remove()
    shutil.rmtree(state.home, ignore_errors=True)
    network.release(state.network, state.home)
