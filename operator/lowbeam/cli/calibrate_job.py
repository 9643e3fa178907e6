"""The Job that measures a model in a pod: what `lowbeam calibrate --job` prints and `kubectl apply` takes.

Decides the pod: one whole board of the class, the weights read-only, nothing that it does not need. The operator does
not know this pod: its watts are in no ledger, and the docs say so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from lowbeam.catalog.facts import AcceleratorClass
from lowbeam.errors import BadInput
from lowbeam.render import labels
from lowbeam.render.nodes import needs_accelerator, node_selector_terms, tolerations
from lowbeam.render.security import container_security, pod_security

MODELS: Final = "/models"
"""Where the claim is mounted."""
_COMPONENT: Final = "calibration"
_TMP: Final = "/tmp"  # noqa: S108 - the only place that a read-only root leaves writable
_SCHEMES: Final = ("package:", "random:")
"""Models that need no files."""
_KEPT_SECONDS: Final = 7 * 86_400
"""The log is the result: a week to fetch it."""


def job(
    arguments: Sequence[str],
    *,
    name: str,
    accelerator: AcceleratorClass,
    image: str,
    model_claim: str,
    model_path: str,
    allow_downloads: bool,
    namespace: str,
) -> dict[str, Any]:
    """A Job; raises BadInput for what its pod could not do."""
    if not image:
        raise BadInput("--job: name the worker's image with --image, the one in worker.image of the chart's values")
    if not needs_accelerator(accelerator):
        raise BadInput(
            f"--job: class {accelerator.name} has no boards, and the CPU's energy counters are for root on the node; "
            "run `lowbeam calibrate` there, as root"
        )
    in_claim = model_path == MODELS or model_path.startswith(f"{MODELS}/")
    if model_claim and not in_claim:
        raise BadInput(
            f"--job: the claim is seen as {MODELS}; say where in it the weights are: --model-path {MODELS}/..."
        )
    if not model_claim and not allow_downloads and not model_path.startswith(_SCHEMES):
        raise BadInput(
            f"--job: the pod would not find {model_path}: name a claim that holds it (--model-claim NAME --model-path "
            f"{MODELS}/...), or let it fetch the weights (--allow-downloads)"
        )
    identity = {
        labels.NAME: labels.WORKER_NAME,
        labels.INSTANCE: _name(name),
        labels.COMPONENT: _COMPONENT,
        labels.PART_OF: labels.PRODUCT,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": _name(name), "namespace": namespace, "labels": identity},
        "spec": {
            # A second try would meet the same device; what is wrong is in the log of the first.
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {
                "metadata": {"labels": dict(identity)},  # the same object twice would be an anchor in YAML
                "spec": _pod(arguments, accelerator, image, model_claim),
            },
        },
    }


def _pod(arguments: Sequence[str], accelerator: AcceleratorClass, image: str, model_claim: str) -> dict[str, Any]:
    terms = node_selector_terms(accelerator, {})
    weights = [{"name": "models", "persistentVolumeClaim": {"claimName": model_claim, "readOnly": True}}]
    mounts = [{"name": "models", "mountPath": MODELS, "readOnly": True}]
    return {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "securityContext": pod_security(),
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
        "tolerations": tolerations(accelerator),
        "containers": [
            {
                "name": _COMPONENT,
                "image": image,
                "args": list(arguments),
                "env": [{"name": "HOME", "value": _TMP}],
                "resources": {
                    # Weights live on the board; the host holds a shard on its way there, and the load generator.
                    "requests": {"cpu": "2", "memory": "4Gi"},
                    "limits": {labels.GPU_RESOURCE: "1"},
                },
                "securityContext": container_security(),
                "volumeMounts": [{"name": "tmp", "mountPath": _TMP}, *(mounts if model_claim else [])],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *(weights if model_claim else [])],
    }


def _name(text: str) -> str:
    """A DNS label: models have dots and capitals in their names."""
    return re.sub(r"[^a-z0-9-]+", "-", text.lower())[:63].strip("-")
