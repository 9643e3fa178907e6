"""The kinds that Lowbeam reads or writes, and where the API server serves them.

Decides paths only. A kind that is not here is a kind that Lowbeam never touches; the chart's RBAC follows this list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: its group ("" = core), version, plural, kind, and whether it lives in namespaces."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """As in an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """URL path of the collection or of one object; `namespace` None on a namespaced kind = all namespaces."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            if self.namespaced and not namespace:
                raise ValueError(f"{self.plural} {name}: one object of a namespaced kind needs its namespace")
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(quote(part, safe="") for part in parts)

    def label(self, subresource: str = "") -> str:
        """As RBAC spells it: `deployments`, `inferenceworkloads/status`."""
        return f"{self.plural}/{subresource}" if subresource else self.plural

    def reference(self, obj: Mapping[str, Any]) -> dict[str, str]:
        """`{apiVersion, kind, namespace, name, uid}` of a live object, as Events and messages want it."""
        metadata = obj["metadata"]
        fields = {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "namespace": metadata.get("namespace", ""),
            "name": metadata["name"],
            "uid": metadata.get("uid", ""),
        }
        return {key: value for key, value in fields.items() if value}


LOWBEAM_GROUP = "lowbeam.dev"
LOWBEAM_VERSION = "v1alpha1"


def _own(plural: str, kind: str, *, namespaced: bool = False) -> Resource:
    return Resource(LOWBEAM_GROUP, LOWBEAM_VERSION, plural, kind, namespaced)


INFERENCE_WORKLOADS = _own("inferenceworkloads", "InferenceWorkload", namespaced=True)
POWER_CAPS = _own("powercaps", "PowerCap")
MODEL_CARDS = _own("modelcards", "ModelCard")
ACCELERATOR_CLASSES = _own("acceleratorclasses", "AcceleratorClass")
ENERGY_PROFILES = _own("energyprofiles", "EnergyProfile")

PODS = Resource("", "v1", "pods", "Pod", True)
NODES = Resource("", "v1", "nodes", "Node", False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", False)
SERVICES = Resource("", "v1", "services", "Service", True)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment", True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", True)
EVENTS = Resource("events.k8s.io", "v1", "events", "Event", True)


def object_key(obj: Mapping[str, Any]) -> tuple[str, str]:
    """(namespace, name) of an object; namespace is "" for cluster-scoped kinds."""
    metadata = obj["metadata"]
    return (metadata.get("namespace") or "", metadata["name"])
