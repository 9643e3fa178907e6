"""One to five stars for energy: fixed bands of served joules per request, per task, reasoning on and off apart.

Decides how many stars a figure earns, never which model is chosen. Unlike a rating between the best and the worst of a
list (`official_stars`), a star here does not move when a model is added: the bands are constants of a version. Each is
2.5 times as wide as the one before it, because the measured spread within a task is one to two orders of magnitude.

What is rated is the joules of a request as it is served: at the batch and the idle share that the load and the latency
targets give. Longer answers and tighter targets cost energy, and cost stars.

Invariants: only measured and published figures earn stars, a modelled one is unrated (None) whatever it says (of such
figures under a power limit: `sizing.Option.rating`); every first edge says which published measurement it was set by,
and a task without any has no bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lowbeam.catalog.facts import Basis, Reasoning

VERSION = "2026.11"
"""Changes when any band changes; shown wherever stars are."""

BEST = 5
WORST = 1
RATIO_PERCENT = 250


@dataclass(frozen=True, slots=True)
class Bands:
    """Where five stars end, and why there. The other edges follow from `RATIO_PERCENT`."""

    five_star_millijoules: int
    """Most millijoules per request of five stars."""
    because: str
    """The measurement that the edge was set by, with its source."""

    @property
    def edges(self) -> tuple[int, ...]:
        """Most millijoules per request of five, four, three and two stars."""
        edges = [self.five_star_millijoules]
        while len(edges) < BEST - WORST:
            edges.append(edges[-1] * RATIO_PERCENT // 100)
        return tuple(edges)


_ENCODER = (
    "no text encoder was published at a batch, so the arithmetic of the same layers is used: ViT-B/16, 35.2 GFLOP, "
    "needs at most 161 mJ (timm, 2,787 images/s on an RTX 4090 at its limit of 450 W), 4.6 mJ per GFLOP; "
)

BANDS: Mapping[tuple[str, bool], Bands] = MappingProxyType(
    {
        # (task, reasoning on)
        ("text-generation", False): Bands(
            40_000, "the best published 8 B models answer for 28 to 47 J at 50 ms per token (ML.ENERGY v3, H100)"
        ),
        ("text-generation", True): Bands(
            200_000,
            "answers are 5 to 20 times as long: gpt-oss-20b at medium effort needs 69 to 109 J for one at "
            "50 ms per token, Qwen3-8B 1,780 J (ML.ENERGY v3, GPQA, B200 and H100)",
        ),
        ("code-completion", False): Bands(
            20_000,
            "completions are half as long as chat answers; the least published, Qwen3-Coder-30B-A3B, needs 38 to 73 J "
            "at 30 ms per token (ML.ENERGY v3, B200 and H100)",
        ),
        ("image-text-to-text", False): Bands(
            100_000,
            "the best published 8 to 12 B models answer for 65 to 132 J at 50 ms per token (ML.ENERGY v3, image chat)",
        ),
        ("video-text-to-text", False): Bands(
            80_000,
            "the best published 8 B and 30 B-A3B models answer for 62 to 82 J at 50 ms per token (ML.ENERGY v3, video "
            "chat)",
        ),
        ("text-to-image", False): Bands(
            500_000,
            "the least published at 1024 pixels, SANA-1.5-1.6B, needs 338 to 412 J per image (ML.ENERGY v3, B200 and "
            "H100)",
        ),
        ("text-to-video", False): Bands(
            30_000_000,
            "the least published, CogVideoX-2b, needs 26.4 to 28.1 kJ per video (ML.ENERGY v3, B200 and H100)",
        ),
        ("image-classification", False): Bands(
            20,
            "MobileNetV4-small needs at most 14 mJ and ResNet-18 33 mJ per image (timm, 32,546 and 13,537 images/s on "
            "an RTX 4090 at its limit of 450 W)",
        ),
        ("text-classification", False): Bands(50, _ENCODER + "DistilBERT with 128 tokens is 11.2 GFLOP: 51 mJ"),
        ("token-classification", False): Bands(50, _ENCODER + "DistilBERT with 128 tokens is 11.2 GFLOP: 51 mJ"),
        ("feature-extraction", False): Bands(50, _ENCODER + "6 layers of 768 with 128 tokens are 11.2 GFLOP: 51 mJ"),
        ("question-answering", False): Bands(150, _ENCODER + "DistilBERT with 384 tokens is 35.3 GFLOP: 162 mJ"),
    }
)

_BATCH_1_ONLY = "published only at batch 1 (AI Energy Score), which says little about served requests"
_NOT_PUBLISHED = "nobody published energy or throughput at a batch"

UNRATED: Mapping[str, str] = MappingProxyType(
    {
        "automatic-speech-recognition": _BATCH_1_ONLY,
        "image-to-text": _BATCH_1_ONLY,
        "object-detection": _BATCH_1_ONLY,
        "summarization": _BATCH_1_ONLY,
        "text-ranking": _NOT_PUBLISHED,
        "translation": _NOT_PUBLISHED,
    }
)
"""Tasks without bands, and why. Bands would be invented."""


def stars(task: str, reasoning: Reasoning, millijoules_per_request: int, basis: Basis) -> int | None:
    """Five (best) to one; None = unrated: modelled, or a task without bands."""
    found = BANDS.get((task, reasoning is not Reasoning.OFF))
    if found is None or basis is Basis.MODELLED:
        return None
    return next(
        (BEST - place for place, edge in enumerate(found.edges) if millijoules_per_request <= edge),
        WORST,
    )
