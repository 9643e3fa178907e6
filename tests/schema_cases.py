"""One value on each side of every bound of every field, derived from the CRD schemas and the samples.

A new field is tested the day it is added. The same cases go to pydantic and to the real API server.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lowbeam.api.crdgen import structural_schema
from lowbeam.api.v1alpha1 import KINDS
from lowbeam.api.v1alpha1.base import Rule
from lowbeam.api.v1alpha1.provenance import ISO_DATE_PATTERN
from schema_samples import SAMPLES, object_of

Path = tuple[str | int, ...]

# --- bounds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BoundCase:
    """One value on one side of one bound of one field."""

    kind: str
    field: str
    bound: str
    spec: dict[str, Any]
    accepted: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.field} {self.bound} {'accepted' if self.accepted else 'refused'}"

    @property
    def object(self) -> dict[str, Any]:
        return object_of(self.kind, self.spec)


def bound_cases() -> list[BoundCase]:
    """Both sides of every bound in every spec."""
    cases: dict[str, BoundCase] = {}
    for kind in KINDS:
        schema = structural_schema(kind)["properties"]["spec"]
        for sample in SAMPLES[kind.resource.kind]:
            for path, node, value in _walk(schema, sample, ()):
                for bound, new_value, accepted in _around(node, value):
                    spec = _with(sample, path, new_value)
                    field = ".".join(["spec", *map(str, path)])
                    case = BoundCase(kind.resource.kind, field, bound, spec, accepted)
                    cases.setdefault(str(case), case)
    return list(cases.values())


def fields_in_schema(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields below a schema node; list items are transparent."""
    for name, child in node.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from fields_in_schema(child, f"{prefix}{name}.")
    if "items" in node:
        yield from fields_in_schema(node["items"], prefix)


def fields_in_value(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields that a sample sets."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield f"{prefix}{name}"
            yield from fields_in_value(child, f"{prefix}{name}.")
    elif isinstance(value, list):
        for item in value:
            yield from fields_in_value(item, prefix)


def _walk(node: Mapping[str, Any], value: Any, path: Path) -> Iterator[tuple[Path, Mapping[str, Any], Any]]:
    if path:
        yield path, node, value
    if isinstance(value, dict):
        for name, child in value.items():
            below = node.get("properties", {}).get(name, node.get("additionalProperties"))
            yield from _walk(below, child, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(node["items"], item, (*path, index))


def _around(node: Mapping[str, Any], value: Any) -> Iterator[tuple[str, Any, bool]]:
    """(bound, value, accepted) on both sides of every bound of one field."""
    if node.get("x-kubernetes-int-or-string"):
        yield from (("quantity", good, True) for good in (0, 2, "500m", "8Gi", "0.5"))
        yield from (("quantity", bad, False) for bad in ("8GB", -1, 1.5, True, "1" * 33))
    elif node["type"] == "string":
        yield from _around_text(node)
    elif node["type"] == "integer":
        yield from (("minimum", node["minimum"], True), ("minimum", node["minimum"] - 1, False))
        yield from (("maximum", node["maximum"], True), ("maximum", node["maximum"] + 1, False))
        yield from (("type", "5", False), ("type", 1.5, False), ("type", True, False))
    elif node["type"] == "boolean":
        yield from (("type", True, True), ("type", False, True), ("type", "true", False))
    elif node["type"] == "array":
        yield from _around_list(node, value)
    elif "additionalProperties" in node:
        yield from _around_map(node, value)
    else:
        yield "type", "text", False
        yield "unknown field", {**value, "unknownField": 1}, False
        for name in node.get("required", ()):
            yield f"required {name}", {key: item for key, item in value.items() if key != name}, False


def _around_text(node: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    yield "type", 7, False
    if "enum" in node:
        yield from (("enum", word, True) for word in node["enum"])
        yield "enum", "Nonsense", False
    if node.get("format") == "date":
        yield from (("date", "2028-02-29", True), ("date", "2027-02-29", False), ("date", "soon", False))
    pattern = node.get("pattern", "")
    if "maxLength" in node:
        longest, shortest = node["maxLength"], node.get("minLength", 0)
        yield from (("maxLength", text, True) for text in _matching(pattern, longest))
        yield "maxLength", "a" * (longest + 1), False
        if shortest > 0:
            yield from (("minLength", text, True) for text in _matching(pattern, shortest))
            yield "minLength", "a" * (shortest - 1), False
    if pattern:
        yield "pattern", "~ not this ~", False
    if pattern == ISO_DATE_PATTERN:
        yield from (("pattern", text, True) for text in ("2026", "2026-02", "2026-12-31", "2028-02-29", "2000-02-29"))
        wrong = ("2036-13-41", "2026-13", "2026-00", "2026-11-31", "2027-02-29", "2026-2-3", "26-11-22", "2026-11-22 ")
        yield from (("pattern", text, False) for text in wrong)


def _matching(pattern: str, length: int) -> list[str]:
    """One text of this length that has the form, if one of the usual ones does."""
    half = "1" * (length - 7) + "." + "1" * 6
    candidates = ("a" * length, "/" + "a" * (length - 1), "A" * length, "1" * length, half)
    fitting = [text for text in candidates if len(text) == length and re.search(pattern, text)]
    return fitting[:1]


def _around_list(node: Mapping[str, Any], value: list[Any]) -> Iterator[tuple[str, Any, bool]]:
    yield "type", {"a": "b"}, False
    if node["x-kubernetes-list-type"] in ("set", "map") and value:
        yield "duplicate", [*value, copy.deepcopy(value[0])], False
    if node.get("minItems", 0) > 0:
        yield from (("minItems", value[: node["minItems"]], True), ("minItems", value[: node["minItems"] - 1], False))
    if "enum" not in node["items"] and not _keys_are_enums(node):
        yield "maxItems", _grown(node, value, node["maxItems"]), True
        yield "maxItems", _grown(node, value, node["maxItems"] + 1), False


def _keys_are_enums(node: Mapping[str, Any]) -> bool:
    """Whether duplicates end before the length does: a list-map over an enum cannot reach maxItems."""
    keys = node.get("x-kubernetes-list-map-keys", ())
    return any("enum" in node["items"]["properties"][key] for key in keys) and len(keys) == 1


def _grown(node: Mapping[str, Any], value: list[Any], length: int) -> list[Any]:
    """The list with as many further items as needed, each different where the list wants that."""
    grown = list(value)
    keys = node.get("x-kubernetes-list-map-keys", ())
    for index in range(length - len(value)):
        item = copy.deepcopy(value[-1])
        if isinstance(item, dict):
            for key in keys:
                item[key] = _numbered(node["items"]["properties"][key], item[key], index)
        else:
            item = f"{item}{index}"
        grown.append(item)
    return grown


def _numbered(node: Mapping[str, Any], value: Any, index: int) -> Any:
    if "enum" in node:
        return value
    return 1000 + index if node["type"] == "integer" else f"{value}{index}"


def _around_map(node: Mapping[str, Any], value: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    item = next(iter(value.values()))
    most = node["maxProperties"]
    yield "maxProperties", {f"key{index}": item for index in range(most)}, True
    yield "maxProperties", {f"key{index}": item for index in range(most + 1)}, False
    if node.get("minProperties", 0) > 0:
        yield "minProperties", {}, False


def _with(sample: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy of the sample with one value replaced."""
    result = copy.deepcopy(sample)
    target: Any = result
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    return result


@cache
def rules_of(kind: str) -> tuple[Rule, ...]:
    """Every rule of a kind, wherever in its schema it stands."""
    schema = next(structural_schema(k) for k in KINDS if k.resource.kind == kind)
    return tuple(_rules_below(schema))


def _rules_below(node: Any) -> Iterator[Rule]:
    if isinstance(node, dict):
        for rule in node.get("x-kubernetes-validations", ()):
            yield Rule(rule["rule"], rule["message"], bool, rule.get("fieldPath", ""))
        for child in node.values():
            yield from _rules_below(child)
    elif isinstance(node, list):
        for child in node:
            yield from _rules_below(child)
