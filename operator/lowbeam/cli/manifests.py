"""Manifests from files and a made-up inventory become a World, so that planning offline is planning online.

Decides how files, `--inventory` and `--cap` turn into the objects that an API server would hold. Refuses nothing that
the API server would accept. One bad document never hides another: what cannot be read is a `Trouble`, and the rest is
planned.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from lowbeam.api.documents import complaint_of, document_of, position_of
from lowbeam.api.nearest import nearest
from lowbeam.api.v1alpha1 import KubeObject
from lowbeam.api.v1alpha1.base import MAX_WATTS
from lowbeam.api.v1alpha1.loading import Problem, ReadResult, read_documents
from lowbeam.api.v1alpha1.problems import LONGEST_QUOTE
from lowbeam.catalog import why_no_class
from lowbeam.catalog.facts import Catalogue
from lowbeam.catalog.nodes import CLASS_LABEL, PRODUCT_LABEL
from lowbeam.cli.foreign import read_foreign
from lowbeam.errors import BadInput
from lowbeam.render import labels
from lowbeam.runtime.world import Objects, Parser, World, build_world

_WATTS = re.compile(r"^(?P<number>[0-9]+(\.[0-9]+)?)\s*(?P<unit>W|kW|MW)$", re.IGNORECASE)
_UNITS = {"w": 1, "kw": 1000, "mw": 1_000_000}
_SUFFIXES = (".yaml", ".yml", ".json")
LARGEST_NODE = 8
"""Accelerators of one made-up node: what most servers hold."""
MOST_OF_A_CLASS = 100_000
"""Accelerators in `--inventory`: far above any cluster, and few enough to be planned at once."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong with the input: in which file, object and field, and what to do."""

    file: str
    object: str
    field: str
    message: str

    def __str__(self) -> str:
        where = "" if not self.field or self.message.startswith(self.field) else self.field
        return ": ".join(part for part in (self.file, self.object, where, self.message) if part)


@dataclass(slots=True)
class Manifests:
    """What was read: our objects, the others that matter to a plan, and what is wrong."""

    objects: list[KubeObject] = field(default_factory=list)
    namespaces: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    files: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """By kind, namespace and name: the file that an object came from."""

    def file_of(self, kind: str, namespace: str, name: str) -> str:
        """Where an object came from; empty for one that was made up from a flag."""
        return self.files.get((kind, namespace, name), "")


def read_files(paths: Sequence[str]) -> Manifests:
    """Every object in the files, folders and `-`; what cannot be read or is there twice is a trouble."""
    read = Manifests()
    for path in paths:
        for name, text in _texts(path, read.troubles):
            for result in read_documents(text):
                _take(read, name, result)
    return read


def _take(read: Manifests, file: str, result: ReadResult) -> None:
    read.troubles += [Trouble(file, it.object, it.field, it.message) for it in result.problems]
    if result.other is not None:
        _take_foreign(read, file, result.other)
    if result.object is not None and _is_first(read, file, _key(result.object)):
        read.objects.append(result.object)


def _take_foreign(read: Manifests, file: str, raw: Mapping[str, Any], kind: str = "") -> None:
    """Keep a Node or Namespace; what is wrong with it, or there twice, is a trouble. Other kinds do not matter."""
    kind = kind or str(raw.get("kind"))
    kept = {"Namespace": read.namespaces, "Node": read.nodes}.get(kind)
    if kept is None:
        return
    found = read_foreign(kind, raw)
    if isinstance(found, tuple):
        read.troubles += [Trouble(file, it.object, it.field, it.message) for it in found]
    elif _is_first(read, file, (kind, "", found["metadata"]["name"])):
        kept.append(found)


def _is_first(read: Manifests, file: str, key: tuple[str, str, str]) -> bool:
    before = read.files.get(key)
    if before is None:
        read.files[key] = file
        return True
    where = "twice in this file" if before == file else f"also in {before}"
    kind, namespace, name = key
    label = f"{namespace}/{name}" if namespace else name
    read.troubles.append(
        Trouble(file, label, "metadata.name", f"this {kind} is {where}; the first counts: rename or remove the other")
    )
    return False


def _key(object_: KubeObject) -> tuple[str, str, str]:
    kind = object_.resource.kind
    namespace = (object_.metadata.namespace or "default") if kind == "InferenceWorkload" else ""
    return kind, namespace, object_.metadata.name


def parse_inventory(text: str) -> dict[str, int]:
    """`h100=16,l4=24,cpu=8` as accelerators by class (replicas for the class `cpu`); `H100` is h100."""
    counts: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, count = (piece.strip() for piece in part.partition("="))
        if not count.isdecimal() or not name:
            raise BadInput(f'--inventory: "{part}" is not CLASS=COUNT (write for example h100=16,l4=24)')
        name = name.lower()
        many = len(count.lstrip("0")) > len(str(MOST_OF_A_CLASS))  # Python reads no number of thousands of digits
        counts[name] = MOST_OF_A_CLASS + 1 if many else counts.get(name, 0) + int(count)
        if counts[name] > MOST_OF_A_CLASS:
            raise BadInput(f'--inventory: "{_shortened(part)}" is more than {MOST_OF_A_CLASS:,} of class {name}')
    return counts


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 1]}…"


def made_up_nodes(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Whole nodes of at most LARGEST_NODE accelerators, under names that no real node has."""
    nodes: list[dict[str, Any]] = []
    for name, count in counts.items():
        for left in range(count, 0, -LARGEST_NODE):
            nodes.append(_node(f"--inventory/{name}-{len(nodes)}", name, min(LARGEST_NODE, left)))
    return nodes


def read_nodes(path: str, read: Manifests) -> None:
    """Add the nodes of `kubectl get nodes -o json` (or yaml). BadInput: the file holds nothing of the kind."""
    for name, text in read_texts(path):
        try:
            raw = document_of(text)
        except yaml.YAMLError as error:
            raise BadInput(f"--nodes: {name}: {position_of(error)}: {complaint_of(error)}") from error
        nodes = raw.get("items", [raw]) if isinstance(raw, dict) else []
        if not isinstance(nodes, list) or not nodes or not all(_may_be_node(node) for node in nodes):
            raise BadInput(f"--nodes: {name}: no list of nodes; make it with `kubectl get nodes -o json`")
        for node in nodes:
            _take_foreign(read, name, node, "Node")


def _may_be_node(raw: object) -> bool:
    return isinstance(raw, dict) and raw.get("kind", "Node") == "Node" and isinstance(raw.get("metadata"), dict)


def unknown_classes(flag: str, names: Iterable[str], catalogue: Catalogue) -> Iterator[str]:
    """A sentence for each name in a flag that neither the catalogue nor the files know."""
    known = sorted(catalogue.accelerator_classes)
    for name in names:
        if name not in known:
            near = nearest(name, known, cutoff=0.5)
            guess = f"did you mean {near[0]}? " if near else ""
            yield (
                f'{flag}: no accelerator class "{name}"; {guess}known: {", ".join(known)}. '
                "For another one, add an AcceleratorClass and its EnergyProfiles to the files."
            )


def nodes_without_class(nodes: Iterable[Mapping[str, Any]], world: World) -> tuple[str, ...]:
    """A sentence for each node that says it has accelerators and belongs to no class: nothing can be planned on it."""
    return tuple(
        f"node {name}: {why_no_class(its_labels, world.catalogue)}"
        for node in nodes
        for name, its_labels in [(node["metadata"]["name"], node["metadata"].get("labels") or {})]
        if name not in world.node_classes and not its_labels.keys().isdisjoint((CLASS_LABEL, PRODUCT_LABEL))
    )


def parse_watts(text: str) -> int:
    """Whole watts of `9kW`, `9000W` or `1.2 MW`."""
    given = text.strip()
    match = _WATTS.match(given)
    if match is None:
        bare = given.replace(".", "", 1).isdigit()
        why = f"has no unit: write {given}kW or {given}W" if bare else "is no power: write 9kW or 9000W"
        raise BadInput(f'--cap: "{_shortened(given)}" {why}')
    watts = Decimal(match["number"]) * _UNITS[match["unit"].lower()]
    if not 1 <= watts <= MAX_WATTS:
        raise BadInput(f'--cap: "{_shortened(text)}" is not between 1 W and {MAX_WATTS:,} W')
    return int(watts)


def cluster_cap(watts: int, read: Manifests) -> dict[str, Any]:
    """A PowerCap over everything, for `--cap`; its name is one that no file uses."""
    name = next(it for it in ("cap", *(f"cap-{i}" for i in range(2, 10_000))) if not read.file_of("PowerCap", "", it))
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "PowerCap",
        "metadata": {"name": name},
        "spec": {"scope": {"cluster": {}}, "watts": watts},
    }


def world_of(
    read: Manifests, nodes: Sequence[dict[str, Any]], extra: Iterable[dict[str, Any]], now: datetime
) -> tuple[World, tuple[Trouble, ...]]:
    """The World that an operator would see, and everything that is wrong with what it was made of."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for index, raw in enumerate([*(o.to_wire() for o in read.objects), *extra, *read.namespaces]):
        metadata = raw["metadata"]
        metadata.setdefault("uid", f"file-{index}")
        metadata.setdefault("resourceVersion", "0")
        if raw["kind"] == "InferenceWorkload":
            metadata.setdefault("namespace", "default")
        by_kind.setdefault(raw["kind"], []).append(raw)
    world = build_world(
        Objects(
            workloads=tuple(by_kind.get("InferenceWorkload", ())),
            power_caps=tuple(by_kind.get("PowerCap", ())),
            model_cards=tuple(by_kind.get("ModelCard", ())),
            accelerator_classes=tuple(by_kind.get("AcceleratorClass", ())),
            energy_profiles=tuple(by_kind.get("EnergyProfile", ())),
            namespaces=tuple(by_kind.get("Namespace", ())),
            nodes=tuple(nodes),
        ),
        now,
        Parser(),
    )
    return world, (*read.troubles, *_troubles_of(world, read))


def _troubles_of(world: World, read: Manifests) -> list[Trouble]:
    """What the World refused, with the file that it came from."""
    found = [
        Trouble(read.file_of(it.kind, "", it.name), f"{it.kind}/{it.name}", it.field, it.message)
        for it in world.catalogue_problems
    ]
    found += [
        Trouble(read.file_of("InferenceWorkload", *key), "/".join(key), refusal.field, refusal.message)
        for key, refusal in world.refusals.items()
    ]
    problems: Mapping[str, Problem] = world.cap_problems
    found += [
        Trouble(read.file_of("PowerCap", "", name) or "--cap", name, it.field, it.message)
        for name, it in problems.items()
    ]
    found += [Trouble(read.file_of("PowerCap", "", it.cap), it.cap, "", it.message) for it in world.caps.problems]
    return found


def _node(name: str, accelerator_class: str, count: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {CLASS_LABEL: accelerator_class}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {labels.GPU_RESOURCE: str(count), "cpu": str(count)},
        },
    }


def read_texts(path: str) -> list[tuple[str, str]]:
    """(name, text) of a file, of `-`, or of the manifests in a folder; BadInput with everything that is unreadable."""
    troubles: list[Trouble] = []
    texts = _texts(path, troubles)
    if troubles:
        raise BadInput("\n".join(map(str, troubles)))
    return texts


def _texts(path: str, troubles: list[Trouble]) -> list[tuple[str, str]]:
    """Of a folder what kubectl would apply: the manifests in it, not those in folders of it."""
    if path == "-":
        try:
            return [("stdin", _standard_input())]
        except (OSError, UnicodeDecodeError) as error:
            troubles.append(Trouble("stdin", "", "", _complaint(error)))
            return []
    place = Path(path)
    try:
        files = sorted(f for f in place.iterdir() if f.suffix in _SUFFIXES) if place.is_dir() else [place]
    except OSError as error:
        troubles.append(Trouble(path, "", "", _complaint(error)))
        return []
    texts: list[tuple[str, str]] = []
    for file in files:
        try:
            texts.append((str(file), file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            troubles.append(Trouble(str(file), "", "", _complaint(error)))
    return texts


def _standard_input() -> str:
    if sys.stdin is None:  # closed by whoever started us
        raise OSError(errno.EBADF, "is closed")
    raw = getattr(sys.stdin, "buffer", None)  # in some locales text is read with any bytes in it
    return sys.stdin.read() if raw is None else raw.read().decode("utf-8")


def _complaint(error: OSError | UnicodeDecodeError) -> str:
    return "is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else f"{error.strerror}; check the path"
