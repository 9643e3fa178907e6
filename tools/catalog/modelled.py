"""All EnergyProfiles of basis Modelled: decoders, encoders, and H200 after H100.

The H200 is the H100's chip with more and faster memory. What the physics does not describe (mixtures of experts, FP8,
MXFP4, images, reasoning) but was published on H100 gets that curve on H200 unchanged: no step can take longer there.
What it may save is bounded by the ratio of the bandwidths, which is its uncertainty.
"""

from __future__ import annotations

from collections.abc import Iterator

from tools.catalog.decoders import decoder_profiles
from tools.catalog.encoders import encoder_profiles
from tools.catalog.fits import Fitted, boards
from tools.catalog.mixtures import mixture_profiles
from tools.catalog.profiles import DATE
from tools.catalog.rows import Manifest, manifest, source

ORIGINAL, SIBLING = "h100", "h200"


def modelled_profiles(published: list[Manifest], physics: Fitted) -> list[Manifest]:
    """All modelled curves, by name."""
    computed = [
        *decoder_profiles(physics, published),
        *mixture_profiles(physics, published),
        *encoder_profiles(physics),
    ]
    profiles = [*computed, *_as_on_the_h100(published, computed)]
    return sorted(profiles, key=lambda item: item["metadata"]["name"])


def _as_on_the_h100(published: list[Manifest], computed: list[Manifest]) -> Iterator[Manifest]:
    """Published H100 curves, for what was not computed for the H200."""
    here = {_subject(p) for p in computed if p["spec"]["acceleratorClass"] == SIBLING}
    all_boards = boards()
    ratio = all_boards[ORIGINAL].bandwidth_bytes_per_second / all_boards[SIBLING].bandwidth_bytes_per_second
    for profile in published:
        spec = profile["spec"]
        if spec["acceleratorClass"] != ORIGINAL or _subject(profile) in here:
            continue
        name = profile["metadata"]["name"].replace(f"-{ORIGINAL}-x", f"-{SIBLING}-x")
        origin = spec["source"]
        note = f"the H100's curve unchanged, as an upper bound: same chip, faster memory; {origin.get('note', '')}"
        yield manifest(
            "EnergyProfile",
            name,
            {
                **spec,
                "acceleratorClass": SIBLING,
                "basis": "Modelled",
                "uncertaintyPercent": round((1 - ratio) * 100),
                "source": source(f"copied by tools/catalog from {origin['citation']}", DATE, note),
            },
        )


def _subject(profile: Manifest) -> tuple[str, str, str, str]:
    spec = profile["spec"]
    return spec["model"], spec["precision"], spec["reasoning"], spec["task"]
