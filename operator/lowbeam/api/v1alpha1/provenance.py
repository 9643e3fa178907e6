"""Words for how far a figure can be trusted, and for how much a model thinks: shared by several kinds.

Decides nothing. Every figure in the catalogue says where it was read (`Provenance`) and whether it was measured here,
published by others, or computed (`Basis`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from lowbeam.api.v1alpha1.base import ApiModel

_YEAR = "(19|20)[0-9]{2}"
_LEAP_YEAR = "((19|20)(0[48]|[2468][048]|[13579][26])|2000)"
_MONTH = "(0[1-9]|1[0-2])"
_DAY = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
ISO_DATE_PATTERN = f"^({_YEAR}(-({_MONTH}|{_DAY}))?|{_LEAP_YEAR}-02-29)$"
"""A day, a month or a year: many model cards only say the month. Of the calendar, so that the API server refuses what
is no date as `lowbeam plan` does. One in the future is a date: `lowbeam catalog verify` points it out."""


class Basis(StrEnum):
    """Where a figure comes from, strongest first."""

    MEASURED = "Measured"
    PUBLISHED = "Published"
    MODELLED = "Modelled"


class LoadBasis(StrEnum):
    """Where the load that a workload is sized for comes from."""

    DECLARED = "Declared"
    OBSERVED = "Observed"


class Reasoning(StrEnum):
    """How long a model may think before it answers."""

    OFF = "Off"
    LOW = "Low"
    MEDIUM = "Medium"
    HIGH = "High"


class Confidence(StrEnum):
    """How sure a copied figure is."""

    PRIMARY = "Primary"
    """The page or report of the reporter was read."""
    SECONDARY = "Secondary"
    """Quoted elsewhere, or a cached copy."""
    RECALLED = "Recalled"
    """From memory of the page: to be checked."""
    CONFLICTING = "Conflicting"
    """Sources disagree; the note says how."""


class ReasoningSwitch(StrEnum):
    """How a request chooses the reasoning mode of a model."""

    TEMPLATE_FLAG = "TemplateFlag"
    """A variable of the chat template (`chat_template_kwargs`)."""
    EFFORT = "Effort"
    """A field of the request that takes a level."""
    BUDGET = "Budget"
    """A field of the request that takes the most tokens to think."""
    PROMPT = "Prompt"
    """Words in the system prompt."""


class Provenance(ApiModel):
    """Where a figure was read."""

    citation: Annotated[str, Field(min_length=3, max_length=512)]
    """The publication, page or measurement, so that a reader can find it."""
    date: Annotated[str, StringConstraints(pattern=ISO_DATE_PATTERN)]
    """When it was published or measured: 2026, 2026-02 or 2026-02-16."""
    note: Annotated[str, Field(max_length=512)] | None = None
    """Settings and doubts: shots, harness, what was assumed."""
