"""Objects as the API server returns them, and one as a user writes it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lowbeam.catalog import load_builtin
from lowbeam.render import labels
from lowbeam.runtime.replicas import Replica

TODAY = datetime(2026, 11, 21, 9, tzinfo=UTC)
CATALOGUE = load_builtin()
GOOD = """
apiVersion: lowbeam.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: good, namespace: support}
spec:
  task: text-classification
  load: {requestsPerMinute: 60, inputTokens: 100, outputTokens: 1}
"""
L4 = next(iter(CATALOGUE.accelerator_classes["l4"].product_labels))


def node(name: str, *, boards: int = 4, ready: bool = True, cordoned: bool = False, **more: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": L4, **more}},
        "spec": {"unschedulable": cordoned},
        "status": {
            "allocatable": {labels.GPU_RESOURCE: str(boards), "cpu": "8"},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


def iw(name: str, *, uid: str = "", namespace: str = "team", **spec: Any) -> dict[str, Any]:
    body = {"task": "text-classification", "load": {"requestsPerMinute": 60, "inputTokens": 100, "outputTokens": 1}}
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "resourceVersion": "1",
            "generation": 1,
        },
        "spec": {**body, **spec},
    }


def pcap(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"uid-cap-{name}", "resourceVersion": "1", "generation": 1}
    body = {"scope": {"cluster": {}}, "watts": 1000, **spec}
    return {"apiVersion": "lowbeam.dev/v1alpha1", "kind": "PowerCap", "metadata": metadata, "spec": body}


def replica(**told: Any) -> Replica:
    plain = Replica("pod-1", "w-1", ("team", "w"), "d", "10.0.0.1", "n1", 1, True, True, False, "")
    return replace(plain, **told)


# ---- world
