"""The world of one cycle: raw objects from the informers become one Snapshot plus what is needed to act on it.

Decides nothing about workloads; it parses, resolves references (pools, namespaces, classes) and sets aside what it
cannot understand, each with a reason and a sentence. One bad object never stops the others.

Invariant: the same objects give the same World, in whatever order the informers hold them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from lowbeam.api.v1alpha1 import InferenceWorkload, PowerCap, WorkloadMode, reasons
from lowbeam.api.v1alpha1.loading import Problem, read_object
from lowbeam.catalog import CatalogueProblem, class_of_node, load_builtin, overlay
from lowbeam.catalog.facts import Catalogue
from lowbeam.planning import Inventory, Snapshot, WorkloadState
from lowbeam.planning.moves import settle_seconds
from lowbeam.power.caps import CapTree
from lowbeam.power.from_spec import timetable_of_spec
from lowbeam.power.outlook import Outlook, outlook
from lowbeam.power.schedule import Timetable
from lowbeam.power.tree import build_cap_tree, kept_out, overlaps, pool_of_node, strongest_first
from lowbeam.render import Placement, labels
from lowbeam.runtime.cap_counts import Counted, Nodes, counted_by
from lowbeam.runtime.cap_view import cap_of, pool_caps
from lowbeam.runtime.inventory import NO_LIMITS, NodeStock, devices_of
from lowbeam.runtime.replicas import Child, Replica, WorkloadKey, by_workload, child_of, replica_of
from lowbeam.sizing import Demand, Option, Refusal, Requirements, requirements_of
from lowbeam.sizing.correction import Correction

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Observation:
    """What telemetry says about one workload that its spec and the catalogue do not."""

    demand: Demand | None = None
    """Instead of spec.load; None while that is what is used."""
    corrections: tuple[Correction, ...] = ()
    """Profiles that its own watts contradict."""


_NOTHING = Observation()
NOTHING_OBSERVED: Mapping[WorkloadKey, Observation] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Objects:
    """Raw objects by kind, as the informers hold them."""

    workloads: tuple[Raw, ...] = ()
    power_caps: tuple[Raw, ...] = ()
    model_cards: tuple[Raw, ...] = ()
    accelerator_classes: tuple[Raw, ...] = ()
    energy_profiles: tuple[Raw, ...] = ()
    namespaces: tuple[Raw, ...] = ()
    nodes: tuple[Raw, ...] = ()
    deployments: tuple[Raw, ...] = ()
    services: tuple[Raw, ...] = ()
    pods: tuple[Raw, ...] = ()
    other_pods: tuple[Raw, ...] = ()
    """Pods of others that hold accelerators."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What depends neither on workloads nor on the time."""

    cap_tree: CapTree
    """The place of each cap; its watts are the static ones, and its problems only those of the nodes."""
    timetables: Mapping[str, Timetable]
    cap_objects: Mapping[str, PowerCap]
    cap_problems: Mapping[str, Problem]
    counted: Mapping[str, Counted]
    """What each cap counts, by its name."""
    pool_selectors: Mapping[str, Mapping[str, str]]
    """Node selector of each pool, the strongest first; the pool of nodes outside every pool cap is '' and has none."""
    kept_out: Mapping[str, tuple[Mapping[str, str], ...]]
    """Per pool ('' too) the selectors of pools whose nodes its pods must not use."""
    node_pools: Mapping[str, str]
    """Pool of each node."""
    node_classes: Mapping[str, str]
    """Accelerator class of each node that has one."""
    places: frozenset[tuple[str, str]]
    """(pool, accelerator class) of those nodes, in any state."""


@dataclass(frozen=True, slots=True)
class World(Ground):
    """Everything one cycle knows."""

    outlook: Outlook
    """The caps at the time of the cycle, and when they change."""
    catalogue: Catalogue
    catalogue_problems: tuple[CatalogueProblem, ...]
    inventory: tuple[Inventory, ...]
    workloads: Mapping[WorkloadKey, InferenceWorkload]
    refusals: Mapping[WorkloadKey, Refusal]
    """Workloads that cannot be planned, with the reason."""
    requirements: Mapping[WorkloadKey, Requirements]
    raw_workloads: Mapping[WorkloadKey, Raw]
    children: Mapping[WorkloadKey, list[Child]]
    services: Mapping[WorkloadKey, Raw]
    replicas: Mapping[WorkloadKey, list[Replica]]
    names: Mapping[WorkloadKey, WorkloadKey]
    """(namespace, label value) -> workload."""

    @property
    def caps(self) -> CapTree:
        """The cap tree as it is now."""
        return self.outlook.caps

    def holds_at(self, now: datetime) -> bool:
        """Whether the same objects give the same world at `now`: no cap changes, and no opt-in runs out."""
        return self.outlook.at.date() == now.date() and self.outlook.holds_at(now)

    def key_of(self, labelled: WorkloadKey) -> WorkloadKey:
        """The workload behind (namespace, value of the workload label): long names are shortened in labels."""
        return self.names.get(labelled, labelled)

    def enforced(self) -> list[WorkloadKey]:
        """Workloads that Lowbeam acts on, in canonical order."""
        return [key for key in sorted(self.requirements) if self.workloads[key].spec.mode is WorkloadMode.ENFORCE]

    def advised(self) -> list[WorkloadKey]:
        """Workloads that only want advice, in canonical order."""
        return [key for key in sorted(self.requirements) if self.workloads[key].spec.mode is WorkloadMode.ADVISE]

    def alone(self, key: WorkloadKey) -> Snapshot:
        """What an advised workload is planned from: it takes nothing from the others, and no cap dims it."""
        return Snapshot(self.catalogue, CapTree(), self.inventory, (WorkloadState(self.requirements[key]),))

    def standing(self, key: WorkloadKey, option: Option) -> Option:
        """What runs, named after the pool that its nodes are in now: a cap that comes or goes may have renamed it.

        `option` itself while its pool has nodes, and where its pods stand in none or in several.
        """
        if (option.pool, option.accelerator_class) in self.places:
            return option
        places = {place for replica in self.replicas.get(key, ()) if (place := self._place_of(replica)) is not None}
        pools = {pool for pool, accelerator_class in places if accelerator_class == option.accelerator_class}
        return replace(option, pool=pools.pop()) if len(pools) == 1 else option

    def has_place(self, key: WorkloadKey, option: Option) -> bool:
        """Whether the nodes of an option's pool can take it: those that there are, where its pods stand on them, else
        those that have room for all of it beside the pods of others."""
        here = (option.pool, option.accelerator_class)
        digest, mine = Placement.of(option).digest(key[1]), self.replicas.get(key, ())
        stands = {self._place_of(replica) for replica in mine if replica.placement_digest == digest} - {None}
        if here not in self.places or stands <= {here}:
            return here in self.places
        have = sum(row.accelerators for row in self.inventory if (row.pool, row.accelerator_class) == here)
        others = (replica for other, group in self.replicas.items() if other != key for replica in group)
        taken = sum(max(1, replica.accelerators) for replica in others if self._place_of(replica) == here)
        return taken + option.accelerators <= have

    def _place_of(self, replica: Replica) -> tuple[str, str] | None:
        """(pool, class) of the node that a pod keeps; None where it has none, or leaves it."""
        if replica.terminating or replica.node not in self.node_classes:
            return None
        return self.node_pools[replica.node], self.node_classes[replica.node]

    def held_unplanned(self) -> dict[tuple[str, str], int]:
        """Accelerators by (pool, class) of workloads that are not acted on: advised, refused, or gone from their pods.

        Not of those that are gone with a Deployment of theirs still there: the garbage collector is about to end them.
        """
        held: Counter[tuple[str, str]] = Counter()
        for key in self.replicas.keys() - self.enforced():
            if key not in self.raw_workloads and key in self.children:
                continue
            for replica in self.replicas[key]:
                if (where := self._place_of(replica)) is not None:
                    held[where] += max(1, replica.accelerators)
        return held


_OF_THE_GARBAGE_COLLECTOR = frozenset({"foregroundDeletion", "orphan"})
"""Finalizers with which it ends the children, or lets go of them, before their owner is gone."""
_View = TypeVar("_View")


@dataclass(slots=True)
class Parser:
    """Reads objects once: specs once per generation, as our statuses change all the time; views of children once per
    change."""

    _seen: dict[str, tuple[Any, tuple[Any, Problem | None]]] = field(default_factory=dict)
    """By uid: the newest generation and what was read of it."""
    _catalogue_of: tuple[object, Catalogue, tuple[CatalogueProblem, ...]] | None = None
    _views: dict[Hashable, tuple[tuple[Any, ...], Any]] = field(default_factory=dict)
    """By what is looked at: what the view was made of, and the view."""
    _older: dict[Hashable, tuple[tuple[Any, ...], Any]] = field(default_factory=dict)
    _outlook: tuple[Ground, Outlook] | None = None

    def outlook(self, ground: Ground, now: datetime) -> Outlook:
        """The caps of `ground` at `now`; worked out once for as long as they hold."""
        if self._outlook is None or self._outlook[0] is not ground or not self._outlook[1].holds_at(now):
            found = outlook(ground.cap_tree.caps, ground.timetables, now)
            problems = (*ground.cap_tree.problems, *found.caps.problems)
            self._outlook = ground, replace(found, caps=replace(found.caps, problems=problems))
        return replace(self._outlook[1], at=now)

    def view(self, name: Hashable, make: Callable[..., _View], *parts: Any) -> _View:
        """`make(*parts)`, or what that gave before where all parts are still the same: informers replace an object
        when it changes, and never touch it."""
        known = self._views.get(name) or self._older.get(name)
        if known is None or any(one is not other for one, other in zip(known[0], parts, strict=True)):
            known = parts, make(*parts)
        self._views[name] = known
        view: _View = known[1]
        return view

    def next_look(self) -> None:
        """Forget the views of what was not looked at since the last call."""
        self._older, self._views = self._views, {}

    def read(self, raw: Raw) -> tuple[Any, Problem | None]:
        """The pydantic object, or the first problem with it."""
        metadata = raw["metadata"]
        uid, version = metadata["uid"], metadata.get("generation", metadata["resourceVersion"])
        known = self._seen.get(uid)
        if known is None or known[0] != version:
            if len(self._seen) > 20_000:
                self._seen.clear()
            result = read_object(raw)
            problems = result.problems
            known = (version, (None, problems[0]) if problems else (result.object, None))
            self._seen[uid] = known
        return known[1]

    def catalogue(self, objects: Objects) -> tuple[Catalogue, tuple[CatalogueProblem, ...]]:
        """Built-in facts with the cluster's objects over them; the same value while none of those changes.

        The sizer remembers its answers for one catalogue value: a new one for nothing would cost every answer.
        """
        raws = (objects.model_cards, objects.accelerator_classes, objects.energy_profiles)
        versions = sorted(
            (raw["metadata"]["uid"], raw["metadata"].get("generation", 0)) for kind in raws for raw in kind
        )
        if self._catalogue_of is None or self._catalogue_of[0] != versions:
            layers = [sorted(kind, key=_name) for kind in raws]
            self._catalogue_of = (versions, *overlay(load_builtin(), *layers))
        return self._catalogue_of[1], self._catalogue_of[2]


def build_world(
    objects: Objects,
    now: datetime,
    parser: Parser,
    observed: Mapping[WorkloadKey, Observation] = NOTHING_OBSERVED,
    limitable: Mapping[str, int] = NO_LIMITS,
) -> World:
    """One World from what the informers hold, the time (UTC), what telemetry said about the workloads, and `limitable`:
    how many boards of which nodes may be given power limits."""
    # 1. The catalogue: built in, then the cluster's own objects over it.
    catalogue, catalogue_problems = parser.catalogue(objects)
    # 2. Caps and pools.
    ground = parser.view(
        "ground", partial(_ground, parser), catalogue, objects.power_caps, objects.namespaces, objects.nodes
    )
    # 3. Workloads.
    today = now.date()
    workloads: dict[WorkloadKey, InferenceWorkload] = {}
    refusals: dict[WorkloadKey, Refusal] = {}
    requirements: dict[WorkloadKey, Requirements] = {}
    ending = {_name(raw) for raw in objects.namespaces if "deletionTimestamp" in raw["metadata"]}
    raw_workloads = {
        _key(raw): raw for raw in objects.workloads if not _goes_now(raw) and raw["metadata"]["namespace"] not in ending
    }
    pods = [it for raw in objects.pods if (it := parser.view(raw["metadata"]["uid"], replica_of, raw)) is not None]
    for key, raw in sorted(raw_workloads.items()):
        workload, problem = parser.read(raw)
        if problem is not None:
            refusals[key] = Refusal(reasons.INVALID_SPEC, problem.field, problem.message)
            continue
        workloads[key] = workload
        asked = "needs", workload.metadata.uid, today
        answer = parser.view(asked, partial(_needs, today), workload, catalogue, observed.get(key, _NOTHING))
        if isinstance(answer, Refusal):
            refusals[key] = answer
        else:
            requirements[key] = answer
    # 4. Inventory. Labels hold a shortened name where the workload's own is too long for one.
    names = {(key[0], labels.label_value(key[1])): key for key in raw_workloads}
    stock = NodeStock(
        objects.nodes,
        ground.node_pools,
        ground.node_classes,
        catalogue,
        pods,
        other_pods=objects.other_pods,
        limitable=limitable,
    )
    places = {key: workloads[key].spec.placement for key in requirements}
    inventory = stock.inventory({place.tolerations for place in places.values()})
    for key, place in places.items():
        reachable = stock.reachable((key[0], labels.label_value(key[1])), place.node_selector, place.tolerations)
        if reachable is not inventory:
            fields = [*(["nodeSelector"] if place.node_selector else []), *(["tolerations"] if stock.tainted else [])]
            limits = " and ".join(f"spec.placement.{name}" for name in fields)
            requirements[key] = replace(requirements[key], reachable=reachable, reach_limits=limits)
    # 5. Children.
    deployments = [parser.view(raw["metadata"]["uid"], _child, raw) for raw in sorted(objects.deployments, key=_name)]
    services = [parser.view(raw["metadata"]["uid"], _service, raw) for raw in objects.services]
    parser.next_look()
    return World(
        catalogue=catalogue,
        catalogue_problems=catalogue_problems,
        cap_tree=ground.cap_tree,
        timetables=ground.timetables,
        outlook=parser.outlook(ground, now),
        cap_objects=ground.cap_objects,
        cap_problems=ground.cap_problems,
        counted=ground.counted,
        pool_selectors=ground.pool_selectors,
        kept_out=ground.kept_out,
        node_pools=ground.node_pools,
        node_classes=ground.node_classes,
        places=ground.places,
        inventory=inventory,
        workloads=workloads,
        refusals=refusals,
        requirements=requirements,
        raw_workloads=raw_workloads,
        children=by_workload((names.get(ours[0], ours[0]), ours[1]) for ours in deployments if ours is not None),
        services={names.get(ours[0], ours[0]): ours[1] for ours in services if ours is not None},
        names=names,
        replicas=by_workload((names.get(pod.key, pod.key), pod) for pod in sorted(pods, key=lambda pod: pod.name)),
    )


def _ground(
    parser: Parser, catalogue: Catalogue, power_caps: Iterable[Raw], namespaces: Iterable[Raw], nodes: Iterable[Raw]
) -> Ground:
    cap_objects: dict[str, PowerCap] = {}
    cap_problems: dict[str, Problem] = {}
    for raw in sorted(power_caps, key=_name):
        cap, problem = parser.read(raw)
        if problem is None:
            cap_objects[_name(raw)] = cap
        else:
            cap_problems[_name(raw)] = problem
    labels_of = {_name(raw): raw["metadata"].get("labels", {}) for raw in namespaces}
    tree = build_cap_tree([cap_of(cap, labels_of) for cap in cap_objects.values()])
    pools = strongest_first(pool_caps(cap_objects.values()), tree)
    node_labels = {_name(node): node["metadata"].get("labels", {}) for node in nodes}
    matches = {name: pool_of_node(theirs, pools, tree) for name, theirs in node_labels.items()}
    node_pools = {name: match.pool or "" for name, match in matches.items()}
    classes = {name: class_of_node(theirs, catalogue) for name, theirs in node_labels.items()}
    node_classes = {name: class_ for name, class_ in classes.items() if class_ is not None}
    boards = {_name(node): devices_of(node) for node in nodes if _name(node) in node_classes}
    scopes = [(cap, cap_objects[cap.name].spec.scope) for cap in tree.caps]
    return Ground(
        cap_tree=replace(tree, problems=overlaps(matches)),
        timetables={
            name: timetable_of_spec(cap.spec, settle_seconds(cap.spec.levers)) for name, cap in cap_objects.items()
        },
        cap_objects=cap_objects,
        cap_problems=cap_problems,
        counted=counted_by(scopes, Nodes(node_labels, node_pools, boards), labels_of),
        pool_selectors=pools,
        kept_out=kept_out(pools, tree, matches.values()),
        node_pools=node_pools,
        node_classes=node_classes,
        places=frozenset((node_pools[name], class_) for name, class_ in node_classes.items()),
    )


def _needs(today: date, workload: InferenceWorkload, catalogue: Catalogue, seen: Observation) -> Requirements | Refusal:
    metadata = workload.metadata
    answer = requirements_of(
        metadata.namespace, metadata.name, metadata.uid, workload.spec, catalogue, seen.demand, today
    )
    return answer if isinstance(answer, Refusal) else replace(answer, corrections=seen.corrections)


def _goes_now(raw: Raw) -> bool:
    """Whether it is being deleted, and its children with it.

    A finalizer of somebody else may hold that up for hours: until it is gone the pods run on, and are Lowbeam's to dim.
    """
    finalizers = set(raw["metadata"].get("finalizers", ()))
    held_up = finalizers and not finalizers & _OF_THE_GARBAGE_COLLECTOR
    return "deletionTimestamp" in raw["metadata"] and not held_up


def _name(raw: Raw) -> str:
    name: str = raw["metadata"]["name"]
    return name


def _key(raw: Raw) -> WorkloadKey:
    return (raw["metadata"]["namespace"], raw["metadata"]["name"])


def _child(raw: Raw) -> tuple[WorkloadKey, Child] | None:
    return (_owner(raw), child_of(raw)) if _is_ours(raw) else None


def _service(raw: Raw) -> tuple[WorkloadKey, Raw] | None:
    return (_owner(raw), raw) if _is_ours(raw) else None


def _is_ours(raw: Raw) -> bool:
    """Whether an InferenceWorkload controls the object: labels alone can be copied."""
    return any(
        owner.get("kind") == "InferenceWorkload" and owner.get("controller")
        for owner in raw["metadata"].get("ownerReferences", ())
    )


def _owner(raw: Raw) -> WorkloadKey:
    return (raw["metadata"]["namespace"], raw["metadata"].get("labels", {}).get(labels.WORKLOAD, ""))
