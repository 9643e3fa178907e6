"""A correction: live watts contradicted a profile, and by how much. The value that sizing gets; how it comes about is
`sizing.measured_power`'s business. Decides nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from lowbeam.catalog.facts import EnergyProfile, Reasoning

ProfileKey = tuple[str, str, Reasoning, str, int]
"""(model, precision, reasoning, accelerator class, accelerators per replica)."""


@dataclass(frozen=True, slots=True, order=True)
class Correction:
    """By how much the watts of one profile are off on one workload."""

    key: ProfileKey
    digest: str
    """Of the profile that was compared: another profile under the same key is not corrected."""
    percent: int
    """100 = as published; 150 = half as much again."""

    def is_of(self, profile: EnergyProfile) -> bool:
        """Whether this very profile was compared."""
        return self.key == key_of(profile) and self.digest == digest_of(profile)


def key_of(profile: EnergyProfile) -> ProfileKey:
    """What a correction finds its profile by."""
    return (profile.model, profile.precision, profile.reasoning, profile.accelerator_class, profile.accelerators)


def digest_of(profile: EnergyProfile) -> str:
    """Changes when a figure of the profile does."""
    return f"{zlib.crc32(repr(profile.points).encode()):08x}"
