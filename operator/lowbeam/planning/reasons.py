"""Why an option that would do lost against the chosen one; the other reasons are in `lowbeam.api.v1alpha1.reasons`."""

from __future__ import annotations

from enum import StrEnum


class LossReason(StrEnum):
    """One word per cause."""

    SERVES_LESS = "ServesLess"
    """It leaves demand unserved that the chosen one serves."""
    BELOW_TARGET = "BelowTarget"
    """It keeps the floor and falls shorter of the quality target."""
    LESS_HEADROOM = "LessHeadroom"
    """It costs as much and absorbs smaller bursts, or commits more watts."""
