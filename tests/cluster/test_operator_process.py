"""The operator as a process: permissions taken and given, SIGKILL, SIGTERM, and a second operator."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.runtime.settings import LEASE_NAME
from tests.operator_harness import BULK, CHAT, Stage, condition, is_ready, pod_ready, power_cap, staged, workload
from tools.localcluster.client import ClusterClient

LOWBEAM_KINDS = ["inferenceworkloads", "powercaps", "modelcards", "acceleratorclasses", "energyprofiles"]


@pytest.fixture(scope="module")
def bare(cluster: ClusterClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage whose tests start the operators."""
    with staged(cluster, tmp_path_factory.mktemp("process")) as made:
        yield made


@pytest.fixture
def stage(bare: Stage) -> Iterator[Stage]:
    """No operator left over from the test before."""
    yield bare
    for operator in bare.operators:
        if operator.alive():
            operator.terminate()


def rules(*, without: tuple[str, str] = ("", "")) -> list[dict[str, Any]]:
    """What the operator needs, less (resource, verb)."""
    wanted = {
        ("lowbeam.dev", tuple(LOWBEAM_KINDS)): ["get", "list", "watch"],
        ("lowbeam.dev", tuple(f"{kind}/status" for kind in LOWBEAM_KINDS)): ["patch"],
        ("", ("nodes", "namespaces", "pods")): ["get", "list", "watch"],
        ("", ("services",)): ["get", "list", "watch", "create", "patch", "delete"],
        ("apps", ("deployments",)): ["get", "list", "watch", "create", "patch", "delete"],
        ("coordination.k8s.io", ("leases",)): ["get", "create", "patch"],
        ("events.k8s.io", ("events",)): ["create"],
    }
    others = {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": [LEASE_NAME],
        "verbs": ["list"],
    }
    return [
        {"apiGroups": [group], "resources": [plural], "verbs": [verb for verb in verbs if (plural, verb) != without]}
        for (group, plurals), verbs in wanted.items()
        for plural in plurals
    ] + [others]


class Account:
    """A ServiceAccount for the operator, whose role a test changes."""

    def __init__(self, stage: Stage, namespace: str) -> None:
        self._stage, self._namespace, self._name = stage, namespace, f"operator-{namespace}"
        stage.apply(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": self._name, "namespace": namespace},
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": self._name},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": self._name},
                "subjects": [{"kind": "ServiceAccount", "name": self._name, "namespace": namespace}],
            },
        )

    def may(self, listed: list[dict[str, Any]]) -> None:
        """Exactly these rules from now on."""
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": self._name}}
        self._stage.apply({**role, "rules": listed})

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig with its token."""
        token = self._stage.cluster.kubectl("create", "token", self._name, "-n", self._namespace).strip()
        loaded = yaml.safe_load(self._stage.cluster.kubeconfig.read_text())
        loaded["users"][0]["user"] = {"token": token}
        assert b64decode(loaded["clusters"][0]["cluster"]["certificate-authority-data"])
        path = folder / f"{self._name}.kubeconfig"
        path.write_text(yaml.safe_dump(loaded))
        path.chmod(0o600)
        return path

    def remove(self) -> None:
        """Take its cluster-wide objects away."""
        self._stage.cluster.kubectl("delete", "clusterrole,clusterrolebinding", self._name, "--ignore-not-found")


@pytest.fixture
def account(stage: Stage, namespace: str) -> Iterator[Account]:
    """The operator's ServiceAccount of one test."""
    made = Account(stage, namespace)
    yield made
    made.remove()


def test_a_write_without_permission_is_named_and_repeated_until_granted(
    stage: Stage, namespace: str, account: Account, tmp_path: Path
) -> None:
    account.may(rules())
    stage.start_operator(account.kubeconfig(tmp_path))
    stage.apply(workload(namespace, "before"))
    stage.ready(namespace, "before")

    account.may(rules(without=("deployments", "create")))  # apply of a new object needs it beside patch
    stage.apply(workload(namespace, "after"))

    row = stage.says(lambda: stage.iw(namespace, "after"), "Stalled", "True", "PermissionDenied")
    assert "deployments" in row["message"]
    assert "role" in stage.warned("PermissionDenied", "after", namespace)
    assert is_ready(stage.iw(namespace, "before"))
    stage.patch("iw", "before", {"scaling": {"minReplicas": 2}}, namespace)
    stage.eventually("the other one is still scaled", lambda: len(stage.pods(namespace, "before")) == 2)
    account.may(rules())
    stage.ready(namespace, "before", "after")


def test_without_sight_of_the_caps_nothing_is_started_and_nothing_ended(
    stage: Stage, namespace: str, account: Account, tmp_path: Path
) -> None:
    account.may(rules())
    kubeconfig = account.kubeconfig(tmp_path)
    stage.start_operator(kubeconfig)
    stage.apply(workload(namespace, "runs"))
    stage.ready(namespace, "runs")
    pods = {pod["metadata"]["uid"] for pod in stage.pods(namespace)}
    stage.operator.terminate()

    account.may(rules(without=("powercaps", "watch")))
    blind = stage.start_operator(kubeconfig)
    stage.apply(workload(namespace, "waits"))
    for name in ("runs", "waits"):
        row = stage.says(lambda name=name: stage.iw(namespace, name), "Stalled", "True", "PermissionDenied")
        assert "powercaps" in row["message"]
        assert "powercaps" in stage.warned("PermissionDenied", name, namespace)
    assert not blind.ready()
    assert not stage.deployments(namespace, "waits")
    assert {pod["metadata"]["uid"] for pod in stage.pods(namespace)} == pods
    assert condition(stage.iw(namespace, "runs"), "Ready")["status"] == "True"

    account.may(rules())
    stage.ready(namespace, "runs", "waits")
    assert pods <= {pod["metadata"]["uid"] for pod in stage.pods(namespace)}


@pytest.mark.parametrize("told", [False, True], ids=["before-the-status-tells", "after-the-status-tells"])
def test_killed_in_the_middle_of_a_replacement_it_goes_on_while_the_old_model_serves(
    stage: Stage, namespace: str, told: bool
) -> None:
    def serves() -> bool:
        return any(pod_ready(pod) for pod in stage.pods(namespace))

    stage.start_operator()
    stage.apply(workload(namespace, "swap"))
    stage.ready(namespace, "swap")
    (old,) = stage.deployments(namespace)
    stage.allow_pods(namespace, 1)  # the new one has to wait
    stage.patch("iw", "swap", {"model": {"pinned": "roberta-base-sst2"}}, namespace)
    stage.eventually("the new Deployment", lambda: len(stage.deployments(namespace)) == 2)
    if told:
        stage.eventually("the status tells", lambda: _model(stage.iw(namespace, "swap")) == "roberta-base-sst2")
    stage.restart()
    stage.stays("a ready pod", serves, 3)
    stage.allow_pods(namespace, None)

    def ready_and_never_without() -> bool:
        assert serves(), stage.operator.tail()
        return is_ready(stage.iw(namespace, "swap"))

    stage.eventually("the replacement is done", ready_and_never_without)
    (left,) = stage.deployments(namespace)
    assert left["metadata"]["uid"] != old["metadata"]["uid"]
    assert len(stage.pods(namespace)) == left["spec"]["replicas"]
    assert _model(stage.iw(namespace, "swap")) == "roberta-base-sst2"


def _model(workload: dict[str, Any]) -> str:
    model: str = workload["status"]["selected"]["model"]
    return model


def test_killed_in_the_middle_of_a_shed_it_sheds_on_and_restores_only_on_fresh_data(
    stage: Stage, namespace: str
) -> None:
    names = ("high", "low")
    restore = {"windowSeconds": 6, "dwellSeconds": 6, "jitterSeconds": 0, "stepSeconds": 1, "rampPercentPerMinute": 100}
    stage.start_operator()
    with stage.caps(power_cap(namespace, 9000, namespaces=[namespace], restore=restore)):
        stage.apply(workload(namespace, "high", CHAT, priority=900), workload(namespace, "low", BULK, priority=100))
        stage.ready(namespace, *names)
        stage.eventually("watts are drawn", lambda: stage.watts(namespace) > 3000)
        limit = round(stage.watts(namespace) * 0.8)
        stage.patch("pcap", namespace, {"watts": limit})
        stage.eventually("low is dimmed", lambda: "dimming" in stage.iw(namespace, "low").get("status", {}))
        stage.restart()
        stage.eventually("under the cap", lambda: stage.watts(namespace) <= limit * 0.95)
        stage.ready(namespace, *names)
        status = stage.iw(namespace, "low")["status"]
        assert status["dimming"]["powerCap"] == namespace
        assert [entry["action"] for entry in status["history"]].count("Dimmed") >= 1
        assert len(stage.deployments(namespace)) == len(names)
        # A successor knows what was dimmed since when, and gives nothing back on faith.
        stage.patch("pcap", namespace, {"watts": 9000})
        log = stage.restart().log
        stage.eventually("the successor restores", lambda: "dimming" not in stage.iw(namespace, "low")["status"])
        lines = log.read_text().splitlines()
        led = next(line for line in lines if "leading" in line)
        restored = next(line for line in lines if "action=Restored" in line)
        # More where the namespace of an earlier test is still on its way out.
        assert int(led.partition("recovered=")[2].split()[0]) >= len(names)
        assert (_moment(restored) - _moment(led)).total_seconds() >= restore["windowSeconds"]
        stage.ready(namespace, *names)


def _moment(line: str) -> datetime:
    return datetime.fromisoformat(line.split(maxsplit=1)[0])


def test_of_two_operators_one_writes_and_the_other_takes_over(stage: Stage, namespace: str) -> None:
    leader = stage.start_operator()
    standby = stage.start_operator(wait=False)
    stage.eventually("the standby is ready to take over", standby.ready)
    stage.apply(workload(namespace, "one"))
    stage.ready(namespace, "one")
    assert stage.lease_holder() == leader.identity
    assert standby.writes() == {}
    assert sum(leader.writes().values()) > 0

    leader.kill()
    stage.eventually("the standby leads", lambda: stage.lease_holder() == standby.identity)
    stage.apply(workload(namespace, "two"))
    stage.ready(namespace, "one", "two")
    assert len(stage.deployments(namespace)) == 2


def test_of_two_operators_in_two_namespaces_one_writes_and_the_other_says_why_it_waits(
    stage: Stage, namespace: str, account: Account, tmp_path: Path
) -> None:
    account.may(rules())
    kubeconfig = account.kubeconfig(tmp_path)
    places = (stage.lease_namespace, namespace)
    both = {place: stage.start_operator(kubeconfig, namespace=place, wait=False) for place in places}

    def leading() -> list[str]:
        return [place for place, it in both.items() if it.alive() and it.ready() and it.metric("lowbeam_leader")]

    (first,) = stage.eventually("one of them leads", leading)
    (second,) = set(places) - {first}
    leader, waits = both[first], both[second]
    stage.eventually("the other one says so", lambda: f"lease {first}/{LEASE_NAME}" in waits.why_not_ready())
    assert f"this one, in namespace {second}, waits and writes nothing" in waits.why_not_ready()
    assert waits.metric("lowbeam_other_operators") == 1
    stage.apply(workload(namespace, "one"))
    stage.ready(namespace, "one")
    stage.stays("one leader", lambda: leading() == [first], 20)
    assert waits.writes() == {}
    assert sum(leader.writes().values()) > 0
    assert waits.log.read_text().count("another operator in this cluster") == 1

    leader.kill()
    stage.eventually("the other one leads", lambda: leading() == [second])
    stage.apply(workload(namespace, "two"))
    stage.ready(namespace, "one", "two")
    assert len(stage.deployments(namespace)) == 2


def test_told_to_end_it_gives_the_lease_back_and_ends_in_time(stage: Stage, namespace: str) -> None:
    operator = stage.start_operator()
    stage.apply(workload(namespace, "any"))
    stage.ready(namespace, "any")

    code, seconds = operator.terminate()

    assert code == 0, operator.tail()
    assert seconds < 10
    assert stage.lease_holder() == ""
    assert stage.pods(namespace)
