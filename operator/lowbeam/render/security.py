"""What rendered pods may do: what the restricted Pod Security Standard allows, as a stranger, on a read-only root."""

from __future__ import annotations

from typing import Any, Final

_USER_ID: Final = 65532
"""The customary non-root user; set here because images with a named user fail `runAsNonRoot`."""


def pod_security() -> dict[str, Any]:
    """`securityContext` of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER_ID,
        "runAsGroup": _USER_ID,
        "fsGroup": _USER_ID,
        # Weights are big: change their group only where it is wrong.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """`securityContext` of each of its containers."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
