"""What a cap counts: the accelerators of its nodes, or its namespaces; and the sentence where that is nothing.

Decides what a selector that fits nothing may have meant. A cap of which other caps claim every node is no typing error:
its status says so already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lowbeam.api.nearest import nearest
from lowbeam.api.v1alpha1.powercap import CapScope, NamespacesScope
from lowbeam.power.caps import Cap

Labels = Mapping[str, str]

MOST_COMPARED = 512
"""Values of a label, or names: among more of them (one of each node) the nearest takes long to find."""
MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Counted:
    """What one cap counts; None = its scope is of the other kind."""

    accelerators: int | None = None
    namespaces: int | None = None
    nothing: str = ""
    """Why nothing is counted; empty when something is."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of one cycle, by name."""

    labels: Mapping[str, Labels]
    pools: Mapping[str, str]
    accelerators: Mapping[str, int]
    """Of the nodes that belong to an accelerator class; 0 = the class has no devices."""


def counted_by(
    caps: Iterable[tuple[Cap, CapScope]], nodes: Nodes, namespaces: Mapping[str, Labels]
) -> dict[str, Counted]:
    """What each cap counts, by its name. `namespaces`: the cluster's, with their labels."""
    boards: Counter[str] = Counter()
    for name, count in nodes.accelerators.items():
        boards[nodes.pools[name]] += count
    used = set(nodes.pools.values())
    counted: dict[str, Counted] = {}
    for cap, scope in caps:
        if scope.namespaces is not None:
            found = len((cap.namespaces or frozenset()) & namespaces.keys())
            why = "" if found else f"{_no_namespace(scope.namespaces, namespaces)}: nothing is counted"
            counted[cap.name] = Counted(namespaces=found, nothing=why)
        elif scope.node_pool is not None:
            mine = {cap.name, *cap.nested_pools}
            why = "" if mine & used else _no_node(scope.node_pool.node_selector, nodes)
            counted[cap.name] = Counted(sum(boards[pool] for pool in mine), nothing=why)
        else:
            counted[cap.name] = Counted(boards.total())
    return counted


def _no_node(selector: Labels, nodes: Nodes) -> str:
    there = list(nodes.labels.values())
    if any(selector.items() <= labels.items() for labels in there):
        return ""
    return f"no node carries {_pairs(selector)}{_near_pair(selector, there)}: nothing is counted"


def _no_namespace(scope: NamespacesScope, namespaces: Mapping[str, Labels]) -> str:
    parts = []
    if scope.names:
        more = f" or {len(scope.names) - MOST_NAMED} more" if len(scope.names) > MOST_NAMED else ""
        near = _near(scope.names[0], namespaces.keys())
        parts.append(f"no namespace is called {', '.join(scope.names[:MOST_NAMED])}{more}{_hint(near)}")
    if scope.selector is not None:
        wanted = scope.selector.match_labels
        parts.append(f"no namespace matches {_pairs(wanted)}{_near_pair(wanted, list(namespaces.values()))}")
    return ", and ".join(parts)


def _pairs(selector: Labels) -> str:
    return " and ".join(f"{key}={value}" for key, value in sorted(selector.items()))


def _near_pair(selector: Labels, there: Iterable[Labels]) -> str:
    """` (did you mean rack=7?)` for the first pair of the selector that nothing carries; empty when nothing is near."""
    values: dict[str, set[str]] = {}
    for labels in there:
        for key, value in labels.items():
            values.setdefault(key, set()).add(value)
    for key, value in sorted(selector.items()):
        if value in values.get(key, ()):
            continue
        known = key if key in values else _near(key, values.keys())
        meant = _near(value, values.get(known, set()))
        return _hint(f"{known}={meant}" if meant else known if known != key else "")
    return ""


def _near(given: str, known: Iterable[str]) -> str:
    names = set(known)
    return next(iter(nearest(given, names)), "") if len(names) <= MOST_COMPARED else ""


def _hint(near: str) -> str:
    return f" (did you mean {near}?)" if near else ""
