"""Every EnergyProfile of the built-in catalogue, whatever its basis."""

from __future__ import annotations

from tools.catalog.diffusion import diffusion_profiles
from tools.catalog.fits import Fitted
from tools.catalog.modelled import modelled_profiles
from tools.catalog.published import published_profiles
from tools.catalog.references import reference_profiles
from tools.catalog.rows import Manifest


def energy_profiles(physics: Fitted) -> list[Manifest]:
    """By name: published, what is modelled from them, and the series that is only shown."""
    published = [*published_profiles(), *diffusion_profiles()]
    profiles = [*published, *modelled_profiles(published, physics), *reference_profiles()]
    return sorted(profiles, key=lambda item: item["metadata"]["name"])
