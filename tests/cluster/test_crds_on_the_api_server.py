"""The CRDs on a real API server: what it accepts, refuses, fills in and prints, and that pydantic agrees with it."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from lowbeam.api.v1alpha1 import GROUP, KINDS, VERSION, KubeObject
from lowbeam.api.v1alpha1.loading import read_user_object
from rule_cases import RuleCase
from schema_cases import BoundCase, bound_cases, rules_of
from schema_rules import RULE_CASES
from schema_samples import SAMPLES, object_of
from tools.localcluster.client import ClusterClient

CRDS = Path(__file__).parents[2] / "crds"
KINDS_BY_NAME = {kind.resource.kind: kind for kind in KINDS}
SMALLEST = {"task": "text-classification", "load": {"requestsPerMinute": 1200, "inputTokens": 300, "outputTokens": 1}}


class Server:
    """Creates objects without keeping them, and tells what the API server says."""

    def __init__(self, kubeconfig: Path) -> None:
        self._objects = client.CustomObjectsApi(config.new_client_from_config(str(kubeconfig)))

    def stored(self, raw: dict[str, Any]) -> dict[str, Any]:
        """What would be stored, defaults filled in; raises ApiException when it is refused."""
        kind = KINDS_BY_NAME[raw["kind"]]
        options = {"dry_run": "All", "field_validation": "Strict"}
        if namespace := raw["metadata"].get("namespace"):
            return self._objects.create_namespaced_custom_object(
                GROUP, VERSION, namespace, kind.resource.plural, raw, **options
            )
        return self._objects.create_cluster_custom_object(GROUP, VERSION, kind.resource.plural, raw, **options)

    def complaints(self, raw: dict[str, Any]) -> list[tuple[str, str]]:
        """(field, message) of everything that is wrong; empty = accepted."""
        try:
            self.stored(raw)
        except client.ApiException as error:
            if error.status not in (400, 422):
                raise
            status = json.loads(error.body)
            causes = status.get("details", {}).get("causes", [])
            return [(cause.get("field", ""), cause["message"]) for cause in causes] or [("", status["message"])]
        return []


@pytest.fixture(scope="module")
def server(cluster: ClusterClient) -> Server:
    """The API server with our CRDs, applied as a user would."""
    cluster.kubectl("apply", "-f", str(CRDS))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(CRDS))
    server = Server(cluster.kubeconfig)
    deadline = time.monotonic() + 30
    while True:  # Established comes a moment before every kind is served
        try:
            for kind, samples in SAMPLES.items():
                server.stored(object_of(kind, samples[0]))
        except client.ApiException as error:
            if error.status != 404 or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return server


def test_a_second_plain_apply_changes_nothing(cluster: ClusterClient, server: Server) -> None:
    lines = cluster.kubectl("apply", "-f", str(CRDS)).splitlines()
    assert [line for line in lines if not line.endswith("unchanged")] == []


def test_the_api_server_finds_no_fault_with_the_schemas(cluster: ClusterClient, server: Server) -> None:
    for kind in KINDS:
        found = cluster.get("crd", kind.resource.crd_name)
        conditions = {c["type"]: c["status"] for c in found["status"]["conditions"]}
        assert conditions["NamesAccepted"] == "True"
        assert conditions.get("NonStructuralSchema", "False") == "False"


@pytest.mark.parametrize("case", bound_cases(), ids=str)
def test_api_server_and_model_draw_the_same_line_at_every_bound(server: Server, case: BoundCase) -> None:
    complaints = server.complaints(case.object)
    assert bool(complaints) == bool(read_user_object(case.object).problems)
    if case.accepted:
        rules = [rule.message for rule in rules_of(case.kind)]
        others = [c for c in complaints if not any(rule in c[1] for rule in rules) and "Duplicate value" not in c[1]]
        assert others == []
    else:
        assert any(_names(case.field, complaint) for complaint in complaints), complaints


def _names(field: str, complaint: tuple[str, str]) -> bool:
    """Whether a complaint is about the field or something in it, however the path is written."""
    where, message = (text.replace("[", ".").replace("]", "").replace('"', "") for text in complaint)
    return where.startswith(field) or field in message


@pytest.mark.parametrize("case", RULE_CASES, ids=str)
def test_the_api_server_keeps_every_rule_and_says_it_in_our_words(server: Server, case: RuleCase) -> None:
    assert server.complaints(object_of(case.kind, case.keeps)) == []
    ((field, message),) = server.complaints(object_of(case.kind, case.breaks, case.name_that_breaks))
    assert field == case.field
    assert case.message in message


@pytest.mark.parametrize(
    ("time", "is_one"),
    [
        ("2026-12-01T18:00:00Z", True),
        ("2026-12-01T18:00:00.5+01:00", True),
        ("2026-12-01T18:00Z", False),
        ("2026-12-01 18:00:00Z", False),
        ("2026-12-01T18:00:00", False),
        ("2026-12-01T18:00:00+0100", False),
        ("2026-12-01", False),
        ("2026-02-30T18:00:00Z", False),
        ("1764612000", False),
    ],
)
def test_api_server_and_model_agree_on_what_is_a_time(server: Server, time: str, is_one: bool) -> None:
    event = {"name": "grid-1", "start": time, "end": "2027-01-01T00:00:00Z", "percent": 75}
    raw = object_of("PowerCap", {**SAMPLES["PowerCap"][1], "events": [event]})
    assert bool(server.complaints(raw)) is not is_one
    problems = [str(it) for it in read_user_object(raw).problems]
    assert problems == (
        []
        if is_one
        else [
            f'sample: spec.events[0].start: "{time}" is not a time with its zone (write '
            '"2027-03-31T17:00:00Z", or +02:00 for Z)'
        ]
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.resource.kind)
def test_the_api_server_fills_in_the_defaults_that_the_model_has(server: Server, kind: type[KubeObject]) -> None:
    for sample in SAMPLES[kind.resource.kind]:
        raw = object_of(kind.resource.kind, sample)
        assert kind.from_cluster(server.stored(raw)).to_wire()["spec"] == kind.model_validate(raw).to_wire()["spec"]


def test_a_part_of_the_thresholds_keeps_the_other_defaults(server: Server) -> None:
    stored = server.stored(object_of("PowerCap", {**SAMPLES["PowerCap"][1], "restore": {"dwellSeconds": 5}}))
    assert stored["spec"]["restore"] | {"dwellSeconds": 120} == {
        "gatePercent": 88,
        "committedPercent": 94,
        "windowSeconds": 60,
        "dwellSeconds": 120,
        "jitterSeconds": 30,
        "stepSeconds": 30,
        "rampPercentPerMinute": 5,
        "coveragePercent": 95,
    }


def test_three_lines_of_spec_stay_short_in_the_cluster(server: Server) -> None:
    stored = server.stored(object_of("InferenceWorkload", SMALLEST))["spec"]
    assert set(stored) == {"task", "load", "reasoning", "priority", "scaling", "engine", "mode"}


def test_off_without_quotes_is_refused_by_kubectl_too(cluster: ClusterClient, server: Server) -> None:
    text = "\n".join(
        [
            "apiVersion: lowbeam.dev/v1alpha1",
            "kind: InferenceWorkload",
            "metadata: {name: sample, namespace: default}",
            "spec: {task: a, load: {requestsPerMinute: 1, inputTokens: 1, outputTokens: 1}, reasoning: Off}",
        ]
    )
    done = _kubectl(cluster, "apply", "--dry-run=server", "-f", "-", stdin=text)
    assert done.returncode != 0
    assert "spec.reasoning" in done.stderr
    assert "string" in done.stderr


def test_a_misspelt_field_is_named_by_kubectl(cluster: ClusterClient, server: Server) -> None:
    raw = object_of("InferenceWorkload", {**SMALLEST, "replica": 3})
    done = _kubectl(cluster, "apply", "--dry-run=server", "-f", "-", stdin=json.dumps(raw))
    assert done.returncode != 0
    assert 'unknown field "spec.replica"' in done.stderr


def test_kubectl_explain_reads_well(cluster: ClusterClient, server: Server) -> None:
    text = cluster.kubectl("explain", "iw.spec.quality")
    assert "How good is good enough" in text
    assert "Models below this score are not used" in " ".join(text.split())
    for kind in KINDS:
        for part in ("spec", "status"):
            shown = cluster.kubectl("explain", f"{kind.resource.plural}.{part}")
            assert "<empty>" not in shown
            assert "<no description>" not in shown


def test_short_names_and_the_category_find_the_kinds(cluster: ClusterClient, server: Server) -> None:
    for kind in KINDS:
        cluster.kubectl("get", kind.resource.short_names[0], "-A")
    cluster.kubectl("get", "lowbeam", "-A")
    listed = cluster.kubectl("api-resources", "--categories=lowbeam", "-o", "name").split()
    assert {kind.resource.crd_name for kind in KINDS} <= set(listed)


def _kubectl(cluster: ClusterClient, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """kubectl whose failure is the thing to look at."""
    return subprocess.run(
        [cluster.binary("kubectl"), f"--kubeconfig={cluster.kubeconfig}", *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- objects that stay -----------------------------------------------------------------------------------------------


@pytest.fixture
def workload(cluster: ClusterClient, server: Server, namespace: str) -> str:
    """A workload named `triage` in the test's namespace, on which nothing acts."""
    raw = object_of("InferenceWorkload", {**SMALLEST, "mode": "Advise"}, name="triage")
    raw["metadata"]["namespace"] = namespace
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(raw))
    return namespace


@pytest.fixture
def cap(cluster: ClusterClient, server: Server, namespace: str) -> Iterator[str]:
    """A cap over the test's own namespace that acts on nothing."""
    name = f"cap-{uuid.uuid4().hex[:8]}"
    spec = {"scope": {"namespaces": {"names": [namespace]}}, "watts": 9000, "mode": "Observe"}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(object_of("PowerCap", spec, name=name)))
    yield name
    cluster.kubectl("delete", "pcap", name, "--wait=false")


def _set_status(cluster: ClusterClient, status: dict[str, Any], *what: str) -> None:
    cluster.kubectl("patch", *what, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def _condition(type_: str, status: str, reason: str) -> dict[str, Any]:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-11-21T06:00:00Z",
    }


def test_kubectl_get_shows_a_workload_at_a_glance(cluster: ClusterClient, workload: str) -> None:
    _set_status(
        cluster,
        {
            "conditions": [_condition("Stalled", "False", "Selected"), _condition("Ready", "True", "AllReplicasReady")],
            "selected": {
                "model": "distilbert-sst2",
                "precision": "int8",
                "acceleratorClass": "l4",
                "batchLimit": 32,
                "replicas": 2,
                "engine": "Native",
            },
            "energy": {"measuredWatts": 34, "joulesPerRequest": "0.4", "stars": "*****"},
            "dimming": {
                "lever": "Batch",
                "since": "2026-11-21T06:00:00Z",
                "reason": "Dimmed",
                "powerCap": "cluster",
                "decisionId": "d1",
                "wattsFreed": 10,
            },
            "replicas": 2,
        },
        *("iw", "triage", "-n", workload),
    )
    header, row = (line.split() for line in cluster.kubectl("get", "iw", "-n", workload).splitlines())
    assert header == ["NAME", "READY", "MODEL", "PRECISION", "REPLICAS", "WATTS", "J/REQ", "STARS", "DIMMED", "AGE"]
    assert row[:-1] == ["triage", "True", "distilbert-sst2", "int8", "2", "34", "0.4", "*****", "Batch"]


def test_kubectl_get_shows_a_cap_at_a_glance(cluster: ClusterClient, cap: str) -> None:
    _set_status(
        cluster,
        {
            "conditions": [_condition("Ready", "True", "InForce")],
            "usableWatts": 8550,
            "measuredWatts": 8600,
            "committedWatts": 8500,
            "coveragePercent": 100,
            "state": "Shedding",
        },
        *("pcap", cap),
    )
    header, row = (line.split() for line in cluster.kubectl("get", "pcap", cap).splitlines())
    assert header == ["NAME", "READY", "CAP", "USABLE", "MEASURED", "COMMITTED", "COVERAGE", "STATE", "AGE"]
    assert row[1:-1] == ["True", "9000", "8550", "8600", "8500", "100", "Shedding"]


def test_a_status_write_leaves_the_generation_and_a_spec_write_leaves_the_status(
    cluster: ClusterClient, workload: str
) -> None:
    what = ("iw", "triage", "-n", workload)
    _set_status(cluster, {"replicas": 1}, *what)
    cluster.kubectl("patch", *what, "--type=merge", "-p", '{"spec": {"priority": 700}, "status": {"replicas": 9}}')
    found = cluster.get(*what)
    assert (found["metadata"]["generation"], found["status"]) == (2, {"replicas": 1})


def test_a_cap_of_an_older_release_whose_selector_is_no_label_can_be_told_so(
    cluster: ClusterClient, server: Server, namespace: str
) -> None:
    name = f"cap-{uuid.uuid4().hex[:8]}"
    raw = object_of("PowerCap", {"scope": {"nodePool": {"nodeSelector": {"rack/row 7": "x y"}}}, "watts": 9}, name=name)
    crd = "crd/powercaps.lowbeam.dev"
    pool = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/scope/properties/nodePool"
    without_rules = [
        {"op": "remove", "path": f"{pool}/x-kubernetes-validations"},
        {"op": "remove", "path": f"{pool}/properties/nodeSelector/additionalProperties/pattern"},
    ]
    cluster.kubectl("patch", crd, "--type=json", "-p", json.dumps(without_rules))
    try:
        _soon(lambda: server.complaints(raw) == [])
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(raw))
    finally:
        cluster.kubectl("apply", "-f", str(CRDS))
    another = {**raw, "metadata": {**raw["metadata"], "name": f"{name}-2"}}  # the first name is taken
    _soon(lambda: len(server.complaints(another)) == 2)
    condition = _condition("Ready", "False", "InvalidSpec")
    _set_status(cluster, {"conditions": [condition]}, "pcap", name)
    assert cluster.get("pcap", name)["status"]["conditions"] == [condition]
    cluster.kubectl("delete", "pcap", name, "--wait=false")


def _soon(holds: Callable[[], bool]) -> None:
    """The API server takes a moment to serve another schema."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_status_out_of_bounds_is_refused(cluster: ClusterClient, workload: str) -> None:
    patch = json.dumps({"status": {"recommendations": ["less"] * 6}})
    what = ("iw", "triage", "-n", workload, "--subresource=status", "--type=merge", "-p", patch)
    done = _kubectl(cluster, "patch", *what)
    assert "must have at most 5 items" in done.stderr


@pytest.mark.parametrize("stars", [{"stars": "Unrated"}, {"stars": "*", "officialStars": "*****"}])
def test_a_status_says_unrated_or_its_stars(cluster: ClusterClient, workload: str, stars: dict[str, str]) -> None:
    what = ("iw", "triage", "-n", workload)
    _set_status(cluster, {"energy": stars}, *what)
    assert cluster.get(*what)["status"]["energy"] == stars


@pytest.mark.parametrize("stars", [{"stars": "******"}, {"stars": "unknown"}, {"officialStars": "Unrated"}])
def test_other_words_for_stars_are_refused(cluster: ClusterClient, workload: str, stars: dict[str, str]) -> None:
    patch = json.dumps({"status": {"energy": stars}})
    what = ("iw", "triage", "-n", workload, "--subresource=status", "--type=merge", "-p", patch)
    assert f"status.energy.{next(iter(stars))}" in _kubectl(cluster, "patch", *what).stderr


def test_autoscalers_can_read_and_write_the_scale(cluster: ClusterClient, workload: str) -> None:
    cluster.kubectl("scale", "iw/triage", "-n", workload, "--replicas=3")
    _set_status(cluster, {"replicas": 2, "selector": "lowbeam.dev/workload=triage"}, "iw", "triage", "-n", workload)
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{workload}/inferenceworkloads/triage/scale"
    scale = json.loads(cluster.kubectl("get", "--raw", path))
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 2, "selector": "lowbeam.dev/workload=triage"}
    assert cluster.get("iw", "triage", "-n", workload)["spec"]["replicas"] == 3


def test_an_autoscaler_cannot_go_beyond_the_bounds(cluster: ClusterClient, workload: str) -> None:
    done = _kubectl(cluster, "scale", "iw/triage", "-n", workload, "--replicas=5000")
    assert "should be less than or equal to 1000" in done.stderr


def test_a_horizontal_pod_autoscaler_takes_hold_of_a_workload(cluster: ClusterClient, workload: str) -> None:
    cluster.kubectl("scale", "iw/triage", "-n", workload, "--replicas=2")
    cluster.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "triage", "namespace": workload},
            "spec": {
                "scaleTargetRef": {"apiVersion": f"{GROUP}/{VERSION}", "kind": "InferenceWorkload", "name": "triage"},
                "minReplicas": 4,
                "maxReplicas": 6,
            },
        }
    )
    deadline = time.monotonic() + 120  # the controller looks every 15 s; below minReplicas it acts without metrics
    while cluster.get("iw", "triage", "-n", workload)["spec"]["replicas"] != 4:
        assert time.monotonic() < deadline, cluster.get("hpa", "triage", "-n", workload)["status"]
        time.sleep(0.5)


def test_two_managers_of_conditions_keep_each_others(cluster: ClusterClient, workload: str) -> None:
    for manager, condition in (
        ("lowbeam", _condition("Ready", "True", "AllReplicasReady")),
        ("somebody-else", _condition("Audited", "True", "Fine")),
        ("lowbeam", _condition("Ready", "False", "ReplicasNotReady")),
    ):
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "InferenceWorkload",
            "metadata": {"name": "triage", "namespace": workload},
            "status": {"conditions": [condition]},
        }
        options = ("--server-side", "--subresource=status", f"--field-manager={manager}")
        cluster.kubectl("apply", *options, "-f", "-", stdin=json.dumps(body))
    conditions = cluster.get("iw", "triage", "-n", workload)["status"]["conditions"]
    assert {c["type"]: c["status"] for c in conditions} == {"Ready": "False", "Audited": "True"}
