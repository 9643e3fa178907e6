"""The API reference (docs/reference/), generated from the same models as the CRDs.

Decides the layout only. Pure: returns text, writes nothing.

Invariant: a word that `kubectl explain`, a condition or an Event shows is found here, spelled the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lowbeam.api.crdgen import structural_schema
from lowbeam.api.v1alpha1 import API_VERSION, KINDS
from lowbeam.api.v1alpha1.base import DECIMAL_PATTERN, KubeObject
from lowbeam.api.v1alpha1.reasons import CONDITION_TYPES, REASONS

Schema = Mapping[str, Any]

_NOTE = "<!-- Generated from operator/lowbeam/api/v1alpha1. Do not edit. -->\n"


def render_reference() -> dict[str, str]:
    """File name -> Markdown: one page per kind, one for conditions and reasons, and an index."""
    pages = {f"{kind.resource.singular}.md": _kind_page(kind) for kind in KINDS}
    return {"README.md": _index(), **pages, "reasons.md": _reasons_page()}


def _index() -> str:
    lines = [
        _NOTE,
        "# API reference",
        "",
        f"All kinds are in `{API_VERSION}` and in the category `lowbeam`: `kubectl get lowbeam -A` lists them all.",
        "",
        "| kind | short name | scope | what it is |",
        "|---|---|---|---|",
    ]
    for kind in KINDS:
        resource = kind.resource
        what = structural_schema(kind)["description"].split(". ")[0].rstrip(".")
        link = f"[{resource.kind}]({resource.singular}.md)"
        lines.append(f"| {link} | `{resource.short_names[0]}` | {resource.scope.value} | {_cell(what)} |")
    lines += ["", "What the words in conditions, Events, metrics and logs mean: [reasons.md](reasons.md)."]
    lines += ["", "What the operator counts: [metrics.md](metrics.md).", ""]
    return "\n".join(lines)


def _kind_page(kind: type[KubeObject]) -> str:
    resource, schema = kind.resource, structural_schema(kind)
    columns = ", ".join(column.name.upper() for column in resource.columns if column.priority == 0)
    lines = [
        _NOTE,
        f"# {resource.kind}",
        "",
        schema["description"],
        "",
        f"`apiVersion: {API_VERSION}` · `kind: {resource.kind}` · short name `{resource.short_names[0]}` · "
        f"{resource.scope.value}",
        "",
        f"`kubectl get {resource.short_names[0]}` shows {columns}.",
    ]
    if resource.scale is not None:
        lines += ["", f"`kubectl scale`, HPA and KEDA work through `/scale` (`{resource.scale.spec_replicas_path}`)."]
    for part in ("spec", "status"):
        lines += ["", f"## {part}", "", "| field | type | default | limits | meaning |", "|---|---|---|---|---|"]
        lines += [_row(*field) for field in _fields(schema["properties"][part], "")]
    rules = list(_rules(schema, ""))
    if rules:
        lines += ["", "## Rules between fields", ""]
        lines += [f"- `{where}`: {message}" for where, message in rules]
    return "\n".join([*lines, ""])


def _reasons_page() -> str:
    lines = [
        _NOTE,
        "# Conditions and reasons",
        "",
        "The same words appear in conditions (`kubectl describe`), in Events, as metric labels and in logs.",
        "",
        "## Condition types",
        "",
        "| type | what it says |",
        "|---|---|",
        *(f"| `{type_}` | {_cell(meaning)} |" for type_, meaning in CONDITION_TYPES.items()),
        "",
        "## Reasons",
        "",
        "| reason | what happened, and what to do |",
        "|---|---|",
        *(f"| `{reason}` | {_cell(meaning)} |" for reason, meaning in sorted(REASONS.items())),
        "",
    ]
    return "\n".join(lines)


def _fields(node: Schema, prefix: str) -> Iterator[tuple[str, Schema, bool]]:
    """(path, schema, required) of every field below an object, parents before children."""
    required = node.get("required", ())
    for name, child in node.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield path, child, name in required
        yield from _fields(child, f"{path}.")
        yield from _fields(child.get("items", {}), f"{path}[].")


def _rules(node: Schema, prefix: str) -> Iterator[tuple[str, str]]:
    for rule in node.get("x-kubernetes-validations", ()):
        yield f"{prefix}{rule.get('fieldPath', '')}".lstrip(".") or "metadata", rule["message"]
    for name, child in node.get("properties", {}).items():
        yield from _rules(child, f"{prefix}.{name}")
    if "items" in node:
        yield from _rules(node["items"], f"{prefix}[]")


def _row(path: str, node: Schema, required: bool) -> str:
    name = f"`{path}`" + (" **required**" if required else "")
    default = node.get("default")
    shown = "" if default is None or isinstance(default, dict) else f"`{_plain(default)}`"
    return f"| {name} | {_type(node)} | {shown} | {_limits(node)} | {_cell(node.get('description', ''))} |"


def _type(node: Schema) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if node.get("type") == "array":
        return f"list of {_type(node['items'])}"
    if node.get("pattern") == DECIMAL_PATTERN:
        return "decimal number in quotes"
    if "additionalProperties" in node:
        return f"map to {_type(node['additionalProperties'])}"
    return str(node.get("format") or node["type"])


def _limits(node: Schema) -> str:
    parts = []
    if "enum" in node:
        parts.append(", ".join(f"`{value}`" for value in node["enum"]))
    if "enum" in node.get("items", {}):
        parts.append(", ".join(f"`{value}`" for value in node["items"]["enum"]))
    for low, high, what in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " entries"),
        ("minProperties", "maxProperties", " entries"),
    ):
        if low in node or high in node:
            parts.append(_range(node.get(low), node.get(high)) + what)
    return "; ".join(parts)


def _range(low: int | None, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"{low} to {high}"


def _plain(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
