"""From raw objects and YAML text to kinds, with problems that a user can act on.

Decides how a refusal reads: `FILE: NAMESPACE/NAME: FIELD: what is wrong (what to write instead)`. Reads no file and
asks no cluster: text and objects are passed in.

Invariants
- One bad document never hides another: every document gives an object or its problems.
- Files of users are judged as strictly as by the API server (unknown fields, "1200" for a number); objects from the
  cluster are read tolerantly, because the API server has judged them and may know more fields than we do.
- YAML means what it means to kubectl: dates stay text, and a key given twice is an error.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from lowbeam.api.nearest import nearest
from lowbeam.api.v1alpha1 import KINDS
from lowbeam.api.v1alpha1.base import API_VERSION, GROUP, KubeObject
from lowbeam.api.v1alpha1.problems import Problem, problems_of

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
    try:
        # JSON mode with strict types is what the API server does; only there may text still become an enum or a date.
        text = json.dumps(_without_nulls(raw), allow_nan=False)
    except (TypeError, ValueError) as error:
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
        documents = list(yaml.load_all(text, Loader=_KubectlLoader))
    except yaml.YAMLError as error:
        yield ReadResult(problems=(Problem(_position(error), "", _yaml_complaint(error)),))
        return
    for number, document in enumerate(documents, start=1):
        if document is None:
            continue
        name = f"document {number}"
        if not isinstance(document, Mapping):
            yield ReadResult(problems=(Problem(name, "", "is not an object with apiVersion, kind, metadata and spec"),))
            continue
        items = document.get("items") if document.get("kind") == "List" else None
        for item in items if isinstance(items, list) else [document]:
            yield read_user_object(item, name) if isinstance(item, Mapping) else ReadResult()


class _KubectlLoader(yaml.SafeLoader):
    """YAML as kubectl reads it: dates stay text (kinds decide what is a date), a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key = key_node.value
            if key in keys and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f'"{key}" is given twice', key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)


_KubectlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


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


def _position(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "YAML"


def _yaml_complaint(error: yaml.YAMLError) -> str:
    return f"is not valid YAML: {getattr(error, 'problem', None) or error}"


__all__ = ["Problem", "ReadResult", "read_documents", "read_object", "read_user_object"]
