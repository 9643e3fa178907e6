"""Builds the cap tree, and finds the pool that a node belongs to.

Decides usable milliwatts per cap, which cap on the path set them, and which caps are in trouble. Never drops a limit:
a cap whose parent is missing, or that is part of a cycle, keeps its own watts in force. Only what it would inherit is
unknown, and it says so; the caps below it are limited by it as usual.

Invariants: the answer does not depend on the order of the input; a cap is never usable beyond its own watts; a cap that
only observes never limits one that enforces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lowbeam.errors import BadInput
from lowbeam.power.caps import Cap, CapProblem, CapTree

CAP_PARENT_MISSING = "CapParentMissing"
"""`spec.parent` names a cap that does not exist: the cap's own watts stay in force."""
CAP_CYCLE = "CapCycle"
"""The cap is its own ancestor: its own watts stay in force."""
CAP_NOTHING_USABLE = "CapNothingUsable"
"""Tolerance and overhead leave no watts: everything under the cap would have to stop."""
CAP_OVERLAPS = "CapOverlaps"
"""Nodes that its selector fits count under another pool cap, which is not below it."""

Selector = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PoolMatch:
    """The pool of a node, and the caps that claim it too without being above that pool in the tree."""

    pool: str | None
    overlapping: tuple[str, ...] = ()


def build_cap_tree(caps: Sequence[Cap]) -> CapTree:
    """Place every cap; `BadInput` when two have the same name (impossible in a cluster, possible in files)."""
    by_name = {cap.name: cap for cap in caps}
    if len(by_name) < len(caps):
        names = [cap.name for cap in caps]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise BadInput(f"more than one PowerCap is called {', '.join(twice)}: give each its own metadata.name")
    in_cycle = {name for name in by_name if _returns_to_itself(name, by_name)}
    problems = [problem for name in sorted(by_name) for problem in _problems_of(by_name[name], by_name, in_cycle)]
    nested = _pools_below(by_name, in_cycle)
    placed = tuple(replace(by_name[name], nested_pools=nested.get(name, frozenset())) for name in sorted(by_name))
    paths = [_limiting(_path(cap, by_name, in_cycle), cap) for cap in placed]
    limits = [min(((usable_milliwatts(it), it.name) for it in path), key=lambda pair: pair[0]) for path in paths]
    return CapTree(
        caps=placed,
        usable_milliwatts=tuple(usable for usable, _ in limits),
        planned_milliwatts=tuple(min(map(planned_milliwatts, path)) for path in paths),
        admitted_milliwatts=tuple(min(map(admitted_milliwatts, path)) for path in paths),
        limited_by=tuple(name for _, name in limits),
        problems=tuple(problems),
    )


def limiting_paths(tree: CapTree) -> dict[str, list[Cap]]:
    """For each cap of a tree the caps whose watts limit it: itself first, then upwards."""
    by_name = {cap.name: cap for cap in tree.caps}
    in_cycle = {name for name in by_name if _returns_to_itself(name, by_name)}
    return {name: _limiting(_path(cap, by_name, in_cycle), cap) for name, cap in by_name.items()}


def usable_milliwatts(cap: Cap) -> int:
    """What accelerators may draw by the cap's own figures: watts less tolerance and overhead, at least 0."""
    return _less_what_is_not_theirs(cap, cap.watts)


def planned_milliwatts(cap: Cap) -> int:
    """The same of the watts that plans keep to."""
    return _less_what_is_not_theirs(cap, cap.watts_to_plan_with)


def admitted_milliwatts(cap: Cap) -> int:
    """The same of the watts that moves on the way to the plan keep to."""
    return _less_what_is_not_theirs(cap, cap.watts if cap.admitted_watts is None else cap.admitted_watts)


def _less_what_is_not_theirs(cap: Cap, watts: int) -> int:
    return max(0, watts * 10 * (100 - cap.meter_tolerance_percent) - cap.overhead_watts * 1000)


def strongest_first(pools: Iterable[tuple[str, Selector]], tree: CapTree) -> dict[str, Selector]:
    """Node selectors of pool caps, by name, in the order in which they claim nodes: deepest in the tree, then those
    that enforce, then most labels, then the first name. A cap without labels claims none."""
    chosen = {name: selector for name, selector in pools if selector}
    observers = {cap.name for cap in tree.caps if not cap.enforce}

    def rank(name: str) -> tuple[int, bool, int, str]:
        depth = sum(name in cap.nested_pools for cap in tree.caps)
        return -depth, name in observers, -len(chosen[name]), name

    return {name: chosen[name] for name in sorted(chosen, key=rank)}


def pool_of_node(labels: Mapping[str, str], pools: Mapping[str, Selector], tree: CapTree) -> PoolMatch:
    """The first of `pools` (as `strongest_first` has them) whose selector fits a node.

    A match above the winner in the tree counts the node too (a row and its rack). Any other match is an overlap: that
    cap does not count this node.
    """
    fitting = [name for name, selector in pools.items() if selector.items() <= labels.items()]
    if not fitting:
        return PoolMatch(pool=None)
    above = {cap.name for cap in tree.caps if fitting[0] in cap.nested_pools}
    return PoolMatch(pool=fitting[0], overlapping=tuple(sorted(set(fitting[1:]) - above)))


def kept_out(
    pools: Mapping[str, Selector], tree: CapTree, matches: Iterable[PoolMatch]
) -> dict[str, tuple[Selector, ...]]:
    """Per pool the selectors of those whose nodes are not its own although its labels fit them; '': of all pools.

    `pools` as `strongest_first` has them. They are the pools below it, and those that claim nodes which it fits too: of
    pools that share no node neither changes the pods of the other.
    """
    rivals = {cap.name: set(cap.nested_pools) for cap in tree.caps}
    for match in matches:
        for name in match.overlapping:
            rivals.setdefault(name, set()).add(match.pool or "")
    inner = {name: tuple(pools[other] for other in pools if other in rivals.get(name, ())) for name in pools}
    return {**inner, "": tuple(pools.values())}


def overlaps(matches: Mapping[str, PoolMatch]) -> tuple[CapProblem, ...]:
    """One problem per cap that does not count nodes which its selector fits; `matches`: by name of the node."""
    found: dict[str, list[str]] = {}
    for node in sorted(matches):
        for cap in matches[node].overlapping:
            found.setdefault(cap, []).append(node)
    return tuple(
        CapProblem(
            cap,
            CAP_OVERLAPS,
            f'PowerCap "{cap}" does not count {len(nodes)} of its nodes (the first: {nodes[0]}): PowerCap '
            f'"{matches[nodes[0]].pool}" fits them too and claims them. Give the selectors no node in common, or name '
            f'"{cap}" in spec.parent of the other.',
        )
        for cap, nodes in sorted(found.items())
    )


def _returns_to_itself(name: str, by_name: Mapping[str, Cap]) -> bool:
    seen: set[str] = set()
    at = by_name[name].parent
    while at in by_name and at not in seen:
        if at == name:
            return True
        seen.add(at)
        at = by_name[at].parent
    return False


def _path(cap: Cap, by_name: Mapping[str, Cap], in_cycle: set[str]) -> list[Cap]:
    """From the cap up to its root; ends at a cap of a cycle, whose own parents are unknown."""
    path = [cap]
    while path[-1].name not in in_cycle and path[-1].parent in by_name:
        path.append(by_name[path[-1].parent])
    return path


def _limiting(path: Sequence[Cap], cap: Cap) -> list[Cap]:
    """The caps of the path that limit the first one, itself first: the smallest counts, the nearest on a tie. One that
    observes is no limit to an enforcing cap below it."""
    return [it for it in path if it.enforce or it.name == cap.name or not cap.enforce]


def _problems_of(cap: Cap, by_name: Mapping[str, Cap], in_cycle: set[str]) -> Iterable[CapProblem]:
    if cap.name in in_cycle:
        around = _cycle_text(cap, by_name)
        yield CapProblem(
            cap.name,
            CAP_CYCLE,
            f'PowerCap "{cap.name}" is its own ancestor ({around}). Its own {cap.watts} W stay in force, what it would '
            "inherit is unknown. Change spec.parent of one of them.",
        )
    elif cap.parent and cap.parent not in by_name:
        yield CapProblem(
            cap.name,
            CAP_PARENT_MISSING,
            f'PowerCap "{cap.name}": spec.parent names "{cap.parent}", which does not exist. Its own {cap.watts} W '
            "stay in force. Create the parent, or correct or remove spec.parent.",
        )
    if usable_milliwatts(cap) == 0:
        yield CapProblem(
            cap.name,
            CAP_NOTHING_USABLE,
            f'PowerCap "{cap.name}": {cap.watts} W less {cap.meter_tolerance_percent} % tolerance and '
            f"{cap.overhead_watts} W overhead leave nothing for accelerators. Raise spec.watts or correct "
            "spec.overheadWatts.",
        )


def _cycle_text(cap: Cap, by_name: Mapping[str, Cap]) -> str:
    names, at = [cap.name], cap.parent
    while at != cap.name:
        names.append(at)
        at = by_name[at].parent
    return " -> ".join([*names, cap.name])


def _pools_below(by_name: Mapping[str, Cap], in_cycle: set[str]) -> dict[str, frozenset[str]]:
    """For each pool cap the pools of the pool caps below it."""
    below: dict[str, set[str]] = {}
    for cap in by_name.values():
        if cap.pool is None:
            continue
        for above in _path(cap, by_name, in_cycle)[1:]:
            if above.pool is not None:
                below.setdefault(above.name, set()).add(cap.pool)
    return {name: frozenset(pools) for name, pools in below.items()}
