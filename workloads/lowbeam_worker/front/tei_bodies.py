"""Bodies of text-embeddings-inference's routes, field by field (front/reading.py has the rules)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lowbeam_worker.front.reading import FEW, Body, Strings, TokenIds

Texts = Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=2)]
"""One text, or a pair."""


class Truncating(Body):
    """What its routes share."""

    truncate: bool = False
    truncation_direction: Literal["left", "right", "Left", "Right"] = "Right"
    prompt_name: None = None

    @property
    def from_left(self) -> bool:
        """Cut at the beginning instead of the end."""
        return self.truncation_direction.lower() == "left"


class EmbedBody(Truncating):
    """POST /embed."""

    inputs: str | Strings | Annotated[list[TokenIds], FEW] | TokenIds
    normalize: bool = True
    dimensions: Annotated[int, Field(ge=1)] | None = None


class PredictBody(Truncating):
    """POST /predict: one text, one pair, or a list of lists of one or two texts."""

    inputs: str | Texts | Annotated[list[Texts], FEW]
    raw_scores: bool = False


class RerankBody(Truncating):
    """POST /rerank."""

    query: str
    texts: Strings
    raw_scores: bool = False
    return_text: bool = False
