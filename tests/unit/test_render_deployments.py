from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.api.v1alpha1.inferenceworkload import InferenceWorkload
from lowbeam.api.wire import CONTROL_PORT, SERVING_PORT
from lowbeam.catalog.facts import AcceleratorClass, Basis, Reasoning, Source
from lowbeam.errors import BadInput
from lowbeam.planning.roll import Roll
from lowbeam.render import RenderSettings, Shares, control_token, deployment, service
from lowbeam.sizing.options import Option

GOLDEN = Path(__file__).parents[1] / "golden"
SOURCE = Source("test", "2026-01-01")
H100 = AcceleratorClass(
    "h100-sxm",
    ("NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-SXM"),
    81920,
    90,
    ("bf16", "fp8"),
    idle_milliwatts=120_000,
    max_milliwatts=700_000,
    source=SOURCE,
)
CPU = AcceleratorClass("cpu", (), 0, 0, ("fp32",), idle_milliwatts=2_000, max_milliwatts=20_000, source=SOURCE)
UID = "8f1c0000-0000-4000-8000-000000000001"
SETTINGS = RenderSettings("registry.example/lowbeam-worker:0.1.0", control_key=b"0123456789abcdef")


def workload(name: str = "assistant", uid: str = UID, **spec: Any) -> InferenceWorkload:
    load = {"requestsPerMinute": 600, "inputTokens": 300, "outputTokens": 500}
    return InferenceWorkload.from_cluster(
        {
            "metadata": {"namespace": "support", "name": name, "uid": uid},
            "spec": {"task": "text-generation", "load": load, **spec},
        }
    )


def option(**changes: Any) -> Option:
    base = Option(
        model="Qwen3-8B",
        precision="bf16",
        reasoning=Reasoning.OFF,
        accelerator_class="h100-sxm",
        accelerators_per_replica=2,
        batch_limit=64,
        replicas=3,
        pool="cluster",
        engine="Native",
        expected_milliwatts=1_840_000,
        worst_case_milliwatts=2_100_000,
        capacity_millirps=12_000,
        unserved_millirps=0,
        quality_centi=5670,
        quality_shortfall_centi=0,
        millijoules_per_request=47_000,
        latency_p95_ms=900,
        basis=Basis.PUBLISHED,
    )
    return dataclasses.replace(base, **changes)


def render(made_for: InferenceWorkload | None = None, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "option": option(),
        "model_path": "Qwen/Qwen3-8B",
        "weights_mib": 15_700,
        "replicas": 3,
        "accelerator": H100,
        "pool_selector": {"lowbeam.dev/pool": "a"},
        "settings": SETTINGS,
    }
    return deployment(made_for or workload(), **(arguments | changes))


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def worker_of(manifest: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = pod_of(manifest)["containers"][0]
    return container


def env_of(manifest: dict[str, Any]) -> dict[str, Any]:
    variables = worker_of(manifest)["env"]
    assert len({v["name"] for v in variables}) == len(variables), "a variable is set twice"
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in variables}


DEMO_POD = {
    "image": "localhost/hostbase:1",
    "command": ["/opt/venv/bin/python", "-m", "lowbeam_worker"],
    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
    "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "2Gi"}},
    "volumes": [{"name": "venv", "hostPath": {"path": "/opt/venv"}}],
    "volumeMounts": [{"name": "venv", "mountPath": "/opt/venv", "readOnly": True}],
    "labels": {"kueue.x-k8s.io/queue-name": "team-a"},
    "annotations": {"prometheus.io/scrape": "true"},
}


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("deployment-gpu", render()),
        (
            "deployment-cpu",
            render(
                workload(
                    "embed",
                    task="feature-extraction",
                    load={"requestsPerMinute": 60, "inputTokens": 100, "outputTokens": 1},
                    pod=DEMO_POD,
                ),
                option=option(
                    model="all-MiniLM-L6-v2", accelerator_class="cpu", accelerators_per_replica=0, replicas=1
                ),
                model_path="sentence-transformers/all-MiniLM-L6-v2",
                weights_mib=87,
                replicas=1,
                accelerator=CPU,
                pool_selector={},
            ),
        ),
        ("service", service(workload())),
    ],
)
def test_manifests_are_the_ones_in_the_golden_files(name: str, manifest: dict[str, Any]) -> None:
    path = GOLDEN / f"render-{name}.yaml"
    text = yaml.safe_dump(manifest, sort_keys=False, width=120)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "right after all? UPDATE_GOLDEN=1 pytest tests/unit/test_render_deployments.py"


def test_a_batch_power_limit_or_replica_change_leaves_the_pod_template_alone() -> None:
    changed = option(batch_limit=8, replicas=1, worst_case_milliwatts=1, board_limit_watts=490)
    before, after = render(), render(option=changed, replicas=1)
    assert after["spec"]["replicas"] == 1
    assert before["spec"]["template"] == after["spec"]["template"]
    assert before["metadata"] == after["metadata"]


def test_a_deployment_with_fewer_replicas_for_now_says_how_many_it_is_to_have() -> None:
    said = [render(workload(), replicas=count)["metadata"]["annotations"] for count in (1, 3)]
    assert [it.get("lowbeam.dev/decided-replicas") for it in said] == ["3", None]


def test_a_deployment_that_grows_share_by_share_says_where_that_began_and_which_batch_limit_was_decided() -> None:
    said = [
        render(workload(), option=option(batch_limit=8, replicas=3), replicas=count, roll=Roll(4, 1))
        for count in (1, 3)
    ]
    first, last = (it["metadata"]["annotations"] for it in said)
    assert first["lowbeam.dev/shares"] == '{"batchLimit":8,"newReplicas":1,"oldReplicas":4}'
    assert Shares.from_annotation(first["lowbeam.dev/shares"]) == Shares(Roll(4, 1), 8)
    limited = option(batch_limit=8, replicas=3, board_limit_watts=490)
    told = render(workload(), option=limited, replicas=1, roll=Roll(4, 1))["metadata"]["annotations"]
    assert Shares.from_annotation(told["lowbeam.dev/shares"]) == Shares(Roll(4, 1), 8, 490)
    assert "lowbeam.dev/shares" not in last
    assert said[0]["spec"]["template"] == said[1]["spec"]["template"], "no pod is replaced for it"


def test_every_worker_starts_at_batch_one_so_that_it_draws_no_more_than_admitted() -> None:
    args = worker_of(render())["args"]
    assert args[args.index("--batch-limit") + 1] == "1"


def test_the_arguments_are_the_workers_command_line() -> None:
    args = worker_of(render())["args"]
    assert dict(zip(args[::2], args[1::2], strict=True)) == {
        "--task": "text-generation",
        "--model": "Qwen3-8B",
        "--model-path": "Qwen/Qwen3-8B",
        "--precision": "bf16",
        "--batch-limit": "1",
        "--max-output-tokens": "2048",
        "--port": str(SERVING_PORT),
        "--control-port": str(CONTROL_PORT),
    }


def test_a_change_of_the_template_never_adds_a_pod_on_top() -> None:
    rolling = render()["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 0, "maxUnavailable": 1}


def test_the_selector_holds_only_what_never_changes_and_the_pods_carry_it() -> None:
    manifest = render()
    selector = manifest["spec"]["selector"]["matchLabels"]
    assert set(selector) == {"lowbeam.dev/workload", "lowbeam.dev/placement"}
    assert selector.items() <= manifest["spec"]["template"]["metadata"]["labels"].items()


def test_labels_of_a_user_are_added_and_ours_stay() -> None:
    made_for = workload(pod={"labels": {"app.kubernetes.io/name": "mine", "team": "a"}})
    manifest = render(made_for)
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "lowbeam-worker"
    assert labels["team"] == "a"
    assert manifest["metadata"]["labels"]["team"] == "a", "queueing controllers read the Deployment's own labels"


def test_the_plan_decides_the_devices_and_the_user_the_rest() -> None:
    resources = worker_of(render(workload(pod={"resources": {"limits": {"memory": "32Gi"}}})))["resources"]
    assert resources["limits"] == {"memory": "32Gi", "nvidia.com/gpu": "2"}


def test_a_replica_on_the_cpu_asks_for_no_device_and_tolerates_no_gpu_taint() -> None:
    manifest = render(accelerator=CPU, option=option(accelerator_class="cpu", accelerators_per_replica=0))
    assert "limits" not in worker_of(manifest)["resources"]
    assert "tolerations" not in pod_of(manifest)


def test_a_users_limit_is_never_below_the_request_that_we_would_add() -> None:
    made_for = workload(pod={"resources": {"limits": {"memory": "1Gi"}}})
    assert worker_of(render(made_for))["resources"]["requests"] == {"cpu": "500m"}


def test_the_control_token_belongs_to_one_workload_and_cannot_be_replaced() -> None:
    mine = workload(pod={"env": [{"name": "LOWBEAM_CONTROL_TOKEN", "value": "guess"}]})
    other = workload(uid="another")
    token = env_of(render(mine))["LOWBEAM_CONTROL_TOKEN"]
    assert token == control_token(SETTINGS.control_key, UID)
    assert token != env_of(render(other))["LOWBEAM_CONTROL_TOKEN"]
    assert SETTINGS.control_key.decode() not in json.dumps(render())


def test_without_a_key_there_is_no_token() -> None:
    assert "LOWBEAM_CONTROL_TOKEN" not in env_of(render(settings=RenderSettings("image:1")))


def test_downloads_are_off_until_the_user_allows_them() -> None:
    assert env_of(render())["HF_HUB_OFFLINE"] == "1"
    allowed = workload(pod={"env": [{"name": "HF_HUB_OFFLINE", "value": "0"}]})
    assert env_of(render(allowed))["HF_HUB_OFFLINE"] == "0"


def test_pods_meet_the_restricted_pod_security_standard() -> None:
    manifest = render(workload(pod=DEMO_POD))
    pod, container = pod_of(manifest)["securityContext"], worker_of(manifest)["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["readOnlyRootFilesystem"] is True


def test_a_worker_has_no_api_token_unless_its_user_names_an_account() -> None:
    assert pod_of(render())["automountServiceAccountToken"] is False
    named = pod_of(render(workload(pod={"serviceAccountName": "s3-reader"})))
    assert named["serviceAccountName"] == named["serviceAccount"] == "s3-reader"
    assert "automountServiceAccountToken" not in named


def test_a_read_only_root_has_a_place_to_write_and_the_user_may_bring_another() -> None:
    mount = {"name": "fast", "mountPath": "/tmp"}
    own = render(workload(pod={"volumes": [{"name": "fast", "emptyDir": {}}], "volumeMounts": [mount]}))
    assert worker_of(own)["volumeMounts"] == [mount]
    assert [volume["name"] for volume in pod_of(own)["volumes"]] == ["fast"]
    assert [m["mountPath"] for m in worker_of(render())["volumeMounts"]] == ["/tmp"]
    assert env_of(render())["HOME"] == "/tmp"


@pytest.mark.parametrize("weights_mib", [0, 87, 15_700, 140_000])
def test_the_startup_probe_waits_for_the_slowest_load_and_the_rollout_waits_longer(weights_mib: int) -> None:
    manifest = render(weights_mib=weights_mib)
    probe = worker_of(manifest)["startupProbe"]
    allowed = probe["periodSeconds"] * probe["failureThreshold"]
    assert allowed >= 120 + weights_mib / 100
    assert manifest["spec"]["progressDeadlineSeconds"] > allowed


def test_the_drain_fits_into_the_grace_period() -> None:
    manifest = render()
    sleep = worker_of(manifest)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod_of(manifest)["terminationGracePeriodSeconds"] > sleep > 0


def test_the_owner_is_the_controller_without_rights_on_its_finalizers() -> None:
    (owner,) = render()["metadata"]["ownerReferences"]
    assert owner["controller"] is True
    assert owner["uid"] == UID
    assert "blockOwnerDeletion" not in owner


def test_tolerations_of_the_user_are_added_once() -> None:
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    kwok = {"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}
    pod = pod_of(render(workload(placement={"tolerations": [gpu, kwok], "nodeSelector": {"zone": "a"}})))
    assert pod["tolerations"] == [gpu, kwok]
    assert pod["nodeSelector"] == {"zone": "a"}


def test_no_image_anywhere_is_a_problem_that_names_the_field() -> None:
    with pytest.raises(BadInput, match=r"support/assistant: spec\.pod\.image is empty"):
        render(settings=RenderSettings(""))


def test_weights_that_the_user_brings_are_loaded_from_there() -> None:
    args = worker_of(render(workload(pod={"modelPath": "/models/minilm"})))["args"]
    assert args[args.index("--model-path") + 1] == "/models/minilm"


@pytest.mark.parametrize(("typical", "longest"), [(0, 1), (1, 1), (2, 8), (500, 2048), (512, 2048), (513, 4096)])
def test_answers_may_be_four_times_the_typical_one_in_steps(typical: int, longest: int) -> None:
    load = {"requestsPerMinute": 60, "inputTokens": 100, "outputTokens": typical}
    args = worker_of(render(workload(load=load)))["args"]
    assert args[args.index("--max-output-tokens") + 1] == str(longest)


def test_rendering_leaves_the_users_settings_untouched() -> None:
    before = json.dumps(DEMO_POD)
    manifest = render(workload(pod=DEMO_POD))
    pod_of(manifest)["volumes"][1]["name"] = "changed"
    worker_of(manifest)["resources"]["limits"]["memory"] = "changed"
    worker_of(manifest)["securityContext"]["capabilities"]["drop"].append("changed")
    assert json.dumps(DEMO_POD) == before
    assert worker_of(render())["securityContext"]["capabilities"] == {"drop": ["ALL"]}
