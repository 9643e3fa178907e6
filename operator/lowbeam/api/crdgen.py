"""CustomResourceDefinitions from the pydantic kinds.

Decides how each construct of the models becomes a *structural* OpenAPI schema, which knows less than JSON Schema:
references are inlined, "X or null" is an optional X, unknown fields are pruned and not refused, a one-value literal is
an enum, and cross-field rules are CEL. Pure: returns text, writes nothing.

Invariants
- The same models give the same bytes; crds/ is a golden copy of them.
- Defaults are given where they have a value to show: the numbers of a PowerCap appear in the stored object, while a
  workload of three lines stays short (empty lists, strings and objects get no default). A status gets none.
- Every list says how it merges; a list without a declaration is atomic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from lowbeam.api.v1alpha1 import KINDS
from lowbeam.api.v1alpha1.base import CATEGORY, GROUP, VERSION, ApiModel, KubeObject, PrinterColumn, Rule

Schema = dict[str, Any]

_HEADER = "# Generated from operator/lowbeam/api/v1alpha1. Do not edit: `lowbeam crds` prints it.\n"

_ROOT_PROPERTIES: Schema = {
    "apiVersion": {
        "type": "string",
        "description": f"Version of the schema of this object: {GROUP}/{VERSION}.",
    },
    "kind": {"type": "string", "description": "What the object is, as in the title of this reference."},
    "metadata": {"type": "object"},
}

_DROPPED_KEYWORDS = frozenset({"title", "propertyNames", "$defs"})
"""Keywords that carry no promise here: titles repeat the name, and only a rule can constrain the keys of a map."""


class _WithRules(GenerateJsonSchema):
    """JSON Schema plus the rules that a model declares."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        generated = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, ApiModel) and model.rules:
            generated["x-kubernetes-validations"] = [_validation(rule) for rule in model.rules]
        return generated


def render_crds() -> dict[str, str]:
    """File name -> YAML of every CustomResourceDefinition, in the order of `KINDS`."""
    return {f"{GROUP}_{kind.resource.plural}.yaml": _HEADER + _to_yaml(crd(kind)) for kind in KINDS}


def crd(kind: type[KubeObject]) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    resource = kind.resource
    subresources: dict[str, Any] = {"status": {}}
    if resource.scale is not None:
        subresources["scale"] = {
            "specReplicasPath": resource.scale.spec_replicas_path,
            "statusReplicasPath": resource.scale.status_replicas_path,
            "labelSelectorPath": resource.scale.label_selector_path,
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.crd_name},
        "spec": {
            "group": GROUP,
            "scope": resource.scope.value,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.singular,
                "shortNames": list(resource.short_names),
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": [_column(column) for column in resource.columns],
                    "subresources": subresources,
                    "schema": {"openAPIV3Schema": structural_schema(kind)},
                }
            ],
        },
    }


def structural_schema(kind: type[KubeObject]) -> Schema:
    """The OpenAPI v3 schema of one kind, without references and in the subset that CRDs allow."""
    generated = kind.model_json_schema(by_alias=True, schema_generator=_WithRules)
    schema = _structural(generated, generated.get("$defs", {}))
    properties = schema["properties"]
    root: Schema = {
        "type": "object",
        "description": schema["description"],
        "required": ["spec"],
        "properties": {
            **_ROOT_PROPERTIES,
            "spec": properties["spec"],
            "status": _without_defaults(properties["status"]),
        },
    }
    if "x-kubernetes-validations" in schema:
        root["x-kubernetes-validations"] = schema["x-kubernetes-validations"]
    return root


def _structural(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """One schema node and everything below it."""
    node, _ = _resolved(node, definitions)
    result: Schema = {}
    for keyword, value in node.items():
        if keyword in _DROPPED_KEYWORDS or (keyword == "additionalProperties" and value is False):
            continue
        if keyword == "properties":
            if not value:  # the API server drops it, and every further apply would seem to change something
                continue
            required = node.get("required", ())
            result[keyword] = {name: _property(child, definitions, name in required) for name, child in value.items()}
        elif keyword in ("items", "additionalProperties"):
            result[keyword] = _structural(value, definitions)
        elif keyword == "const":
            result["enum"] = [value]
        elif keyword == "description":
            result[keyword] = " ".join(value.split())
        elif keyword == "default":
            if value not in (None, "", [], {}):
                result[keyword] = value
        else:
            result[keyword] = value
    if result.get("type") == "array":
        result.setdefault("x-kubernetes-list-type", "atomic")
    return {key: result[key] for key in sorted(result, key=_reading_order)}


def _property(node: Mapping[str, Any], definitions: Mapping[str, Any], required: bool) -> Schema:
    """A field: as `_structural`, and an object that is always there shows the defaults of its fields.

    They are written out: the API server checks a default against the rules before it fills in what is below.
    """
    result = _structural(node, definitions)
    _, optional = _resolved(node, definitions)
    defaults = {name: child["default"] for name, child in result.get("properties", {}).items() if "default" in child}
    if defaults and not optional and not required:
        result["default"] = defaults
    return {key: result[key] for key in sorted(result, key=_reading_order)}


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The node with its reference and its "or null" taken away; what stands beside them wins. Also: may it be null?"""
    optional = False
    merged = dict(node)
    while True:
        if "$ref" in merged:
            name = merged.pop("$ref").removeprefix("#/$defs/")
            merged = {**definitions[name], **merged}
        elif {"type": "null"} in merged.get("anyOf", ()):
            optional = True
            (only,) = [branch for branch in merged.pop("anyOf") if branch != {"type": "null"}]
            merged = {**only, **merged}
        elif len(merged.get("allOf", ())) == 1:
            merged = {**merged.pop("allOf")[0], **merged}
        else:
            return merged, optional


def _without_defaults(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: {name: _without_defaults(child) for name, child in value.items()}
            if key == "properties"
            else _without_defaults(value)
            for key, value in node.items()
            if key != "default"
        }
    return node


_ORDER = ("type", "format", "description", "default", "enum", "required", "properties", "items")


def _reading_order(keyword: str) -> tuple[int, str]:
    return (_ORDER.index(keyword) if keyword in _ORDER else len(_ORDER), keyword)


def _validation(rule: Rule) -> dict[str, str]:
    validation = {"rule": rule.cel, "message": rule.message}
    if rule.field:
        validation["fieldPath"] = f".{rule.field}"
    return validation


def _column(column: PrinterColumn) -> dict[str, Any]:
    rendered: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.json_path}
    if column.description:
        rendered["description"] = column.description
    if column.priority:
        rendered["priority"] = column.priority
    return rendered


class _Dumper(yaml.SafeDumper):
    """Block style without anchors: the same list in two places is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _to_yaml(document: Mapping[str, Any]) -> str:
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return text
