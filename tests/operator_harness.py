"""A real operator and a real emulator as processes on a test's cluster, and what a user can see of them.

Everything is waited for by asking the API server; a wait that runs out quotes the objects and the end of the logs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.polling_api import Api, Object
from tests.ports import free_port
from tools.localcluster.client import ClusterClient

CRDS = Path(__file__).parents[1] / "crds"
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 90
"""For what takes seconds, on a machine with more to do than this. A claim about time says its own seconds."""
ANSWER_SECONDS = 30
"""For an answer of a process on this machine."""
QUICK_RESTORE = {
    "windowSeconds": 4,
    "dwellSeconds": 4,
    "jitterSeconds": 0,
    "stepSeconds": 2,
    "rampPercentPerMinute": 100,
}
"""The restore gate without the minutes that real power needs."""

TRIAGE: Object = {
    "task": "text-classification",
    "load": {"requestsPerMinute": 12000, "inputTokens": 200, "outputTokens": 1},
    "quality": {"benchmark": "sst2", "floor": "90.0"},
    "latency": {"endToEndMilliseconds": 500},
}
"""A small classifier on one L4."""

CHAT: Object = {
    "task": "text-generation",
    "load": {"requestsPerMinute": 1800, "inputTokens": 500, "outputTokens": 400},
    "quality": {"benchmark": "mmlu-pro", "floor": "70.0"},
    "latency": {"timeToFirstTokenMilliseconds": 1000, "interTokenMilliseconds": 50},
}
"""A chat assistant: about 3.5 kW on H100s."""

BULK: Object = {
    "task": "text-generation",
    "load": {"requestsPerMinute": 3000, "inputTokens": 300, "outputTokens": 500},
    "quality": {"benchmark": "mmlu-pro", "floor": "45.0"},
    "latency": {"timeToFirstTokenMilliseconds": 3000, "interTokenMilliseconds": 100},
}
"""Much text for little quality: about 1.7 kW."""


def workload(namespace: str, name: str, base: Mapping[str, Any] = TRIAGE, **spec: Any) -> Object:
    """An InferenceWorkload."""
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**base, **spec},
    }


def power_cap(name: str, watts: int, *, namespaces: list[str], **spec: Any) -> Object:
    """A PowerCap over namespaces that gives watts back quickly."""
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "PowerCap",
        "metadata": {"name": name},
        "spec": {"scope": {"namespaces": {"names": namespaces}}, "watts": watts, "restore": QUICK_RESTORE, **spec},
    }


class Process:
    """One `lowbeam` command, with its log in a file."""

    def __init__(self, name: str, folder: Path, *args: str, environment: Mapping[str, str] | None = None) -> None:
        self.log = folder / f"{name}-{uuid.uuid4().hex[:6]}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lowbeam", *args],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL: no last word, no lease given back."""
        self._process.kill()
        self._process.wait()

    def terminate(self, seconds: float = 20) -> tuple[int, float]:
        """SIGTERM; (exit code, seconds until the end)."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return code, time.monotonic() - began

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Operator(Process):
    """One `lowbeam run`."""

    def __init__(self, kubeconfig: Path, folder: Path, lease_namespace: str, identity: str, *flags: str) -> None:
        self.identity = identity
        self.metrics_port, self.health_port = free_port(), free_port()
        super().__init__(
            identity,
            folder,
            *("run", "--kubeconfig", str(kubeconfig), "--namespace", lease_namespace, "--worker-image", "example/w:1"),
            *("--metrics-port", str(self.metrics_port), "--health-port", str(self.health_port)),
            *("--log-format", "text"),
            *flags,
            environment={"POD_NAME": identity},
        )

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all series of a metric that carry these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in self._metrics() if line.partition(" ")[0].partition("{")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(part in line for part in wanted))

    def writes(self) -> dict[str, float]:
        """Writes to the API server so far by resource, without the Lease."""
        lines = [line for line in self._metrics() if line.startswith("lowbeam_api_calls_total{")]
        kept = [line for line in lines if not any(verb in line for verb in ('"get"', '"list"', '"watch"', '"leases"'))]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in kept}

    def _metrics(self) -> list[str]:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        return httpx.get(url, trust_env=False, timeout=ANSWER_SECONDS).text.splitlines()

    def ready(self) -> bool:
        """/readyz."""
        try:
            return self._readyz().status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def why_not_ready(self) -> str:
        """What /readyz says; empty while nothing answers."""
        try:
            return self._readyz().text
        except httpx.TransportError:
            return ""

    def _readyz(self) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.health_port}/readyz", trust_env=False)


class Stage:
    """A cluster with an emulator, and the operators that a test starts on it."""

    def __init__(self, cluster: ClusterClient, folder: Path, agent_token_file: Path | None = None) -> None:
        """`agent_token_file`: of the node agents' power limits; None = nobody has it."""
        self.cluster, self.folder = cluster, folder
        self._agent_flags = ("--agent-token-file", str(agent_token_file)) if agent_token_file else ()
        self.api = Api(cluster.kubeconfig, folder)
        self.lease_namespace = f"lowbeam-{uuid.uuid4().hex[:8]}"
        self.operators: list[Operator] = []
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        cluster.kubectl("create", "namespace", self.lease_namespace)
        self.admin_port = free_port()
        self.emulator = Process(
            "emulator",
            folder,
            *("emulate", "--kubeconfig", str(cluster.kubeconfig), "--admin-port", str(self.admin_port)),
            *("--start-seconds", "0.5", "--settle-seconds", "0.5"),
            *self._agent_flags,
        )

    @property
    def operator(self) -> Operator:
        """The operator that was started last."""
        return self.operators[-1]

    def start_operator(
        self, kubeconfig: Path | None = None, *, namespace: str = "", identity: str = "", wait: bool = True
    ) -> Operator:
        """One more operator process; `wait`: until it leads. The same identity is the same pod, restarted.

        `namespace`: where its Lease is, if not where those of the others are.
        """
        identity = identity or f"operator-{len(self.operators)}"
        where = namespace or self.lease_namespace
        operator = Operator(kubeconfig or self.cluster.kubeconfig, self.folder, where, identity, *self._agent_flags)
        self.operators.append(operator)
        if wait:
            self.eventually(f"{identity} leads", lambda: "leading" in operator.log.read_text())
        return operator

    def close(self) -> None:
        """End the processes, and take away what is not in a test's namespace."""
        for process in (*self.operators, self.emulator):
            if process.alive():
                process.kill()
        self.api.close()
        self.cluster.kubectl("delete", "namespace", self.lease_namespace, "--wait=false")

    # ---- waiting

    def eventually(self, what: str, check: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
        """The first true answer of `check`; a failure says what was there instead."""
        began = time.monotonic()
        while not (answer := check()):
            if time.monotonic() - began > seconds:
                logs = "\n".join(f"--- {it.identity}\n{it.tail()}" for it in self.operators[-2:])
                shown = self.cluster.kubectl("get", "iw,pcap,deploy,pods", "-A", "-o", "wide")
                pytest.fail(f"not within {seconds:.0f} s: {what}\n{shown}\n{logs}", pytrace=True)
            time.sleep(POLL_SECONDS)
        return answer

    def stays(self, what: str, check: Callable[[], Any], seconds: float) -> None:
        """`check` holds at every look for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert check(), f"did not stay: {what}\n{self.operator.tail()}"
            time.sleep(POLL_SECONDS)

    # ---- objects

    def apply(self, *objects: Object) -> None:
        """Apply as a user does."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(listed))

    def patch(self, kind: str, name: str, spec: Mapping[str, Any], namespace: str = "") -> None:
        """Merge-patch the spec."""
        where = ("-n", namespace) if namespace else ()
        self.cluster.kubectl("patch", kind, name, *where, "--type=merge", "-p", json.dumps({"spec": spec}))

    @contextmanager
    def caps(self, *caps: Object) -> Iterator[None]:
        """PowerCaps for the length of a block."""
        try:
            self.apply(*caps)
            yield
        finally:
            names = [cap["metadata"]["name"] for cap in caps]
            self.cluster.kubectl("delete", "pcap", *names, "--ignore-not-found", "--wait=false")

    def allow_pods(self, namespace: str, count: int | None) -> None:
        """No more pods than these in the namespace; None: any number."""
        if count is None:
            self.cluster.kubectl("delete", "resourcequota", "pods", "-n", namespace)
        else:
            metadata = {"name": "pods", "namespace": namespace}
            hard = {"pods": str(count)}
            self.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}})

    def restart(self) -> Operator:
        """SIGKILL, and the same operator again."""
        self.operator.kill()
        return self.start_operator(identity=self.operator.identity)

    def iw(self, namespace: str, name: str) -> Object:
        """One InferenceWorkload; empty where there is none."""
        return self.api.get(f"/apis/lowbeam.dev/v1alpha1/namespaces/{namespace}/inferenceworkloads/{name}") or {}

    def own(self, plural: str, name: str) -> Object:
        """One of Lowbeam's cluster-scoped objects; empty where there is none."""
        return self.api.get(f"/apis/lowbeam.dev/v1alpha1/{plural}/{name}") or {}

    def deployments(self, namespace: str, name: str = "") -> list[Object]:
        """Deployments of a workload, or of all in the namespace."""
        query = {"labelSelector": f"lowbeam.dev/workload={name}"} if name else {}
        return self.api.items(f"/apis/apps/v1/namespaces/{namespace}/deployments", **query)

    def pods(self, namespace: str, name: str = "") -> list[Object]:
        """Pods that are not on their way out."""
        query = {"labelSelector": f"lowbeam.dev/workload={name}"} if name else {}
        found = self.api.items(f"/api/v1/namespaces/{namespace}/pods", **query)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def lease_holder(self) -> str:
        """Who leads."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.lease_namespace}/leases/lowbeam-operator"
        return ((self.api.get(path) or {}).get("spec") or {}).get("holderIdentity") or ""

    def events(self, name: str, namespace: str = "default") -> list[tuple[str, str, str]]:
        """(type, reason, note) of Lowbeam's Events about an object, oldest first."""
        found = self.api.items(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")
        ours = [e for e in found if e.get("reportingController") == "lowbeam.dev/operator"]
        about = sorted((e for e in ours if e["regarding"]["name"] == name), key=lambda e: e["eventTime"])
        return [(e["type"], e["reason"], e.get("note", "")) for e in about]

    # ---- what they say

    def ready(self, namespace: str, *names: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until the workloads are Ready, and about their present spec."""

        def all_ready() -> bool:
            return all(is_ready(self.iw(namespace, name)) for name in names)

        self.eventually(f"{names} Ready in {namespace}", all_ready, seconds)

    def says(
        self, look: Callable[[], Object], type_: str, status: str, reason: str, seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        """Wait for a condition; returns it."""

        def found() -> Object | None:
            at = condition(look(), type_)
            return at if (at.get("status"), at.get("reason")) == (status, reason) else None

        row: Object = self.eventually(f"{type_}={status} because of {reason}", found, seconds)
        return row

    def warned(self, reason: str, name: str, namespace: str = "default") -> str:
        """Wait for a Warning Event; returns its sentence. Exactly one of them may exist."""

        def found() -> list[str]:
            return [note for kind, why, note in self.events(name, namespace) if (kind, why) == ("Warning", reason)]

        notes: list[str] = self.eventually(f"a Warning {reason} about {name}", found)
        assert len(notes) == 1, notes
        return notes[0]

    def watts(self, namespace: str) -> float:
        """What the emulated workers of a namespace really draw now."""
        return sum(row["watts"] or 0 for row in self._played() if row["namespace"] == namespace)

    def batch_limits(self, namespace: str) -> dict[str, int]:
        """Pod name -> batch limit that its worker really runs at."""
        return {row["pod"]: row["batchLimit"] for row in self._played() if row["namespace"] == namespace}

    def board_limits(self, namespace: str) -> dict[str, float | None]:
        """Pod name -> power limit of each of its boards; None where they have their own."""
        return {row["pod"]: row["boardLimitWatts"] for row in self._played() if row["namespace"] == namespace}

    def set_faults(self, namespace: str, pod: str, *faults: str) -> None:
        """Break an emulated worker or node agent in exactly these ways."""
        body = {"namespace": namespace, "pod": pod, "faults": faults}
        url = f"http://127.0.0.1:{self.admin_port}/faults"
        httpx.put(url, json=body, trust_env=False, timeout=ANSWER_SECONDS).raise_for_status()

    def _played(self) -> list[Object]:
        url = f"http://127.0.0.1:{self.admin_port}/replicas"
        rows: list[Object] = httpx.get(url, trust_env=False, timeout=ANSWER_SECONDS).json()
        return rows


def condition(obj: Object, type_: str) -> Object:
    """One condition about the present generation; empty where there is none."""
    generation = obj.get("metadata", {}).get("generation")
    for row in obj.get("status", {}).get("conditions", ()):
        if row["type"] == type_ and row.get("observedGeneration") == generation:
            found: Object = row
            return found
    return {}


def pod_ready(pod: Object) -> bool:
    """Whether a pod answers."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def is_ready(obj: Object) -> bool:
    """Ready, and nothing under way."""
    return (
        condition(obj, "Ready").get("status") == "True"
        and condition(obj, "Reconciling").get("status") == "False"
        and condition(obj, "Stalled").get("status") == "False"
    )


@contextmanager
def staged(cluster: ClusterClient, folder: Path, agent_token_file: Path | None = None) -> Iterator[Stage]:
    """A stage without an operator."""
    stage = Stage(cluster, folder, agent_token_file)
    try:
        yield stage
    finally:
        stage.close()


@pytest.fixture(scope="module")
def stage(cluster: ClusterClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One operator and one emulator for the tests of a module."""
    with staged(cluster, tmp_path_factory.mktemp("operator")) as made:
        made.start_operator()
        yield made
