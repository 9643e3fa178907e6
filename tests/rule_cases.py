"""An object that keeps a rule between fields and one that breaks it, as small changes of the samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schema_samples import SAMPLES


@dataclass(frozen=True, slots=True)
class RuleCase:
    """One object that keeps a rule and one that breaks it."""

    kind: str
    message: str
    """The beginning of the rule's message."""
    field: str
    """Where the API server says it is wrong."""
    keeps: dict[str, Any]
    breaks: dict[str, Any]
    name_that_breaks: str = "sample"

    def __str__(self) -> str:
        return f"{self.kind} {self.message}"


def rule_case(
    kind: str, message: str, field: str, keeps: dict[str, Any], breaks: dict[str, Any], *, sample: int = 0
) -> RuleCase:
    base = SAMPLES[kind][sample]
    return RuleCase(kind, message, field, _merged(base, keeps), _merged(base, breaks))


def _merged(base: Any, patch: Any) -> Any:
    """A JSON merge patch: None removes."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    result = {key: value for key, value in base.items() if not (key in patch and patch[key] is None)}
    return {**result, **{key: _merged(base.get(key), value) for key, value in patch.items() if value is not None}}
