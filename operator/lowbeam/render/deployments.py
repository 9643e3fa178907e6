"""The Deployment of one placement of a workload.

Decides everything in the pod template: probes, drain, devices, where it may run, security, and how the user's pod
settings are merged; what the engine is told is its adapter's business (`render.engines`). It never decides how many
replicas or which batch limit.

Invariants
- A batch limit that changes in place is not here; one that an engine reads at start is part of the Deployment's name.
- A change of the template replaces pods one at a time and never adds one (`maxSurge: 0`): committed watts hold.
- The user's settings are merged; where both set the same thing, ours wins for names, ports, devices, the control token
  and security, and the user's wins for everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lowbeam.api.v1alpha1.inferenceworkload import Engine, InferenceWorkload
from lowbeam.api.v1alpha1.pod import SCRATCH_VOLUME, SHM_VOLUME, PodOptions
from lowbeam.api.wire import CONTROL_PORT, SERVING_PORT
from lowbeam.catalog.engines import engine_named
from lowbeam.catalog.facts import AcceleratorClass
from lowbeam.errors import BadInput
from lowbeam.planning.roll import Roll
from lowbeam.render import labels
from lowbeam.render.engines import ADAPTERS, UNKNOWN_TRAITS, Container, Launch, ModelTraits
from lowbeam.render.identity import Placement, Shares, control_token, deployment_name, owner_references
from lowbeam.render.nodes import needs_accelerator, node_selector_terms, tolerations
from lowbeam.render.security import container_security, pod_security
from lowbeam.sizing.options import Option

LOAD_MIB_PER_SECOND: Final = 100
"""Slowest storage we wait for (a network disk); a faster one just passes the startup probe sooner."""
STARTUP_PERIOD_SECONDS: Final = 5
ENDPOINT_SECONDS: Final = 5
"""preStop sleep: Services and gateways learn within it that the pod is going."""
DRAIN_SECONDS: Final = 60
"""Longest request that is allowed to finish; an idle replica exits at once where its engine drains on SIGTERM."""
_DEFAULT_CPU: Final = "500m"
_RUNTIME_MEMORY_MIB: Final = 1024
"""torch, transformers and their buffers in host memory."""
_STAGING_MEMORY_MIB: Final = 2048
"""Host memory of a replica whose weights live on the device: one shard of a checkpoint on its way there."""
_SHARED_MEMORY_LIMIT = "2Gi"
"""What vLLM's documentation gives its pods."""
_TMP = "/tmp"  # noqa: S108 - the only place that a read-only root leaves writable
_SHM = "/dev/shm"  # noqa: S108 - the kernel's name for it
_SHARED_VOLUME: Mapping[str, Any] = {
    "name": SHM_VOLUME,
    "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED_MEMORY_LIMIT},
}


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """What the operator's own configuration says about every replica."""

    worker_image: str
    """Image of native workers whose workload names none."""
    engine_images: Mapping[Engine, str] = field(default_factory=dict)
    """Image of each other engine, for classes with accelerators."""
    cpu_engine_images: Mapping[Engine, str] = field(default_factory=dict)
    """The same for classes without."""
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
    traits: ModelTraits = UNKNOWN_TRAITS,
    roll: Roll | None = None,
) -> dict[str, Any]:
    """One Deployment per placement of a workload; `option` may differ in what changes in place, and in replicas.

    `model_path` is the catalogue's; `spec.pod.modelPath` of the workload goes before it. `other_pools` are selectors of
    pools whose nodes must not be used: they claim a node before this pool does. `roll`: where a replacement share
    by share began.

    Raises BadInput when neither the workload nor the operator names an image.
    """
    placement = Placement.of(option)
    meta, pod = workload.metadata, workload.spec.pod
    container = _launched(workload, placement, model_path=model_path, traits=traits)
    identity = labels.worker_labels(meta.name) | {labels.PLACEMENT: placement.digest(meta.name)}
    decided = {}
    if replicas < option.replicas:
        decided[labels.DECIDED_REPLICAS] = str(option.replicas)
        if roll is not None:
            decided[labels.SHARES] = Shares(roll, option.batch_limit, option.board_limit_watts).to_annotation()
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": deployment_name(meta.name, placement),
            "namespace": meta.namespace,
            "labels": {**pod.labels, **identity},
            "annotations": {labels.OPTION: placement.to_annotation(), **decided},
            "ownerReferences": owner_references(meta.name, meta.uid),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {key: identity[key] for key in (labels.WORKLOAD, labels.PLACEMENT)}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "revisionHistoryLimit": 1,
            # Must exceed the startup probe, or a slow load is reported as a failed rollout while it goes well.
            "progressDeadlineSeconds": _load_seconds(container, weights_mib) + 120,
            "template": {
                "metadata": {
                    "labels": {**pod.labels, **identity},
                    "annotations": {**pod.annotations, labels.OPTION: placement.to_annotation()},
                },
                "spec": _pod_spec(
                    workload,
                    placement,
                    container,
                    weights_mib=weights_mib,
                    accelerator=accelerator,
                    terms=node_selector_terms(accelerator, pool_selector, other_pools),
                    settings=settings,
                ),
            },
        },
    }


def _launched(workload: InferenceWorkload, placement: Placement, *, model_path: str, traits: ModelTraits) -> Container:
    """The container as the engine's adapter sees it."""
    spec, facts = workload.spec, engine_named(placement.engine)
    launch = Launch(
        task=spec.task,
        model=placement.model,
        path=spec.pod.model_path or model_path,
        precision=placement.precision,
        reasoning=placement.reasoning,
        batch_limit=placement.batch_limit,
        accelerators=placement.accelerators,
        input_tokens=spec.load.input_tokens,
        output_tokens=spec.load.output_tokens,
        port=SERVING_PORT,
        control_port=CONTROL_PORT,
        drain_seconds=DRAIN_SECONDS,
        traits=traits,
    )
    return ADAPTERS[facts.engine](launch)


def _load_seconds(container: Container, weights_mib: int) -> int:
    """How long a replica may take from its start until it answers, on the slowest storage."""
    return container.start_seconds + math.ceil(weights_mib / LOAD_MIB_PER_SECOND)


def _pod_spec(
    workload: InferenceWorkload,
    placement: Placement,
    container: Container,
    *,
    weights_mib: int,
    accelerator: AcceleratorClass,
    terms: list[dict[str, Any]],
    settings: RenderSettings,
) -> dict[str, Any]:
    pod, where = workload.spec.pod, workload.spec.placement
    taints = tolerations(accelerator)
    return {
        "terminationGracePeriodSeconds": _seconds_before_end(container)
        + (ENDPOINT_SECONDS if container.ends_at_once else DRAIN_SECONDS),
        # One variable per Service of the namespace would change the pod's environment at random.
        "enableServiceLinks": False,
        # The worker calls no API server; an account that the user names is meant to be used. By its old name too, which
        # the server fills in: left to the server, it would bring the account back when the user takes it away.
        **(
            {"serviceAccountName": pod.service_account_name, "serviceAccount": pod.service_account_name}
            if pod.service_account_name
            else {"automountServiceAccountToken": False}
        ),
        **_unless_empty("imagePullSecrets", [secret.to_wire() for secret in pod.image_pull_secrets]),
        **_unless_empty("runtimeClassName", pod.runtime_class_name),
        "securityContext": pod_security(),
        **_unless_empty("nodeSelector", dict(where.node_selector)),
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
        **_unless_empty(
            "tolerations", [*taints, *(wire for t in where.tolerations if (wire := t.to_wire()) not in taints)]
        ),
        "containers": [
            _container(
                workload,
                placement,
                container,
                weights_mib=weights_mib,
                accelerator=accelerator,
                settings=settings,
            )
        ],
        **_unless_empty(
            "volumes",
            [
                *_unless_mounted(pod, _TMP, {"name": SCRATCH_VOLUME, "emptyDir": {}}),
                *(_unless_mounted(pod, _SHM, _SHARED_VOLUME) if container.shared_memory else []),
                *(v.to_wire() for v in pod.volumes),
            ],
        ),
    }


def _container(
    workload: InferenceWorkload,
    placement: Placement,
    container: Container,
    *,
    weights_mib: int,
    accelerator: AcceleratorClass,
    settings: RenderSettings,
) -> dict[str, Any]:
    pod = workload.spec.pod
    ports = [(labels.SERVING_PORT_NAME, SERVING_PORT)]
    if container.has_control_port:
        ports.append((labels.CONTROL_PORT_NAME, CONTROL_PORT))
    return {
        "name": labels.CONTAINER,
        "image": _image(workload, placement, accelerator, settings),
        "imagePullPolicy": settings.image_pull_policy,
        **_unless_empty("command", list(pod.command or container.command)),
        "args": [*container.args, *pod.args],
        "env": _environment(workload, container, settings),
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports],
        "resources": _resources(workload, placement, weights_mib, accelerator),
        "startupProbe": {
            **_get(container.health_path),
            "periodSeconds": STARTUP_PERIOD_SECONDS,
            "timeoutSeconds": 2,
            "failureThreshold": math.ceil(_load_seconds(container, weights_mib) / STARTUP_PERIOD_SECONDS),
        },
        "readinessProbe": {
            **_get(container.ready_path),
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        # Slow on purpose: a busy engine is late, a dead one stays dead.
        "livenessProbe": {
            **_get(container.health_path),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": _seconds_before_end(container)}}},
        "securityContext": container_security(),
        "volumeMounts": [
            *_unless_mounted(pod, _TMP, {"name": SCRATCH_VOLUME, "mountPath": _TMP}),
            *(_unless_mounted(pod, _SHM, {"name": SHM_VOLUME, "mountPath": _SHM}) if container.shared_memory else []),
            *(m.to_wire() for m in pod.volume_mounts),
        ],
    }


def _image(
    workload: InferenceWorkload, placement: Placement, accelerator: AcceleratorClass, settings: RenderSettings
) -> str:
    """The user's, else the operator's for the engine and the kind of node. Raises BadInput where there is neither."""
    engine = engine_named(placement.engine).engine
    on_device = needs_accelerator(accelerator)
    images = settings.engine_images if on_device else settings.cpu_engine_images
    ours = settings.worker_image if engine is Engine.NATIVE else images.get(engine, "")
    image = workload.spec.pod.image or ours
    if not image:
        value = (
            "worker.image"
            if engine is Engine.NATIVE
            else f"engines.{engine.lower()}.{'image' if on_device else 'cpuImage'}"
        )
        raise BadInput(
            f"{workload.key}: spec.pod.image is empty and the operator has no image of the {engine} engine; "
            f"set one of them (helm: {value})"
        )
    return image


def _seconds_before_end(container: Container) -> int:
    """The sleep before SIGTERM: until nobody sends requests any more, or until all are done where it aborts them."""
    return ENDPOINT_SECONDS + (DRAIN_SECONDS if container.ends_at_once else 0)


def _environment(workload: InferenceWorkload, container: Container, settings: RenderSettings) -> list[dict[str, Any]]:
    """Ours first, so that a user's variable may refer to it with `$(POD_NAME)`."""
    ours: list[dict[str, Any]] = [
        {"name": labels.ENV_POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": labels.ENV_POD_NAMESPACE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    ]
    if settings.control_key and container.has_control_port:
        ours.append(
            {"name": labels.ENV_CONTROL_TOKEN, "value": control_token(settings.control_key, workload.metadata.uid)}
        )
    reserved = {labels.ENV_POD_NAME, labels.ENV_POD_NAMESPACE, labels.ENV_CONTROL_TOKEN}
    users = [variable.to_wire() for variable in workload.spec.pod.env if variable.name not in reserved]
    named = {variable["name"] for variable in users}
    ours_unless_named = {"HF_HUB_OFFLINE": "1", "HOME": _TMP, **container.environment}
    defaults = [{"name": name, "value": value} for name, value in ours_unless_named.items() if name not in named]
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


def _unless_mounted(pod: PodOptions, path: str, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Our volume or mount, unless the user mounts something at that path."""
    return [] if any(mount.mount_path == path for mount in pod.volume_mounts) else [dict(entry)]


def _unless_empty(key: str, value: Any) -> dict[str, Any]:
    return {key: value} if value else {}
