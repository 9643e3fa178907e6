"""The part of a pod that a workload's owner may say something about.

Decides which fields of Kubernetes' PodSpec Lowbeam passes through, and nothing else: names and meanings are those of
core/v1, so that `to_wire()` of each structure can be put into a pod as it is. It is narrow on purpose: whatever
decides watts (accelerators, replicas, batch) belongs to the plan, and a whole PodTemplateSpec would make the CRD
megabytes long.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from lowbeam.api.v1alpha1.base import (
    ApiModel,
    DnsLabel,
    Name,
    Rule,
    list_map,
)
from lowbeam.api.v1alpha1.labels import (
    ANNOTATION_KEY_PATTERN,
    KeyOfMap,
    LabelKey,
    Labels,
    LabelValue,
    has_keys_of_labels,
)

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
RESERVED_PREFIX = "lowbeam.dev/"
"""Labels below it select Lowbeam's own pods; a user who set one would take pods away from their workload."""
SCRATCH_VOLUME = "lowbeam-tmp"
SHM_VOLUME = "lowbeam-shm"
_RESERVED_VOLUMES = (SCRATCH_VOLUME, SHM_VOLUME)
RESERVED_ARGUMENTS = (
    "^--?(batch[-_]limit|max[-_]num[-_]seqs|max[-_]running[-_]requests|max[-_]batch[-_]requests|parallel|np"
    "|(tensor|pipeline|data)[-_]parallel[-_]size|[tpd]p|[tpd]p[-_]size|p|port|control[-_]port)(=|$)"
)
"""Arguments of the engines that decide watts, devices or where Lowbeam finds the engine."""


def _quantity(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.fullmatch(QUANTITY_PATTERN, value) and len(value) <= 32:
        return value
    raise PydanticCustomError("quantity", "is not an amount that Kubernetes understands")


Quantity = Annotated[
    int | str,
    PlainValidator(_quantity),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "minimum": 0,
            "pattern": QUANTITY_PATTERN,
        }
    ),
]
"""An amount of CPU or memory as Kubernetes writes it: 2, "500m", "8Gi"."""

Path = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/")]
"""An absolute path."""
EnvName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]
ResourceAmounts = Annotated[dict[Annotated[str, Field(min_length=1, max_length=253)], Quantity], Field(max_length=16)]


class KeyReference(ApiModel):
    """One key of a Secret or a ConfigMap in the workload's namespace."""

    name: Name
    """Name of the object."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key in it."""
    optional: bool | None = None
    """Start the pod even if the object or the key is missing."""


class EnvSource(ApiModel):
    """Where the value of an environment variable comes from: exactly one of the two."""

    secret_key_ref: KeyReference | None = None
    """A key of a Secret, e.g. a download token."""
    config_map_key_ref: KeyReference | None = None
    """A key of a ConfigMap."""

    rules: ClassVar = (
        Rule(
            cel="has(self.secretKeyRef) != has(self.configMapKeyRef)",
            message="set exactly one of secretKeyRef and configMapKeyRef",
            holds=lambda it: (it.secret_key_ref is None) != (it.config_map_key_ref is None),
        ),
    )


class EnvVar(ApiModel):
    """One environment variable of the serving container."""

    name: EnvName
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] | None = None
    """Its value."""
    value_from: EnvSource | None = None
    """Where to take the value from instead."""

    rules: ClassVar = (
        Rule(
            cel="!(has(self.value) && has(self.valueFrom))",
            message="set value or valueFrom, not both",
            holds=lambda it: it.value is None or it.value_from is None,
        ),
    )


def _leaves_accelerators_to_lowbeam(part: str) -> Rule:
    return Rule(
        cel=f"!has(self.{part}) || !self.{part}.exists(name, name.startsWith('nvidia.com/'))",
        message=f"remove nvidia.com/... from {part}: Lowbeam asks for the accelerators that the plan gives this "
        "workload; spec.placement.acceleratorClasses narrows the choice",
        holds=lambda it: not any(name.startswith("nvidia.com/") for name in getattr(it, part)),
        field=part,
    )


class Resources(ApiModel):
    """CPU and memory of the serving container; accelerators are added by Lowbeam."""

    requests: ResourceAmounts = Field(default_factory=dict)
    """What the scheduler reserves."""
    limits: ResourceAmounts = Field(default_factory=dict)
    """What the container may use at most."""

    rules: ClassVar = (_leaves_accelerators_to_lowbeam("requests"), _leaves_accelerators_to_lowbeam("limits"))


class HostPathVolume(ApiModel):
    """A directory or file of the node."""

    path: Path
    """Path on the node."""
    type: Annotated[str, Field(max_length=32)] | None = None
    """What must be there: Directory, File, DirectoryOrCreate, ... as in core/v1."""


class ClaimVolume(ApiModel):
    """A PersistentVolumeClaim of the workload's namespace, e.g. with model weights."""

    claim_name: Name
    """Name of the claim."""
    read_only: bool | None = None
    """Mount it read-only, so that many pods may share it."""


class EmptyDirVolume(ApiModel):
    """Scratch space that lives as long as the pod."""

    medium: Annotated[str, Field(max_length=32)] | None = None
    """`Memory` for shared memory."""
    size_limit: Quantity | None = None
    """Most that it may hold."""


class ConfigMapVolume(ApiModel):
    """The files of a ConfigMap."""

    name: Name
    """Name of the ConfigMap."""


class SecretVolume(ApiModel):
    """The files of a Secret."""

    secret_name: Name
    """Name of the Secret."""


VOLUME_SOURCES = ("host_path", "persistent_volume_claim", "empty_dir", "config_map", "secret")


class Volume(ApiModel):
    """One volume of the pod: a name and exactly one source."""

    name: DnsLabel
    """Name that volumeMounts refer to."""
    host_path: HostPathVolume | None = None
    """A directory or file of the node."""
    persistent_volume_claim: ClaimVolume | None = None
    """A PersistentVolumeClaim."""
    empty_dir: EmptyDirVolume | None = None
    """Scratch space."""
    config_map: ConfigMapVolume | None = None
    """A ConfigMap."""
    secret: SecretVolume | None = None
    """A Secret."""

    rules: ClassVar = (
        Rule(
            cel=" + ".join(
                f"(has(self.{name}) ? 1 : 0)"
                for name in ("hostPath", "persistentVolumeClaim", "emptyDir", "configMap", "secret")
            )
            + " == 1",
            message="a volume needs exactly one of hostPath, persistentVolumeClaim, emptyDir, configMap and secret",
            holds=lambda it: sum(getattr(it, source) is not None for source in VOLUME_SOURCES) == 1,
        ),
    )


class VolumeMount(ApiModel):
    """Where a volume appears in the serving container."""

    name: DnsLabel
    """Name of a volume in spec.pod.volumes."""
    mount_path: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^/[^:]*$")]
    """Path in the container."""
    sub_path: Annotated[str, Field(max_length=512)] | None = None
    """Only this part of the volume."""
    read_only: bool | None = None
    """Mount it read-only."""


class SecretReference(ApiModel):
    """A Secret of the workload's namespace."""

    name: Name
    """Name of the Secret."""


class TolerationOperator(StrEnum):
    """How a toleration matches a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ApiModel):
    """A taint of nodes that the pods accept."""

    key: LabelKey | None = None
    """Key of the taint; left out with Exists = every taint."""
    operator: TolerationOperator = TolerationOperator.EQUAL
    """Equal compares the value, Exists does not look at it."""
    value: LabelValue | None = None
    """Value of the taint."""
    effect: TaintEffect | None = None
    """Only taints with this effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=86400)] | None = None
    """How long to stay on a node with a NoExecute taint."""

    rules: ClassVar = (
        Rule(
            cel="has(self.key) || self.operator == 'Exists'",
            message="a toleration without a key needs operator Exists (it then tolerates every taint)",
            holds=lambda it: it.key is not None or it.operator is TolerationOperator.EXISTS,
            field="operator",
        ),
        Rule(
            cel="self.operator == 'Equal' || !has(self.value)",
            message="operator Exists does not look at a value; remove value, or use Equal",
            holds=lambda it: it.operator is TolerationOperator.EQUAL or it.value is None,
            field="value",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerationSeconds needs effect NoExecute",
            holds=lambda it: it.toleration_seconds is None or it.effect is TaintEffect.NO_EXECUTE,
            field="tolerationSeconds",
        ),
    )


class PodOptions(ApiModel):
    """What the owner says about the pods; everything has a default that works."""

    image: Annotated[str, Field(max_length=512)] = ""
    """Image of the serving container; empty = the operator's default image of spec.engine. With engine Auto an image of
    your own gets the worker's arguments and may serve what the default one cannot: other precisions, several
    accelerators, reasoning."""
    command: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], Field(max_length=32)] = ()
    """Replaces the entry point of the image; Lowbeam's arguments for the engine follow it."""
    args: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], Field(max_length=64)] = ()
    """Further arguments of the engine, after Lowbeam's."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64, json_schema_extra=list_map("name"))] = ()
    """Environment variables of the serving container; POD_NAME, POD_NAMESPACE and the control token stay Lowbeam's."""
    resources: Resources = Field(default_factory=Resources)
    """CPU and memory; accelerators are added by Lowbeam."""
    volumes: Annotated[tuple[Volume, ...], Field(max_length=32, json_schema_extra=list_map("name"))] = ()
    """Volumes of the pod."""
    volume_mounts: Annotated[
        tuple[VolumeMount, ...], Field(max_length=32, json_schema_extra=list_map("mountPath"))
    ] = ()
    """Where the volumes appear in the serving container."""
    model_path: Path | None = None
    """Where the weights are in the container; left out = the worker looks the model up by its name."""
    service_account_name: Annotated[str, Field(max_length=253)] = ""
    """ServiceAccount of the pods; empty = `default`."""
    image_pull_secrets: Annotated[
        tuple[SecretReference, ...], Field(max_length=8, json_schema_extra=list_map("name"))
    ] = ()
    """Secrets for pulling the image."""
    labels: Labels = Field(default_factory=dict)
    """Further labels of the pods."""
    annotations: Annotated[dict[KeyOfMap, Annotated[str, Field(max_length=4096)]], Field(max_length=32)] = Field(
        default_factory=dict
    )
    """Further annotations of the pods."""
    runtime_class_name: Annotated[str, Field(max_length=253)] = ""
    """RuntimeClass of the pods, e.g. `nvidia`; empty = the cluster's default."""

    rules: ClassVar = (
        Rule(
            cel=f"!has(self.args) || !self.args.exists(arg, arg.matches('{RESERVED_ARGUMENTS}'))",
            message="remove the batch limit, the number of accelerators and the ports from args: the plan decides them",
            holds=lambda it: not any(re.search(RESERVED_ARGUMENTS, argument) for argument in it.args),
            field="args",
        ),
        Rule(
            cel="!has(self.volumeMounts) || self.volumeMounts.all(m, "
            "has(self.volumes) && self.volumes.exists(v, v.name == m.name))",
            message="every name in volumeMounts must be the name of a volume in volumes",
            holds=lambda it: {mount.name for mount in it.volume_mounts} <= {volume.name for volume in it.volumes},
            field="volumeMounts",
        ),
        Rule(
            cel=f"!has(self.volumes) || self.volumes.all(v, !(v.name in {list(_RESERVED_VOLUMES)}))",
            message=f"volumes called {' or '.join(_RESERVED_VOLUMES)} are Lowbeam's own; choose another name",
            holds=lambda it: not any(volume.name in _RESERVED_VOLUMES for volume in it.volumes),
            field="volumes",
        ),
        Rule(
            cel=f"!has(self.labels) || !self.labels.exists(key, key.startsWith('{RESERVED_PREFIX}'))",
            message=f"labels below {RESERVED_PREFIX} are Lowbeam's own; choose another prefix",
            holds=lambda it: not any(key.startswith(RESERVED_PREFIX) for key in it.labels),
            field="labels",
        ),
        has_keys_of_labels("labels", "labels"),
        has_keys_of_labels("annotations", "annotations", pattern=ANNOTATION_KEY_PATTERN),
    )
