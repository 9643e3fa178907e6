"""Manifests from files and a made-up inventory become a World, so that planning offline is planning online.

Decides how files, `--inventory` and `--cap` turn into the objects that an API server would hold. Refuses nothing that
the API server would accept.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from lowbeam.api.v1alpha1 import KubeObject
from lowbeam.api.v1alpha1.loading import read_documents
from lowbeam.catalog.nodes import CLASS_LABEL
from lowbeam.errors import BadInput
from lowbeam.render import labels
from lowbeam.runtime.world import Objects, Parser, World, build_world

_WATTS = re.compile(r"^(?P<number>[0-9]+(\.[0-9]+)?)\s*(?P<unit>W|kW|MW)$", re.IGNORECASE)
_UNITS = {"w": 1, "kw": 1000, "mw": 1_000_000}


def read_files(paths: Iterable[str]) -> list[KubeObject]:
    """Every Lowbeam object in the files and folders; raises BadInput with all problems, one a line."""
    objects: list[KubeObject] = []
    problems: list[str] = []
    for path in paths:
        for name, text in _texts(path):
            for result in read_documents(text):
                problems += [f"{name}: {problem}" for problem in result.problems]
                if result.object is not None:
                    objects.append(result.object)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise BadInput("\n".join([*problems, f"{count}, nothing planned"]))
    if not objects:
        raise BadInput(f"no Lowbeam objects in {', '.join(paths)}; give a manifest with -f")
    return objects


def parse_inventory(text: str) -> list[dict[str, Any]]:
    """Nodes for `h100=16,l4=24,cpu=8`: whole nodes of at most 8 accelerators."""
    nodes: list[dict[str, Any]] = []
    for part in filter(None, text.split(",")):
        name, _, count = part.partition("=")
        if not count.isdigit() or not name:
            raise BadInput(f'--inventory: "{part}" is not CLASS=COUNT (for example h100=16)')
        left = int(count)
        while left > 0:
            size = min(8, left)
            nodes.append(_node(f"{name}-{len(nodes)}", name, size))
            left -= size
    return nodes


def read_nodes(path: str) -> list[dict[str, Any]]:
    """Nodes from `kubectl get nodes -o json` (or yaml)."""
    try:
        raw = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: neither JSON nor YAML: {error}") from error
    nodes = raw.get("items", [raw]) if isinstance(raw, dict) else []
    if not nodes or any(node.get("kind", "Node") != "Node" for node in nodes):
        raise BadInput(f"{path}: no nodes in it; make it with `kubectl get nodes -o json`")
    return nodes


def parse_watts(text: str) -> int:
    """Whole watts of `9kW`, `9000W` or `1.2 MW`."""
    match = _WATTS.match(text.strip())
    if match is None:
        raise BadInput(f'--cap: "{text}" is not a power (use for example 9kW or 9000W)')
    return int(float(match["number"]) * _UNITS[match["unit"].lower()])


def cluster_cap(watts: int) -> dict[str, Any]:
    """A PowerCap over everything, for `--cap`."""
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "PowerCap",
        "metadata": {"name": "cap"},
        "spec": {"scope": {"cluster": {}}, "watts": watts},
    }


def world_of(
    objects: Iterable[KubeObject], nodes: list[dict[str, Any]], extra: Iterable[dict[str, Any]], today: date
) -> World:
    """The World that an operator would see."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for index, raw in enumerate([*(o.to_wire() for o in objects), *extra]):
        metadata = raw["metadata"]
        metadata.setdefault("uid", f"file-{index}")
        metadata.setdefault("resourceVersion", "0")
        if raw["kind"] == "InferenceWorkload":
            metadata.setdefault("namespace", "default")
        by_kind.setdefault(raw["kind"], []).append(raw)
    return build_world(
        Objects(
            workloads=tuple(by_kind.get("InferenceWorkload", ())),
            power_caps=tuple(by_kind.get("PowerCap", ())),
            model_cards=tuple(by_kind.get("ModelCard", ())),
            accelerator_classes=tuple(by_kind.get("AcceleratorClass", ())),
            energy_profiles=tuple(by_kind.get("EnergyProfile", ())),
            nodes=tuple(nodes),
        ),
        today,
        Parser(),
    )


def _node(name: str, accelerator_class: str, count: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {CLASS_LABEL: accelerator_class}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {labels.GPU_RESOURCE: str(count), "cpu": str(count)},
        },
    }


def _texts(path: str) -> list[tuple[str, str]]:
    if path == "-":
        return [("stdin", sys.stdin.read())]
    place = Path(path)
    try:
        files = (
            sorted(f for f in place.iterdir() if f.suffix in (".yaml", ".yml", ".json")) if place.is_dir() else [place]
        )
        return [(str(f), f.read_text()) for f in files]
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
