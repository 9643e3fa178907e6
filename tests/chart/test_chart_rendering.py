from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.api.crdgen import render_crds
from lowbeam.api.wire import AGENT_PORT
from lowbeam.cli import run as lowbeam_run
from lowbeam.kube import resources
from lowbeam.render import labels
from lowbeam.runtime.settings import LEASE_NAME, OperatorSettings
from lowbeam_agent.__main__ import KUBELET_SOCKET, STATE_FOLDER, agent_parser
from tests.chart.chart_tools import CHART, Helm, Render
from tools.chartsync import chart_crds
from tools.localcluster import build
from tools.localcluster.client import ClusterClient

ALL_ON: dict[str, object] = {
    "metrics.podMonitor.enabled": True,
    "metrics.prometheusRule.enabled": True,
    "metrics.prometheusRule.runbookUrl": "https://wiki.example/alerts",
    "metrics.dashboard.enabled": True,
    "prometheus.url": "http://prometheus:9090",
    "imagePullSecrets": [{"name": "pull"}],
    "podAnnotations": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "nodeSelector": {"pool": "system"},
    "serviceAccount.annotations": {"a": "b"},
    "metrics.service.annotations": {"a": "b"},
    "extraEnv": [{"name": "LOWBEAM_PLANNER_SECONDS", "value": "5"}],
    "agent.enabled": True,
    "agent.powerLimits.enabled": True,
    "agent.runtimeClassName": "nvidia",
}
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
MAY_BE_NONE = {"nodeSelector", "tolerations", "priorityClassName", "labels", "resources"}
"""With a default, and yet an object may be without."""
OTHERS = "PodMonitor,PrometheusRule"
"""Kinds of the Prometheus operator; test_alerts.py applies them."""


def one(manifests: list[dict[str, Any]], kind: str, name: str = "lowbeam") -> dict[str, Any]:
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def test_helm_lint_has_nothing_to_say(helm: Helm) -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout


def test_the_charts_own_suites_pass() -> None:
    done = subprocess.run(
        [build.binary("helm-unittest"), "--strict", str(CHART)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 passed, 0 total" in done.stdout.split("Snapshot:")[1], "snapshots would hide what changed"


def test_the_copies_of_the_crds_are_up_to_date() -> None:
    for path, text in chart_crds(render_crds()).items():
        assert path.read_text() == text, f"run: python -m tools.generate ({path.name})"
    assert {p.name for p in chart_crds(render_crds())} == {p.name for p in (CHART / "templates" / "crds").iterdir()}


def test_the_chart_installs_the_same_crds_as_kubectl_apply_would(render: Render) -> None:
    ours = [yaml.safe_load(text) for text in render_crds().values()]
    theirs = [m for m in render(**{"crds.keep": False}) if m["kind"] == "CustomResourceDefinition"]
    assert sorted(theirs, key=lambda m: m["metadata"]["name"]) == sorted(ours, key=lambda m: m["metadata"]["name"])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"wattage": 5}, "wattage"),
        ({"image": {"digest": "sha256:short"}}, "digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"ports": {"metrics": 80}}, "metrics"),
        ({"ports": {"metrics": 9401}}, "ports.metrics and ports.health are both 9401"),
        ({"log": {"level": "loud"}}, "level"),
        ({"crds": {"install": "yes"}}, "install"),
        ({"worker": {"image": ""}}, "image"),
        ({"extraEnv": [{"value": "x"}]}, "name"),
        ({"prometheus": {"url": "prometheus:9090"}}, "url"),
        ({"resources": {"limits": {"memory": "lots"}}}, "memory"),
        ({"replicas": 2}, "replicas"),
        ({"agent": {"port": 80}}, "port"),
        ({"agent": {"powerLimits": {"stateFolder": "state"}}}, "stateFolder"),
        ({"agent": {"privileged": True}}, "privileged"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(
    helm: Helm, tmp_path: Path, value: dict[str, object], problem: str
) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(value))
    done = helm("template", "lowbeam", str(CHART), "--values", str(file))
    assert done.returncode != 0
    assert problem in done.stderr


def paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value with its default; maps whose keys are free as a whole."""
    for name, value in values.items():
        yield (*above, name), value
        if isinstance(value, dict) and name not in MAY_BE_NONE:
            yield from paths(value, (*above, name))


@pytest.mark.parametrize(
    ("path", "default"), [*paths(VALUES)], ids=lambda it: ".".join(it) if isinstance(it, tuple) else ""
)
def test_a_value_that_is_set_to_null_is_none_or_refused_by_name(
    helm: Helm, tmp_path: Path, path: tuple[str, ...], default: object
) -> None:
    *above, name = path
    values: object = None
    for part in reversed(path):
        values = {part: values}
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    on = ("--set-json", 'agent={"enabled":true}') if path[0] != "agent" else ()
    done = helm("template", "lowbeam", str(CHART), "--values", str(file), *on)
    if done.returncode == 0:
        assert not default or name in MAY_BE_NONE, "null would silently replace the default"
    else:
        where = "".join(f"/{part}" for part in above)
        assert f"at '{where}': missing property '{name}'" in done.stderr


def test_the_schema_knows_every_value_and_the_values_every_field_of_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(part: dict[str, Any], given: dict[str, Any], where: str) -> None:
        known = set(part.get("properties", {})) - {"global"}
        if not known:
            return
        assert known == set(given), where
        assert part["additionalProperties"] is False, where
        for name in known:
            if isinstance(given[name], dict) and name not in ("requests", "limits"):
                compare(part["properties"][name], given[name], f"{where}.{name}")

    compare(schema, values, "values")


def test_every_value_says_what_it_is_for() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    undocumented = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if ":" in line
        and not line.lstrip().startswith(("#", "- "))
        and not before.lstrip().startswith("#")
        and (line.split(":", 1)[1].strip())
        and line.strip().split(":")[0] not in ("requests", "limits")
    ]
    assert undocumented == []


def test_the_operators_flags_are_those_of_lowbeam_run(render: Render) -> None:
    parser = argparse.ArgumentParser()
    lowbeam_run.add_arguments(parser)
    container = one(render(**ALL_ON), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][0] == "run"
    parsed = parser.parse_args(container["args"][1:])
    assert parsed.namespace == "lowbeam-system"
    settings = OperatorSettings(identity="test")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"metrics": settings.metrics_port, "health": settings.health_port}


def test_the_agents_flags_are_those_of_lowbeam_agent(render: Render) -> None:
    pod = one(render(**ALL_ON), "DaemonSet", "lowbeam-agent")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    parsed = agent_parser().parse_args(container["args"])
    assert [port["containerPort"] for port in container["ports"]] == [parsed.port] == [AGENT_PORT]
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    assert parsed.kubelet_socket == mounts["pod-resources"] / KUBELET_SOCKET.name
    assert parsed.state_folder == mounts["state"]
    assert parsed.limit_token_file == mounts["token"] / "token"
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert paths == {"pod-resources": str(KUBELET_SOCKET.parent), "state": str(STATE_FOLDER)}


def test_the_operator_finds_the_agents_and_has_the_token_of_their_limits(render: Render) -> None:
    manifests = render(**ALL_ON)
    agents, operator = (
        one(manifests, kind, name)["spec"]["template"]
        for kind, name in (("DaemonSet", "lowbeam-agent"), ("Deployment", "lowbeam"))
    )
    selector = dict(pair.split("=") for pair in labels.AGENT_SELECTOR.split(","))
    assert selector.items() <= agents["metadata"]["labels"].items()
    assert labels.AGENT_PORT_NAME in {port["name"] for port in agents["spec"]["containers"][0]["ports"]}

    def token(pod: dict[str, Any], flag: str) -> tuple[str, str]:
        (container,) = pod["spec"]["containers"]
        path = next(Path(arg.partition("=")[2]) for arg in container["args"] if arg.startswith(flag))
        volume = next(it["name"] for it in container["volumeMounts"] if it["mountPath"] == str(path.parent))
        secret = next(it["secret"] for it in pod["spec"]["volumes"] if it["name"] == volume)
        return secret["secretName"], next(it["key"] for it in secret["items"] if it["path"] == path.name)

    assert token(operator, "--agent-token-file=") == token(agents, "--limit-token-file=")
    without = one(render(**{"agent.enabled": True}), "Deployment", "lowbeam")["spec"]["template"]["spec"]
    assert "agent-token" not in json.dumps(without), "it only reads watts then"


def test_the_operator_may_touch_exactly_the_kinds_that_it_names(render: Render) -> None:
    manifests = render()
    rules = one(manifests, "ClusterRole")["rules"] + one(manifests, "Role", "lowbeam-lease")["rules"]
    allowed = {(group, kind.split("/")[0]) for r in rules for group in r["apiGroups"] for kind in r["resources"]}
    named = {(r.group, r.plural) for r in vars(resources).values() if isinstance(r, resources.Resource)}
    assert allowed == named
    verbs = {verb for rule in rules for verb in rule["verbs"]}
    assert verbs <= {"get", "list", "watch", "create", "patch", "delete"}
    assert not any("*" in part for rule in rules for field in rule.values() for part in field)
    policy = one(manifests, "ValidatingAdmissionPolicy", "lowbeam-lease")["spec"]["matchConstraints"]["resourceRules"]
    named_leases = [rule["resourceNames"] for rule in (*rules, *policy) if "resourceNames" in rule]
    assert named_leases == [[LEASE_NAME]] * 3


def test_every_combination_of_switches_renders(render: Render) -> None:
    switches = ["crds.install", "rbac.create", "rbac.aggregate", "serviceAccount.create", "controlKey.enabled"]
    for off in switches:
        assert one(render(**{off: False}), "Deployment")
    assert [m["kind"] for m in render(**dict.fromkeys([*switches, "metrics.service.enabled"], False))] == ["Deployment"]


def test_what_the_chart_renders_fits_the_api_servers_own_schema(
    helm: Helm, cluster: ClusterClient, tmp_path: Path
) -> None:
    chosen = [part for name, value in ALL_ON.items() for part in ("--set-json", f"{name}={json.dumps(value)}")]
    rendered = helm("template", "lowbeam", str(CHART), "--namespace", "lowbeam-system", *chosen)
    assert rendered.returncode == 0, rendered.stderr
    write_schemas(json.loads(cluster.kubectl("get", "--raw", "/openapi/v2")), tmp_path)
    location = f"{tmp_path}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    done = subprocess.run(
        [build.binary("kubeconform"), "-summary", "-skip", OTHERS, "-schema-location", location],
        input=rendered.stdout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Invalid: 0, Errors: 0, Skipped: 4" in done.stdout


@pytest.mark.parametrize(
    ("release", "values"),
    [
        ("r" * 53, {}),
        ("team.lowbeam", {}),
        ("123", {}),
        ("1e3", {"nameOverride": "007", "controlKey": {"existingSecret": "42"}}),
        ("lowbeam", {"fullnameOverride": "f" * 63, "serviceAccount": {"name": "12"}}),
    ],
)
def test_the_api_server_takes_every_name_that_helm_takes(  # noqa: PLR0917 - one row of the table
    helm: Helm, cluster: ClusterClient, namespace: str, tmp_path: Path, release: str, values: dict[str, Any]
) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps({"crds": {"install": False}, "agent": {"enabled": True}, **values}))
    rendered = helm("template", release, str(CHART), "--namespace", namespace, "--values", str(file))
    assert rendered.returncode == 0, rendered.stderr
    said = cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=rendered.stdout)
    assert {line.split("/")[0] for line in said.splitlines()} >= {"deployment.apps", "daemonset.apps", "service"}


def write_schemas(openapi: dict[str, Any], folder: Path) -> None:
    """One JSON schema per kind of the chart, named as kubeconform looks for it; unknown fields are refused."""
    definitions = openapi["definitions"]
    for name, schema in definitions.items():
        if name.endswith(".IntOrString") or name.endswith(".Quantity"):
            schema["type"] = ["string", "integer"]
            schema.pop("format", None)
        elif "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
    wanted = {
        ("", "v1", "ConfigMap"),
        ("", "v1", "Secret"),
        ("", "v1", "Service"),
        ("", "v1", "ServiceAccount"),
        ("apps", "v1", "DaemonSet"),
        ("apps", "v1", "Deployment"),
        ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        ("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy"),
        ("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding"),
        *(("rbac.authorization.k8s.io", "v1", k) for k in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")),
    }
    for name, schema in definitions.items():
        for gvk in schema.get("x-kubernetes-group-version-kind", []):
            key = (gvk["group"], gvk["version"], gvk["kind"])
            if key in wanted:
                group = f"{gvk['group'].split('.')[0]}-" if gvk["group"] else ""
                file = folder / f"{gvk['kind'].lower()}-{group}{gvk['version']}.json"
                file.write_text(json.dumps({"$ref": f"#/definitions/{name}", "definitions": definitions}))
                wanted.discard(key)
    assert not wanted
