"""The Deployment of one placement of a workload.

Decides everything in the pod template: arguments of the worker, probes, drain, devices, where it may run, security, and
how the user's pod settings are merged. It never decides how many replicas or which batch limit.

Invariants
- The batch limit is not here: every pod starts at 1 and the operator raises it through the control port, so that a new
  replica never draws more than was admitted for it.
- A change of the template replaces pods one at a time and never adds one (`maxSurge: 0`): committed watts hold.
- The user's settings are merged; where both set the same thing, ours wins for names, ports, devices, the control token
  and security, and the user's wins for everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lowbeam.api.v1alpha1.inferenceworkload import InferenceWorkload
from lowbeam.api.v1alpha1.pod import PodOptions
from lowbeam.api.wire import CONTROL_PORT, SERVING_PORT
from lowbeam.catalog.facts import AcceleratorClass
from lowbeam.errors import BadInput
from lowbeam.render import labels
from lowbeam.render.identity import Placement, control_token, deployment_name, owner_references
from lowbeam.render.nodes import needs_accelerator, node_selector_terms, tolerations
from lowbeam.sizing.options import Option

FIRST_BATCH_LIMIT: Final = 1
START_SECONDS: Final = 120
"""Imports, CUDA context and warm-up, beside reading the weights."""
LOAD_MIB_PER_SECOND: Final = 100
"""Slowest storage we wait for (a network disk); a faster one just passes the startup probe sooner."""
STARTUP_PERIOD_SECONDS: Final = 5
ENDPOINT_SECONDS: Final = 5
"""preStop sleep: Services and gateways learn within it that the pod is going."""
DRAIN_SECONDS: Final = 60
"""Longest request that is allowed to finish after SIGTERM; an idle worker exits at once."""
ANSWER_SPREAD: Final = 4
"""Longest answer over the typical one."""
USER_ID: Final = 65532
"""The customary non-root user; set here because images with a named user fail `runAsNonRoot`."""
_DEFAULT_CPU: Final = "500m"
_RUNTIME_MEMORY_MIB: Final = 1024
"""torch, transformers and their buffers in host memory."""
_STAGING_MEMORY_MIB: Final = 2048
"""Host memory of a replica whose weights live on the device: one shard of a checkpoint on its way there."""
_SCRATCH = "lowbeam-tmp"
_TMP = "/tmp"  # noqa: S108 - the only place that a read-only root leaves writable
_SECURITY: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """What the operator's own configuration says about every worker."""

    worker_image: str
    """Image of workers whose workload names none."""
    image_pull_policy: str = "IfNotPresent"
    control_key: bytes = b""
    """Key of the control tokens; empty = the control ports take requests without a token."""


def deployment(
    workload: InferenceWorkload,
    option: Option,
    *,
    model_path: str,
    weights_mib: int,
    replicas: int,
    accelerator: AcceleratorClass,
    pool_selector: Mapping[str, str],
    settings: RenderSettings,
    other_pools: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """One Deployment per (workload, variant, class, pool); `option` may differ in batch limit and replicas.

    `model_path` is the catalogue's; `spec.pod.modelPath` of the workload goes before it. `other_pools` are selectors of
    pools whose nodes must not be used: for the pool of all nodes that are in no other.

    Raises BadInput when neither the workload nor the operator names an image.
    """
    placement = Placement.of(option)
    meta, pod = workload.metadata, workload.spec.pod
    identity = labels.worker_labels(meta.name) | {labels.PLACEMENT: placement.digest(meta.name)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": deployment_name(meta.name, placement),
            "namespace": meta.namespace,
            "labels": {**pod.labels, **identity},
            "annotations": {labels.OPTION: placement.to_annotation()},
            "ownerReferences": owner_references(meta.name, meta.uid),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {key: identity[key] for key in (labels.WORKLOAD, labels.PLACEMENT)}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "revisionHistoryLimit": 1,
            # Must exceed the startup probe, or a slow load is reported as a failed rollout while it goes well.
            "progressDeadlineSeconds": load_seconds(weights_mib) + 120,
            "template": {
                "metadata": {
                    "labels": {**pod.labels, **identity},
                    "annotations": {**pod.annotations, labels.OPTION: placement.to_annotation()},
                },
                "spec": _pod_spec(
                    workload,
                    placement,
                    model_path=model_path,
                    weights_mib=weights_mib,
                    accelerator=accelerator,
                    terms=node_selector_terms(accelerator, pool_selector, other_pools),
                    settings=settings,
                ),
            },
        },
    }


def load_seconds(weights_mib: int) -> int:
    """How long a worker may take from its start until it answers, on the slowest storage."""
    return START_SECONDS + math.ceil(weights_mib / LOAD_MIB_PER_SECOND)


def answer_limit(output_tokens: int) -> int:
    """Most tokens of one answer, from a typical one: four times as many cover the tail.

    Rounded up to a power of two, so that a small correction of `spec.load` does not restart pods.
    """
    return 1 if output_tokens <= 1 else 1 << (ANSWER_SPREAD * output_tokens - 1).bit_length()


def _pod_spec(
    workload: InferenceWorkload,
    placement: Placement,
    *,
    model_path: str,
    weights_mib: int,
    accelerator: AcceleratorClass,
    terms: list[dict[str, Any]],
    settings: RenderSettings,
) -> dict[str, Any]:
    pod, where = workload.spec.pod, workload.spec.placement
    taints = tolerations(accelerator)
    return {
        "terminationGracePeriodSeconds": ENDPOINT_SECONDS + DRAIN_SECONDS,
        # One variable per Service of the namespace would change the pod's environment at random.
        "enableServiceLinks": False,
        # The worker calls no API server; an account that the user names is meant to be used.
        **(
            {"serviceAccountName": pod.service_account_name}
            if pod.service_account_name
            else {"automountServiceAccountToken": False}
        ),
        **_unless_empty("imagePullSecrets", [secret.to_wire() for secret in pod.image_pull_secrets]),
        **_unless_empty("runtimeClassName", pod.runtime_class_name),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            # Weights are big: change their group only where it is wrong.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_unless_empty("nodeSelector", dict(where.node_selector)),
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
        **_unless_empty(
            "tolerations", [*taints, *(wire for t in where.tolerations if (wire := t.to_wire()) not in taints)]
        ),
        "containers": [
            _container(
                workload,
                placement,
                model_path=model_path,
                weights_mib=weights_mib,
                accelerator=accelerator,
                settings=settings,
            )
        ],
        **_unless_empty(
            "volumes", [*_scratch(pod, {"name": _SCRATCH, "emptyDir": {}}), *(v.to_wire() for v in pod.volumes)]
        ),
    }


def _container(
    workload: InferenceWorkload,
    placement: Placement,
    *,
    model_path: str,
    weights_mib: int,
    accelerator: AcceleratorClass,
    settings: RenderSettings,
) -> dict[str, Any]:
    pod = workload.spec.pod
    image = pod.image or settings.worker_image
    if not image:
        raise BadInput(
            f"{workload.key}: spec.pod.image is empty and the operator has no worker image; "
            "set one of them (helm: worker.image)"
        )
    return {
        "name": labels.CONTAINER,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        **_unless_empty("command", list(pod.command)),
        "args": [
            *("--task", workload.spec.task),
            *("--model", placement.model),
            *("--model-path", pod.model_path or model_path),
            *("--precision", placement.precision),
            *("--batch-limit", str(FIRST_BATCH_LIMIT)),
            *("--max-output-tokens", str(answer_limit(workload.spec.load.output_tokens))),
            *("--port", str(SERVING_PORT)),
            *("--control-port", str(CONTROL_PORT)),
        ],
        "env": _environment(workload, settings),
        "ports": [
            {"name": labels.SERVING_PORT_NAME, "containerPort": SERVING_PORT, "protocol": "TCP"},
            {"name": labels.CONTROL_PORT_NAME, "containerPort": CONTROL_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(workload, placement, weights_mib, accelerator),
        "startupProbe": {
            **_get("/health"),
            "periodSeconds": STARTUP_PERIOD_SECONDS,
            "timeoutSeconds": 2,
            "failureThreshold": math.ceil(load_seconds(weights_mib) / STARTUP_PERIOD_SECONDS),
        },
        "readinessProbe": {**_get("/ready"), "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2},
        # Slow on purpose: a busy worker is late, a dead one stays dead.
        "livenessProbe": {**_get("/health"), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": ENDPOINT_SECONDS}}},
        "securityContext": {**_SECURITY, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            *_scratch(pod, {"name": _SCRATCH, "mountPath": _TMP}),
            *(m.to_wire() for m in pod.volume_mounts),
        ],
    }


def _environment(workload: InferenceWorkload, settings: RenderSettings) -> list[dict[str, Any]]:
    """Ours first, so that a user's variable may refer to it with `$(POD_NAME)`."""
    ours: list[dict[str, Any]] = [
        {"name": labels.ENV_POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": labels.ENV_POD_NAMESPACE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    ]
    if settings.control_key:
        ours.append(
            {"name": labels.ENV_CONTROL_TOKEN, "value": control_token(settings.control_key, workload.metadata.uid)}
        )
    reserved = {labels.ENV_POD_NAME, labels.ENV_POD_NAMESPACE, labels.ENV_CONTROL_TOKEN}
    users = [variable.to_wire() for variable in workload.spec.pod.env if variable.name not in reserved]
    named = {variable["name"] for variable in users}
    defaults = [
        {"name": name, "value": value} for name, value in (("HF_HUB_OFFLINE", "1"), ("HOME", _TMP)) if name not in named
    ]
    return [*ours, *defaults, *users]


def _resources(
    workload: InferenceWorkload, placement: Placement, weights_mib: int, accelerator: AcceleratorClass
) -> dict[str, Any]:
    """The user's requests and limits with ours filled in; the API refuses devices there: each is charged to a cap."""
    wished = workload.spec.pod.resources
    on_device = needs_accelerator(accelerator)
    memory_mib = _STAGING_MEMORY_MIB if on_device else _RUNTIME_MEMORY_MIB + weights_mib
    defaults = {"cpu": _DEFAULT_CPU, "memory": f"{memory_mib}Mi"}
    # Kubernetes takes a limit without a request as the request; a default of ours might be above it.
    requests = {key: value for key, value in defaults.items() if key not in wished.limits} | wished.requests
    limits = dict(wished.limits) | ({labels.GPU_RESOURCE: str(placement.accelerators)} if on_device else {})
    return {**_unless_empty("requests", requests), **_unless_empty("limits", limits)}


def _get(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": labels.SERVING_PORT_NAME}}


def _scratch(pod: PodOptions, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Our writable /tmp, unless the user mounts one."""
    return [] if any(mount.mount_path == _TMP for mount in pod.volume_mounts) else [entry]


def _unless_empty(key: str, value: Any) -> dict[str, Any]:
    return {key: value} if value else {}
