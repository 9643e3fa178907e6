"""Every label, annotation, environment variable and port name that Lowbeam writes or reads on Kubernetes objects.

Decides names only. Anything that is matched in two places (selectors, informers, the emulator, the chart) is named here
once. Labels of nodes are in `catalog.nodes`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

PREFIX: Final = "lowbeam.dev/"

# --- labels ----------------------------------------------------------------------------------------------------------

WORKLOAD: Final = PREFIX + "workload"
"""On every child: the InferenceWorkload it serves (`label_value` of its name)."""
PLACEMENT: Final = PREFIX + "placement"
"""On Deployments and pods: hash of what needs a Deployment of its own; 10 hexadecimal digits."""

NAME: Final = "app.kubernetes.io/name"
INSTANCE: Final = "app.kubernetes.io/instance"
COMPONENT: Final = "app.kubernetes.io/component"
PART_OF: Final = "app.kubernetes.io/part-of"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"

WORKER_NAME: Final = "lowbeam-worker"
WORKER_COMPONENT: Final = "worker"
PRODUCT: Final = "lowbeam"

GPU_RESOURCE: Final = "nvidia.com/gpu"
"""The extended resource of the device plugin, and the key of the taint that keeps other pods off GPU nodes."""

# --- annotations -----------------------------------------------------------------------------------------------------

OPTION: Final = PREFIX + "option"
"""On Deployments and pods: compact JSON of the `Placement`, so that a restarted operator knows what runs."""
DECIDED_REPLICAS: Final = PREFIX + "decided-replicas"
"""On a Deployment that has fewer replicas for now, as it takes the place of another: how many it is to have."""
SHARES: Final = PREFIX + "shares"
"""On such a Deployment where replicas are replaced share by share: compact JSON of the `Shares`."""

# --- inside the worker's pod -----------------------------------------------------------------------------------------

CONTAINER: Final = "worker"
SERVING_PORT_NAME: Final = "http"
CONTROL_PORT_NAME: Final = "control"
ENV_CONTROL_TOKEN: Final = "LOWBEAM_CONTROL_TOKEN"  # noqa: S105 - the name of a variable, not a secret
ENV_POD_NAME: Final = "POD_NAME"
ENV_POD_NAMESPACE: Final = "POD_NAMESPACE"

_LONGEST_LABEL_VALUE = 63
_HASH_DIGITS = 10


def short_hash(text: str) -> str:
    """Ten hexadecimal digits of SHA-256: 2^40 values, far more than children of one namespace."""
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


def label_value(name: str) -> str:
    """An object's name as a label value: itself up to 63 characters, else cut and told apart by a hash."""
    if len(name) <= _LONGEST_LABEL_VALUE:
        return name
    return with_hash(name, short_hash(name))


def with_hash(stem: str, digest: str) -> str:
    """`stem-digest` in at most 63 characters; the stem is cut and never ends in a separator."""
    room = _LONGEST_LABEL_VALUE - len(digest) - 1
    return f"{re.sub(r'[-._]+$', '', stem[:room])}-{digest}"


def worker_labels(workload: str) -> dict[str, str]:
    """Labels of every child of one workload."""
    value = label_value(workload)
    return {
        NAME: WORKER_NAME,
        INSTANCE: value,
        COMPONENT: WORKER_COMPONENT,
        PART_OF: PRODUCT,
        MANAGED_BY: PRODUCT,
        WORKLOAD: value,
    }


WORKER_SELECTOR: Final = f"{MANAGED_BY}={PRODUCT},{WORKLOAD}"
"""Label selector that finds every child of every workload."""
AGENT_SELECTOR: Final = f"{PART_OF}={PRODUCT},{COMPONENT}=agent"
"""Label selector that finds the node agents, as the chart labels them."""
AGENT_PORT_NAME: Final = "agent"
OTHERS_SELECTOR: Final = f"!{WORKLOAD}"
"""Label selector that finds what is not ours."""
