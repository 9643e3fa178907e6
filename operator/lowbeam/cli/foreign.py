"""Nodes and Namespaces in files: the fields that a plan reads, checked before code that trusts the API server has them.

Decides which of their fields matter here; the rest is dropped unread. Files are written by hand too, so a field that
the API server would never return (labels: null, gpu: foo) is a problem with the object's name, never a crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lowbeam.api.v1alpha1.problems import Problem, path
from lowbeam.render import labels

_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$"
_ALLOCATABLE = (labels.GPU_RESOURCE, "cpu")


def _counted(found: object) -> object:
    """Of what a node has to give, what replicas take: the rest has units of its own."""
    if not isinstance(found, Mapping):
        return found
    return {name: str(found[name]) for name in _ALLOCATABLE if found.get(name) is not None}


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Metadata(_Part):
    name: str = Field(min_length=1)
    labels: dict[str, str] | None = None


class _Taint(_Part):
    key: str
    effect: str
    value: str | None = None


class _NodeSpec(_Part):
    unschedulable: bool | None = None
    taints: list[_Taint] | None = None


class _Condition(_Part):
    type: str
    status: str


class _NodeStatus(_Part):
    conditions: list[_Condition] | None = None
    allocatable: Annotated[dict[str, Annotated[str, Field(pattern=_QUANTITY)]], BeforeValidator(_counted)] | None = None


class _Namespace(_Part):
    metadata: _Metadata


class _Node(_Namespace):
    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


_SENTENCES = {
    "missing": "is required",
    "dict_type": "is not an object with fields",
    "model_type": "is not an object with fields",
    "list_type": "is not a list",
    "string_type": "is not text (put it in quotes)",
    "string_too_short": "is empty",
    "bool_type": "is neither true nor false",
    "string_pattern_mismatch": 'is no quantity (write for example "8")',
}
_KINDS: Mapping[str, type[_Namespace]] = {"Namespace": _Namespace, "Node": _Node}


def read_foreign(kind: str, raw: Mapping[str, Any]) -> dict[str, Any] | tuple[Problem, ...]:
    """A Node or Namespace with the fields that matter, without nulls; or what is wrong with it."""
    try:
        return {"kind": kind, **_KINDS[kind].model_validate(dict(raw)).model_dump(exclude_none=True)}
    except ValidationError as error:
        metadata = raw.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        return tuple(
            Problem(f"{kind}/{name}" if name else f"a {kind}", path(it["loc"]), _SENTENCES.get(it["type"], it["msg"]))
            for it in error.errors()
        )
