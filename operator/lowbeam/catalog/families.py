"""Up- and downgrade edges between models: where to step down to when less energy must do, and the same edges upwards.

Decides nothing about workloads. A model names its predecessors; successors are those edges read backwards, so the two
can never disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from lowbeam.catalog.facts import Model


def cycles(models: Mapping[str, Model]) -> dict[str, tuple[str, ...]]:
    """Every model from which stepping down leads back to it, with the shortest way round; empty when all is well."""
    found = {}
    for name in sorted(models):
        way = _shortest_way_back(name, models)
        if way:
            found[name] = way
    return found


def with_successors(models: Mapping[str, Model]) -> dict[str, Model]:
    """The models with edges that lead to models in force, of a shared task, both ways."""
    up: dict[str, list[str]] = defaultdict(list)
    down = {
        name: tuple(other for other in model.predecessors if other in models and _share_a_task(model, models[other]))
        for name, model in models.items()
    }
    for name in sorted(down):
        for other in down[name]:
            up[other].append(name)
    return {
        name: model
        if (model.predecessors, model.successors) == (down[name], tuple(up[name]))
        else replace(model, predecessors=down[name], successors=tuple(up[name]))
        for name, model in models.items()
    }


def _share_a_task(one: Model, other: Model) -> bool:
    return not set(one.tasks).isdisjoint(other.tasks)


def _shortest_way_back(start: str, models: Mapping[str, Model]) -> tuple[str, ...]:
    """(start, ..., start), breadth first; empty when there is none."""
    seen: set[str] = set()
    ways: list[tuple[str, ...]] = [(start,)]
    while ways:
        longer: list[tuple[str, ...]] = []
        for way in ways:
            for name in models[way[-1]].predecessors:
                if name == start:
                    return (*way, start)
                if name in models and name not in seen:
                    seen.add(name)
                    longer.append((*way, name))
        ways = longer
    return ()
