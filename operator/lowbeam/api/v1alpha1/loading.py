"""From raw objects and YAML text to kinds, with problems that a user can act on.

Decides how a refusal reads: `FILE: NAMESPACE/NAME: FIELD: what is wrong (what to write instead)`. Reads no file and
asks no cluster: text and objects are passed in.

Invariants
- One bad document never hides another: every document gives an object or its problems.
- Files of users are judged as strictly as by the API server (unknown fields, "1200" for a number); objects from the
  cluster are read tolerantly, because the API server has judged them and may know more fields than we do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from lowbeam.api.documents import complaint_of, documents_of, position_of
from lowbeam.api.nearest import nearest
from lowbeam.api.v1alpha1 import KINDS
from lowbeam.api.v1alpha1.base import API_VERSION, DNS_LABEL_PATTERN, DNS_SUBDOMAIN_PATTERN, GROUP, KubeObject
from lowbeam.api.v1alpha1.problems import LONGEST_QUOTE, Problem, problems_of

_NAMES = (
    ("name", DNS_SUBDOMAIN_PATTERN, 253, ", dashes and dots"),
    ("namespace", DNS_LABEL_PATTERN, 63, " and dashes"),
)
_KINDS_BY_NAME: dict[str, type[KubeObject]] = {kind.resource.kind: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class ReadResult:
    """One document: `object`, or the `problems` with it, or `other` for a document that is not Lowbeam's."""

    object: KubeObject | None = None
    problems: tuple[Problem, ...] = ()
    other: Mapping[str, Any] | None = None


def read_object(raw: Mapping[str, Any]) -> ReadResult:
    """Read an object that the API server returned; fields that this release does not know are ignored."""
    kind = _KINDS_BY_NAME.get(str(raw.get("kind")))
    if kind is None or raw.get("apiVersion") != API_VERSION:
        return ReadResult(problems=(_unknown_kind(raw, _label(raw, "object")),))
    try:
        return ReadResult(object=kind.from_cluster(raw))
    except ValidationError as error:
        return ReadResult(problems=problems_of(error, kind, _label(raw, "object")))


def read_user_object(raw: Mapping[str, Any], fallback_name: str = "object") -> ReadResult:
    """Read an object that a user wrote, as strictly as the API server would."""
    label = _label(raw, fallback_name)
    if str(raw.get("apiVersion", "")).split("/")[0] != GROUP and raw.get("kind") not in _KINDS_BY_NAME:
        return ReadResult(other=raw)
    kind = _KINDS_BY_NAME.get(str(raw.get("kind")))
    if kind is None or raw.get("apiVersion") != API_VERSION:
        return ReadResult(problems=(_unknown_kind(raw, label),))
    metadata = raw.get("metadata")
    if not isinstance(metadata, Mapping) or not metadata.get("name"):
        return ReadResult(problems=(Problem(label, "metadata.name", "is required"),))
    if wrong := tuple(_wrong_names(metadata, label)):
        return ReadResult(problems=wrong)
    try:
        # JSON mode with strict types is what the API server does; only there may text still become an enum or a date.
        text = json.dumps(_without_nulls(raw), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return ReadResult(problems=(Problem(label, "", f"cannot be written as JSON: {error}"),))
    try:
        return ReadResult(object=kind.model_validate_json(text, strict=True))
    except ValidationError as error:
        return ReadResult(problems=problems_of(error, kind, label))


def read_documents(text: str) -> Iterator[ReadResult]:
    """Read every document of a YAML (or JSON) text; a `List` gives its items.

    A syntax error ends the stream with one problem that names line and column.
    """
    try:
        documents = documents_of(text)
    except yaml.YAMLError as error:
        yield ReadResult(problems=(Problem(position_of(error), "", complaint_of(error)),))
        return
    for number, document in enumerate(documents, start=1):
        if document is None:
            continue
        name = f"document {number}"
        if not isinstance(document, Mapping):
            yield ReadResult(problems=(_no_object(name),))
            continue
        items = document.get("items") if document.get("kind") == "List" else None
        for item in items if isinstance(items, list) else [document]:
            if isinstance(item, Mapping):
                yield read_user_object(item, name)
            else:
                yield ReadResult(problems=(_no_object(name, "holds an item that "),))


def _wrong_names(metadata: Mapping[str, Any], label: str) -> Iterator[Problem]:
    """Names that the API server refuses; what is no text is the kinds' to complain of."""
    for field, pattern, longest, letters in _NAMES:
        name = metadata.get(field)
        if isinstance(name, str) and name and not (len(name) <= longest and re.fullmatch(pattern, name)):
            allowed = f"lower-case letters, digits{letters}, a letter or digit at both ends, at most {longest}"
            yield Problem(label, f"metadata.{field}", f'"{name[:LONGEST_QUOTE]}" is no name in Kubernetes ({allowed})')


def _no_object(label: str, what: str = "") -> Problem:
    return Problem(label, "", f"{what}is not an object with apiVersion, kind, metadata and spec")


def _label(raw: Mapping[str, Any], fallback: str) -> str:
    metadata = raw.get("metadata")
    if not isinstance(metadata, Mapping) or not metadata.get("name"):
        return fallback
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def _unknown_kind(raw: Mapping[str, Any], label: str) -> Problem:
    kind = str(raw.get("kind", ""))
    if kind in _KINDS_BY_NAME:
        return Problem(label, "apiVersion", f'"{raw.get("apiVersion", "")}" is not served; use "{API_VERSION}"')
    near = nearest(kind, _KINDS_BY_NAME)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_KINDS_BY_NAME)}"
    return Problem(label, "kind", f'"{kind}" is not a kind of {API_VERSION} ({hint})')


def _without_nulls(value: Any) -> Any:
    """The API server drops nulls before it validates."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


__all__ = ["Problem", "ReadResult", "read_documents", "read_object", "read_user_object"]
