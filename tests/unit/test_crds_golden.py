"""crds/ and docs/reference/ are what the models say, and the schemas are structural, bounded and small."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.api.crdgen import crd, render_crds, structural_schema
from lowbeam.api.reference import render_reference
from lowbeam.api.v1alpha1 import KINDS, KubeObject

ROOT = Path(__file__).parents[2]
GENERATED = {ROOT / "crds": render_crds(), ROOT / "docs" / "reference": render_reference()}

FORBIDDEN = {
    "$ref",
    "$defs",
    "definitions",
    "title",
    "const",
    "nullable",
    "uniqueItems",
    "prefixItems",
    "oneOf",
    "allOf",
    "not",
    "discriminator",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "propertyNames",
    "patternProperties",
    "dependencies",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "xml",
    "id",
}
"""Keywords that a structural schema may not have, or that would say something the API server does not do."""


def by_name(kind: type[KubeObject]) -> str:
    return kind.resource.kind


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, schema) of a schema and everything below it."""
    yield path or "(root)", node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in node:
            yield from nodes(node[keyword], f"{path}[]")


def fields(kind: type[KubeObject]) -> list[tuple[str, dict[str, Any]]]:
    """Every node of spec and status; metadata is the API server's own."""
    properties = structural_schema(kind)["properties"]
    return [found for part in ("spec", "status") for found in nodes(properties[part], part)]


@pytest.mark.parametrize("folder", GENERATED, ids=lambda folder: folder.name)
def test_generated_files_are_what_the_models_say(folder: Path) -> None:
    """`LOWBEAM_UPDATE_GENERATED=1 pytest tests/unit/test_crds_golden.py` writes them."""
    wanted = GENERATED[folder]
    if os.environ.get("LOWBEAM_UPDATE_GENERATED"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in wanted.items():
            (folder / name).write_text(text, encoding="utf-8")
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.name in wanted}
    stale = sorted(name for name in wanted if found.get(name) != wanted[name])
    assert stale == [], f"{test_generated_files_are_what_the_models_say.__doc__}"


def test_no_crd_is_left_over_from_a_kind_that_is_gone() -> None:
    assert {path.name for path in (ROOT / "crds").glob("*.yaml")} == set(render_crds())


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_the_schema_is_structural(kind: type[KubeObject]) -> None:
    for path, node in nodes(structural_schema(kind)):
        assert not FORBIDDEN & set(node), path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert node.get("additionalProperties") is not False, path
        assert not ("properties" in node and "additionalProperties" in node), path
        if "anyOf" in node:
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_everything_is_bounded_so_that_no_object_can_fill_etcd_and_no_rule_runs_long(kind: type[KubeObject]) -> None:
    for path, node in fields(kind):
        if node.get("type") == "array":
            assert "maxItems" in node, path
        elif node.get("type") == "string":
            assert {"maxLength", "enum", "format"} & set(node) or node["pattern"].endswith("$"), path
        elif node.get("type") == "integer" and "observedGeneration" not in path:
            assert {"minimum", "maximum"} <= set(node), path
        elif "additionalProperties" in node:
            assert "maxProperties" in node, path


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_no_number_is_a_float(kind: type[KubeObject]) -> None:
    assert [path for path, node in fields(kind) if node.get("type") == "number"] == []


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_every_field_has_a_description_for_kubectl_explain(kind: type[KubeObject]) -> None:
    silent = [
        path for path, node in fields(kind) if not path.endswith("[]") and not node.get("description", "").strip()
    ]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_keys_of_list_maps_are_always_there(kind: type[KubeObject]) -> None:
    for path, node in fields(kind):
        for key in node.get("x-kubernetes-list-map-keys", ()):
            item = node["items"]
            assert key in item.get("required", ()) or "default" in item["properties"][key], path


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_nothing_in_a_status_is_filled_in_by_the_api_server(kind: type[KubeObject]) -> None:
    assert [path for path, node in nodes(structural_schema(kind)["properties"]["status"]) if "default" in node] == []


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_a_plain_kubectl_apply_has_room_for_the_crd(kind: type[KubeObject]) -> None:
    """kubectl stores what it applied in an annotation of at most 256 KiB."""
    assert len(json.dumps(crd(kind))) < 200_000


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_the_crd_has_what_a_platform_engineer_expects(kind: type[KubeObject]) -> None:
    spec = crd(kind)["spec"]
    version = spec["versions"][0]
    assert spec["names"]["categories"] == ["lowbeam"]
    assert spec["names"]["shortNames"]
    assert version["subresources"]["status"] == {}
    names = [column["name"] for column in version["additionalPrinterColumns"]]
    assert (names[0], names[-1]) == ("Ready", "Age")


def test_the_columns_are_those_of_the_design() -> None:
    shown = {
        kind.resource.short_names[0]: [c.name.upper() for c in kind.resource.columns if c.priority == 0]
        for kind in KINDS
    }
    assert shown["iw"] == ["READY", "MODEL", "PRECISION", "REPLICAS", "WATTS", "J/REQ", "STARS", "DIMMED", "AGE"]
    assert shown["pcap"] == ["READY", "CAP", "USABLE", "MEASURED", "COMMITTED", "COVERAGE", "STATE", "AGE"]


def test_wide_columns_tell_a_cap_that_only_observes_from_one_that_sheds() -> None:
    (columns,) = (kind.resource.columns for kind in KINDS if kind.resource.short_names[0] == "pcap")
    assert [c.json_path for c in columns if c.name == "Mode"] == [".spec.mode"]


def test_the_yaml_says_what_the_crd_says_also_to_parsers_that_read_off_as_false() -> None:
    for kind, text in zip(KINDS, render_crds().values(), strict=True):
        assert yaml.safe_load(text) == json.loads(json.dumps(crd(kind)))
        assert "&id" not in text


def test_a_small_workload_stays_small_while_a_cap_shows_its_numbers() -> None:
    by_kind = {kind.resource.kind: structural_schema(kind)["properties"]["spec"]["properties"] for kind in KINDS}
    filled_in = {name for name, node in by_kind["InferenceWorkload"].items() if "default" in node}
    assert filled_in == {"reasoning", "priority", "scaling", "engine", "mode"}
    assert by_kind["PowerCap"]["thresholds"]["default"]["softShedPercent"] == 97


def test_the_reference_explains_every_field_and_every_word() -> None:
    pages = render_reference()
    for kind in KINDS:
        page = pages[f"{kind.resource.singular}.md"]
        for path, _ in fields(kind):
            name = path.partition(".")[2]
            if name and not name.endswith("[]"):
                assert f"| `{name}`" in page, name
    assert "`NoModelMeetsFloor`" in pages["reasons.md"]
