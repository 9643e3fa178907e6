"""Lowbeam's kinds in version v1alpha1 of the API, and the list of all of them."""

from __future__ import annotations

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.acceleratorclass import AcceleratorClass
from lowbeam.api.v1alpha1.base import (
    API_VERSION,
    GROUP,
    VERSION,
    Condition,
    ConditionStatus,
    KubeObject,
    ObjectMeta,
)
from lowbeam.api.v1alpha1.energyprofile import EnergyProfile
from lowbeam.api.v1alpha1.inferenceworkload import (
    BelowFloor,
    Engine,
    Feature,
    InferenceWorkload,
    InferenceWorkloadSpec,
    WorkloadMode,
)
from lowbeam.api.v1alpha1.modelcard import ModelCard
from lowbeam.api.v1alpha1.powercap import CapMode, CapState, Lever, OnInfeasible, PowerBasis, PowerCap
from lowbeam.api.v1alpha1.provenance import Basis, Reasoning
from lowbeam.api.v1alpha1.workloadstatus import InferenceWorkloadStatus

KINDS: tuple[type[KubeObject], ...] = (InferenceWorkload, PowerCap, ModelCard, AcceleratorClass, EnergyProfile)
"""Every kind of the API, in the order in which people meet them."""

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "VERSION",
    "AcceleratorClass",
    "Basis",
    "BelowFloor",
    "CapMode",
    "CapState",
    "Condition",
    "ConditionStatus",
    "EnergyProfile",
    "Engine",
    "Feature",
    "InferenceWorkload",
    "InferenceWorkloadSpec",
    "InferenceWorkloadStatus",
    "KubeObject",
    "Lever",
    "ModelCard",
    "ObjectMeta",
    "OnInfeasible",
    "PowerBasis",
    "PowerCap",
    "Reasoning",
    "WorkloadMode",
    "reasons",
]
