"""An API server in memory behind the transport port, for property and state-machine tests.

It has what our code relies on: uids, resourceVersions, generation, a watch log with compaction and 410, streaming
lists, label selectors, server-side apply with ownership, the status split, uid and resourceVersion preconditions,
finalizers and owner garbage collection. It validates and schedules nothing: for that there is the real control plane.

    server = FakeTransport()
    server.put(PODS, pod)                       # what a user or another controller does
    server.fault = lambda request: ServerUnavailable(request, "down") if server_is_down else None
    server.cut_watches(); server.end_watches(); server.compact()
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from lowbeam.kube import (
    FIELD_MANAGER,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    KubeObject,
    ListPage,
    NotFound,
    Request,
    Resource,
    ServerUnavailable,
    WatchEvent,
    object_key,
)
from tests.fakes import fields

Key = tuple[Resource, str, str]


@dataclass(frozen=True, slots=True)
class Logged:
    """One change in the watch log."""

    version: int
    resource: Resource
    type: str
    before: KubeObject | None
    after: KubeObject


class FakeTransport:
    """See the module docstring; implements `lowbeam.kube.KubeTransport`."""

    def __init__(self, *, streaming_lists: bool = True) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.fault: Callable[[Request], Exception | None] = lambda _: None
        """Asked before every call, and for a watch also before each event; what it returns is raised."""
        self.after_write: Callable[[Request], Exception | None] = lambda _: None
        """Asked after a write took effect: raising here is a lost answer."""
        self.streaming_lists = streaming_lists
        self._store: dict[Key, KubeObject] = {}
        self._owned: dict[tuple[Key, str, str], set[fields.Path]] = {}
        self._log: list[Logged] = []
        self._version = 100
        self._compacted = 0
        self._uids = itertools.count(1)
        self._watch_era = 0
        self._watch_end: Callable[[Request], Exception] | None = None
        self._changed = asyncio.Event()

    # What a test or another actor does.

    def put(self, resource: Resource, obj: KubeObject) -> KubeObject:
        """Create the object, or replace its fields as a user with kubectl would; answers the stored object."""
        key = self._key(resource, obj)
        if key not in self._store:
            return self._insert(key, obj)
        live = self._store[key]
        metadata = {**live["metadata"], **obj.get("metadata", {})}
        return self._update(key, {**live, **obj, "metadata": metadata})

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete at once, finalizers or not, and what it owns."""
        self._delete((resource, namespace, name))

    def stored(self, resource: Resource) -> list[KubeObject]:
        """Copies of all objects of a kind, by namespace and name."""
        keys = sorted((key for key in self._store if key[0] == resource), key=lambda key: key[1:])
        return [copy.deepcopy(self._store[key]) for key in keys]

    def compact(self) -> None:
        """Forget all history: a new watch from any older version is Gone. Open watches still get what they missed."""
        self._compacted = self._version

    def cut_watches(self) -> None:
        """All watches break, as when a connection is reset."""
        self._end_watches(lambda request: ServerUnavailable(request, "connection reset"))

    def end_watches(self) -> None:
        """All watches end in good order, as at their time limit."""
        self._end_watches(None)

    # The port.

    async def list_pages(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> AsyncIterator[ListPage]:
        """Of field selectors `metadata.name=` is known."""
        self._ask("list", resource)
        items = [o for o in self.stored(resource) if _selected(o, namespace, label_selector)]
        name = field_selector.removeprefix("metadata.name=")
        items = [o for o in items if name in ("", o["metadata"]["name"])]
        version = str(self._version)
        for start in range(0, max(1, len(items)), limit):
            yield ListPage(tuple(items[start : start + limit]), version)
            await asyncio.sleep(0)

    async def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        resource_version: str = "",
        initial_events: bool = False,
        timeout_seconds: int = 300,
    ) -> AsyncIterator[WatchEvent]:
        request = self._ask("watch", resource)
        era = self._watch_era
        if initial_events:
            if not self.streaming_lists:
                raise Invalid(request, "sendInitialEvents is forbidden for watch", 422)
            seen = self._version
            for item in self.stored(resource):
                if _selected(item, namespace, label_selector):
                    yield WatchEvent("ADDED", item)
            yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": str(seen)}}, initial_end=True)
        else:
            seen = int(resource_version)
            if seen < self._compacted:
                raise Gone(request, f"too old resource version: {seen} ({self._compacted})", 410)
        while True:
            changed = self._changed
            for logged in [entry for entry in self._log if entry.version > seen and entry.resource == resource]:
                seen = logged.version
                self._check(request)
                if (event := _seen_by(logged, namespace, label_selector)) is not None:
                    yield event
                if era != self._watch_era:
                    break
            if era != self._watch_era:
                if self._watch_end is not None:
                    raise self._watch_end(request)
                return
            await changed.wait()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> KubeObject:
        request = self._ask("get", resource, name, namespace)
        await asyncio.sleep(0)
        return copy.deepcopy(self._find(request, (resource, namespace or "", name)))

    async def create(self, resource: Resource, body: KubeObject) -> KubeObject:
        request = self._ask("create", resource, body["metadata"]["name"], body["metadata"].get("namespace"))
        await asyncio.sleep(0)
        key = self._key(resource, body)
        if key in self._store:
            raise AlreadyExists(request, f'{resource.plural} "{key[2]}" already exists', 409)
        return self._answer(request, self._insert(key, body))

    async def apply(
        self, resource: Resource, body: KubeObject, *, field_manager: str = FIELD_MANAGER, force: bool = True
    ) -> KubeObject:
        return await self._apply(resource, body, field_manager, "", force=force)

    async def apply_status(
        self, resource: Resource, body: KubeObject, *, field_manager: str = FIELD_MANAGER
    ) -> KubeObject:
        return await self._apply(resource, body, field_manager, "status")

    async def delete(self, resource: Resource, name: str, namespace: str | None = None, *, uid: str) -> None:
        request = self._ask("delete", resource, name, namespace)
        await asyncio.sleep(0)
        key = (resource, namespace or "", name)
        live = self._find(request, key)
        if live["metadata"]["uid"] != uid:
            raise Conflict(request, f"the UID in the precondition ({uid}) does not match", 409)
        if live["metadata"].get("finalizers"):
            metadata = {**live["metadata"], "deletionTimestamp": "2026-11-21T09:00:00Z"}
            self._update(key, {**live, "metadata": metadata})
        else:
            self._delete(key)
        self._answer(request, {})

    # Inside.

    async def _apply(
        self, resource: Resource, body: KubeObject, manager: str, subresource: str, *, force: bool = True
    ) -> KubeObject:
        metadata = body["metadata"]
        request = self._ask("patch", resource, metadata["name"], metadata.get("namespace"), subresource)
        await asyncio.sleep(0)
        key = self._key(resource, body)
        live = self._store.get(key)
        if live is None and subresource:
            raise NotFound(request, f'{resource.plural} "{key[2]}" not found', 404)
        for name in ("uid", "resourceVersion"):
            if name in metadata and (live is None or live["metadata"][name] != metadata[name]):
                raise Conflict(request, f"precondition failed: {name} {metadata[name]}", 409)
        wanted = _applicable(body, subresource)
        before, after = self._owned.get((key, manager, subresource), set()), fields.paths_of(wanted) - {()}
        others = {
            p for (k, m, s), ps in self._owned.items() if k == key and (m, s) != (manager, subresource) for p in ps
        }
        if live is not None and not force:  # what nobody applied was set by somebody's update
            taken = {p for p in after - before if _value(live, p) is not None}
            if clash := sorted(p for p in taken if not _same(_value(live, p), _value(wanted, p))):
                raise Conflict(request, f"Apply failed with {len(clash)} conflicts: {'.'.join(clash[0])}", 409)
        result = copy.deepcopy(live) if live is not None else {"metadata": {}}
        for path in sorted(before - after - others, key=len):
            fields.remove(result, path)
        result = fields.merged(result, wanted)
        self._owned[(key, manager, subresource)] = after
        for (k, m, s), owned in self._owned.items():
            if k == key and (m, s) != (manager, subresource):
                owned -= {p for p in after if not _same(_value(live, p), _value(result, p))}
        if live is None:
            result["metadata"] |= {"name": key[2], **({"namespace": key[1]} if key[1] else {})}
            return self._answer(request, self._insert(key, result))
        return self._answer(request, self._update(key, result))

    def _insert(self, key: Key, obj: KubeObject) -> KubeObject:
        resource, namespace, name = key
        self._version += 1
        metadata = {
            **obj.get("metadata", {}),
            "name": name,
            "uid": f"uid-{next(self._uids)}",
            "resourceVersion": str(self._version),
            "creationTimestamp": "2026-11-21T09:00:00Z",
            "generation": 1,
        }
        if resource.namespaced:
            metadata["namespace"] = namespace
        stored = {**copy.deepcopy(obj), "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        self._store[key] = stored
        metadata["managedFields"] = self._managed_fields(key)
        self._note(Logged(self._version, resource, "ADDED", None, copy.deepcopy(stored)))
        return copy.deepcopy(stored)

    def _update(self, key: Key, obj: KubeObject) -> KubeObject:
        before = self._store[key]
        after = copy.deepcopy(obj)
        after["metadata"]["managedFields"] = self._managed_fields(key)
        if _same(after, before):
            return copy.deepcopy(before)
        self._version += 1
        if _specification(after) != _specification(before):
            after["metadata"]["generation"] = before["metadata"]["generation"] + 1
        after["metadata"]["resourceVersion"] = str(self._version)
        self._store[key] = after
        self._note(Logged(self._version, key[0], "MODIFIED", before, copy.deepcopy(after)))
        if "deletionTimestamp" in after["metadata"] and not after["metadata"].get("finalizers"):
            self._delete(key)
        return copy.deepcopy(after)

    def _delete(self, key: Key) -> None:
        self._version += 1
        gone = self._store.pop(key)
        for owner in [owner for owner in self._owned if owner[0] == key]:
            del self._owned[owner]
        last = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self._version)}}
        self._note(Logged(self._version, key[0], "DELETED", gone, last))
        for child, obj in list(self._store.items()):
            owners = obj["metadata"].get("ownerReferences", ())
            if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners) and child in self._store:
                self._delete(child)

    def _note(self, logged: Logged) -> None:
        self._log.append(logged)
        self._changed.set()
        self._changed = asyncio.Event()

    def _end_watches(self, end: Callable[[Request], Exception] | None) -> None:
        self._watch_era += 1
        self._watch_end = end
        self._changed.set()
        self._changed = asyncio.Event()

    def _managed_fields(self, key: Key) -> list[dict[str, Any]]:
        return [
            {"manager": manager, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": fields.fields_v1(paths)}
            | ({"subresource": subresource} if subresource else {})
            for (owner, manager, subresource), paths in sorted(self._owned.items(), key=lambda item: item[0][1:])
            if owner == key
        ]

    def _ask(
        self, verb: str, resource: Resource, name: str = "", namespace: str | None = None, subresource: str = ""
    ) -> Request:
        label = resource.label(subresource)
        self.calls[(verb, label)] += 1
        request = Request(verb, label, f"{namespace}/{name}" if namespace else name)
        self._check(request)
        return request

    def _check(self, request: Request) -> None:
        if (error := self.fault(request)) is not None:
            raise error

    def _answer(self, request: Request, obj: KubeObject) -> KubeObject:
        if (error := self.after_write(request)) is not None:
            raise error
        return obj

    def _find(self, request: Request, key: Key) -> KubeObject:
        if key not in self._store:
            raise NotFound(request, f'{key[0].plural} "{key[2]}" not found', 404)
        return self._store[key]

    @staticmethod
    def _key(resource: Resource, obj: KubeObject) -> Key:
        namespace, name = object_key(obj)
        return (resource, namespace if resource.namespaced else "", name)


def _applicable(body: KubeObject, subresource: str) -> KubeObject:
    """The part of an applied body that this endpoint writes."""
    if subresource:
        return {subresource: copy.deepcopy(body.get(subresource, {}))}
    kept = {k: copy.deepcopy(v) for k, v in body.items() if k not in ("apiVersion", "kind", "status", "metadata")}
    writable = ("labels", "annotations", "ownerReferences", "finalizers")
    metadata = {k: copy.deepcopy(v) for k, v in body["metadata"].items() if k in writable}
    return {**kept, **({"metadata": metadata} if metadata else {})}


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: True is not 1."""
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


def _specification(obj: KubeObject) -> KubeObject:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def _value(obj: Any, path: fields.Path) -> Any:
    """Whatever is at `path`, None where there is nothing."""
    for step in path:
        kind, _, name = step.partition(":")
        if kind == "f":
            obj = obj.get(name) if isinstance(obj, dict) else None
        else:
            obj = next((i for i in obj or () if fields.key_step(i, tuple(json.loads(name))) == step), None)
    return obj


def _selected(obj: KubeObject, namespace: str | None, selector: str) -> bool:
    if namespace and obj["metadata"].get("namespace") != namespace:
        return False
    labels = obj["metadata"].get("labels") or {}
    for term in filter(None, selector.split(",")):
        name, equals, value = term.partition("=")
        if name.startswith("!"):
            if name[1:] in labels:
                return False
        elif name not in labels or (equals and labels[name] != value):
            return False
    return True


def _seen_by(logged: Logged, namespace: str | None, selector: str) -> WatchEvent | None:
    """The event as a watcher with a selector gets it: an object that leaves the selection is DELETED to it."""
    before = logged.before is not None and _selected(logged.before, namespace, selector)
    after = logged.type != "DELETED" and _selected(logged.after, namespace, selector)
    if not before and not after:
        return None
    kind = "MODIFIED" if before and after else "ADDED" if after else "DELETED"
    return WatchEvent(kind, copy.deepcopy(logged.after))
