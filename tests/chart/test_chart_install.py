from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowbeam.runtime.settings import LEASE_NAME
from tests.chart.chart_tools import CHART, Helm
from tools.localcluster.client import ClusterClient
from tools.localcluster.errors import LocalClusterError
from tools.localcluster.process import wait_until

CRDS = Path(__file__).parents[2] / "crds"


class Release:
    """The chart, installed under a name of its own; other tests own the CRDs, so it takes them as they are."""

    def __init__(self, helm: Helm, cluster: ClusterClient, namespace: str) -> None:
        self.name = f"lowbeam-{namespace[-6:]}"
        self.namespace = namespace
        self._helm = helm
        self._cluster = cluster

    def helm(self, command: str, *args: str) -> str:
        done = self._helm(command, self.name, *args, "-n", self.namespace, kubeconfig=self._cluster.kubeconfig)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def may(self, verb: str, resource: str, *args: str) -> bool:
        """Whether the operator's account may do this, by the API server's own answer."""
        account = f"system:serviceaccount:{self.namespace}:{self.name}"
        try:
            said = self._cluster.kubectl("auth", "can-i", verb, resource, f"--as={account}", *args)
        except LocalClusterError:  # kubectl ends with 1 for "no"
            return False
        return said.strip() == "yes"

    def key(self) -> bytes:
        raw = self._cluster.kubectl("get", "secret", f"{self.name}-control-key", "-n", self.namespace, "-o", "json")
        return base64.b64decode(json.loads(raw)["data"]["key"])


@pytest.fixture
def release(helm: Helm, cluster: ClusterClient, namespace: str) -> Iterator[Release]:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    made = Release(helm, cluster, namespace)
    made.helm("install", str(CHART), "--set", "crds.install=false")
    yield made
    made.helm("uninstall")


def test_an_installed_operator_has_the_rights_it_needs_and_no_others(release: Release) -> None:
    for verb, resource in [
        ("watch", "inferenceworkloads.lowbeam.dev"),
        ("list", "powercaps.lowbeam.dev"),
        ("watch", "energyprofiles.lowbeam.dev"),
        ("create", "deployments.apps"),
        ("patch", "deployments.apps"),
        ("delete", "deployments.apps"),
        ("patch", "services"),
        ("watch", "pods"),
        ("watch", "nodes"),
        ("watch", "namespaces"),
        ("create", "events.events.k8s.io"),
    ]:
        assert release.may(verb, resource, "-A"), (verb, resource)
    assert release.may("patch", "inferenceworkloads.lowbeam.dev", "--subresource=status", "-A")
    for kind in ("powercaps", "modelcards", "acceleratorclasses", "energyprofiles"):
        assert release.may("patch", f"{kind}.lowbeam.dev", "--subresource=status"), kind
    assert release.may("patch", "leases.coordination.k8s.io/lowbeam-operator", "-n", release.namespace)
    assert release.may("list", "leases.coordination.k8s.io/lowbeam-operator", "-A")
    for verb, resource in [
        ("get", "secrets"),
        ("patch", "inferenceworkloads.lowbeam.dev"),
        ("patch", "powercaps.lowbeam.dev"),
        ("delete", "pods"),
        ("create", "pods"),
        ("patch", "nodes"),
        ("update", "deployments.apps"),
        ("create", "clusterroles.rbac.authorization.k8s.io"),
        ("create", "leases.coordination.k8s.io"),
        ("list", "leases.coordination.k8s.io"),
    ]:
        assert not release.may(verb, resource, "-n", "kube-system"), (verb, resource)


def test_who_may_edit_a_namespace_cannot_pose_as_an_operator_there(release: Release, cluster: ClusterClient) -> None:
    """Where one operator holds such a Lease, no other leads; the role edit may write any Lease."""
    place = ("-n", release.namespace)
    cluster.kubectl("create", "rolebinding", "editor", "--clusterrole=edit", "--user=editor", *place)

    def write(account: str, name: str, *how: str) -> str:
        metadata = {"name": name, "namespace": release.namespace}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
        spec = {"spec": {"holderIdentity": account}}
        how = how or ("apply", "--server-side", f"--field-manager={account}", "--force-conflicts")
        try:
            return cluster.kubectl(*how, f"--as={account}", "-f", "-", stdin=json.dumps(body | spec))
        except LocalClusterError as error:
            return str(error)

    def refused(*how: str) -> bool:  # a new policy is not in force at once
        return "only who may patch powercaps/status" in write("editor", LEASE_NAME, *how)

    wait_until("the policy is in force", refused, timeout_s=60)
    assert refused("create"), "by POST the name is in the body only"
    assert "serverside-applied" in write("editor", "another")
    operator = f"system:serviceaccount:{release.namespace}:{release.name}"
    assert "serverside-applied" in write(operator, LEASE_NAME)
    assert refused(), "nor may it write the one that is there"
    assert refused("replace")


def test_an_upgrade_keeps_the_control_key_that_running_workers_know(release: Release) -> None:
    before = release.key()
    assert len(before) >= 16
    release.helm("upgrade", str(CHART), "--set", "crds.install=false", "--set", "log.level=debug")
    assert release.key() == before


def test_the_notes_say_what_to_do_next_and_warn_of_an_open_control_port(release: Release) -> None:
    said = release.helm("upgrade", str(CHART), "--set", "crds.install=false", "--set", "controlKey.enabled=false")
    assert f"rollout status deployment/{release.name}" in said
    assert "kind: InferenceWorkload" in said
    assert "WARNING: controlKey.enabled is off" in said


def test_the_example_of_the_notes_is_accepted_by_the_api_server(release: Release, cluster: ClusterClient) -> None:
    notes = release.helm("upgrade", str(CHART), "--set", "crds.install=false")
    block = notes.split("<<EOF\n", 1)[1].split("   EOF", 1)[0]
    text = "\n".join(line.removeprefix("   ") for line in block.splitlines())
    said = cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)
    assert "inferenceworkload.lowbeam.dev/triage created" in said
    assert "powercap.lowbeam.dev/cluster" in said
