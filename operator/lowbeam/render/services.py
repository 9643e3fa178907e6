"""The Service of a workload: one stable address, whatever model serves behind it.

Decides name, selector and ports. The selector names the workload only, so that both Deployments of a make-before-break
change answer under the same address.
"""

from __future__ import annotations

from typing import Any

from lowbeam.api.v1alpha1.inferenceworkload import InferenceWorkload
from lowbeam.render import labels
from lowbeam.render.identity import owner_references, service_name

PORT = 80


def service(workload: InferenceWorkload) -> dict[str, Any]:
    """The Service of one InferenceWorkload: port 80 to the worker's serving port, ready pods only."""
    meta = workload.metadata
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(meta.name),
            "namespace": meta.namespace,
            "labels": labels.worker_labels(meta.name),
            "ownerReferences": owner_references(meta.name, meta.uid),
        },
        "spec": {
            "type": "ClusterIP",
            "selector": {labels.WORKLOAD: labels.label_value(meta.name)},
            "ports": [
                {
                    "name": labels.SERVING_PORT_NAME,
                    "port": PORT,
                    "targetPort": labels.SERVING_PORT_NAME,
                    "protocol": "TCP",
                    "appProtocol": "http",
                }
            ],
        },
    }
