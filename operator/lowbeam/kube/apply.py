"""Writes that happen only when something differs: server-side apply, status, and delete.

Decides whether a write is needed (`differs`). Never decides what is desired.

What server-side apply removes: a field (or list-map item) that Lowbeam applied before and that is not in the new body
goes, unless another manager owns it too; what others own stays. So a body must always be the *whole* of what Lowbeam
wants of that object; leaving a field out gives it up. There is no pruning of objects: delete is explicit, with the uid.

Invariants
- In steady state nothing is written: `differs` is False for the object that the server made of our last apply.
- `differs` may say True once too often (one idempotent write), never False while a wanted field differs or a field
  that we own is no longer wanted.
- Nothing is deleted or overwritten under a name that meanwhile belongs to another object, where the caller knows a uid;
  where it knows none, nothing that others set is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from kubernetes.utils.quantity import parse_quantity

from lowbeam.kube.errors import Conflict, NotFound, NotOurs
from lowbeam.kube.resources import Resource
from lowbeam.kube.transport import FIELD_MANAGER, KubeObject, KubeTransport

LIST_MAP_KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "conditions": (("type",),),
    "containers": (("name",),),
    "initContainers": (("name",),),
    "env": (("name",),),
    "ports": (("containerPort", "protocol"), ("port", "protocol"), ("number",)),
    "volumes": (("name",),),
    "volumeMounts": (("mountPath",),),
    "volumeDevices": (("devicePath",),),
    "imagePullSecrets": (("name",),),
    "ownerReferences": (("uid",),),
    "topologySpreadConstraints": (("topologyKey", "whenUnsatisfiable"),),
    "hostAliases": (("ip",),),
    "schedulingGates": (("name",),),
    "resourceClaims": (("name",),),
    "claims": (("name",),),
}
"""Lists that server-side apply merges by key (`x-kubernetes-list-map-keys`); all others are replaced as a whole."""

ORDERED_LISTS = frozenset({"env", "initContainers"})
"""Those of them whose order means something: a variable may only refer to earlier ones. The server takes over ours."""

KEY_DEFAULTS = {"protocol": "TCP"}
QUANTITY_MAPS = frozenset({"limits", "requests", "capacity", "allocatable", "hard"})
QUANTITY_FIELDS = frozenset({"sizeLimit", "divisor"})

_Owned = dict[str, Any] | None
"""A node of FieldsV1; None: not ours."""
_UNKNOWN: dict[str, Any] = {}
"""No bookkeeping to read: as if we owned everything, so that a dropped zero value is not written for ever."""
_ABSENT: Any = object()
_ZERO_VALUES: tuple[Any, ...] = (0, "", False, {}, [], ())
_SERVER_OWNED = frozenset({"apiVersion", "kind", "status"})
_WRITABLE_METADATA = ("labels", "annotations", "ownerReferences", "finalizers")


class Applier:
    """Writes of one field manager through one transport."""

    def __init__(self, transport: KubeTransport, field_manager: str = FIELD_MANAGER) -> None:
        self._transport = transport
        self._field_manager = field_manager

    async def apply(self, resource: Resource, desired: KubeObject, live: KubeObject | None) -> KubeObject | None:
        """Make the object so; the new live object, or None when nothing had to be written.

        `live` is the informer's object (None: none of ours there). Where it exists, its uid goes along: an object that
        was deleted meanwhile is not brought back by an update of it. Raises KubeError, NotOurs among them.
        """
        if live is None:
            try:
                return await self._transport.apply(resource, desired, field_manager=self._field_manager, force=False)
            except Conflict as error:
                raise NotOurs(error.request, error.detail, error.status) from error
        if not differs(desired, live, self._field_manager):
            return None
        desired = {**desired, "metadata": {**desired["metadata"], "uid": live["metadata"]["uid"]}}
        return await self._transport.apply(resource, desired, field_manager=self._field_manager)

    async def apply_status(self, resource: Resource, live: KubeObject, status: Mapping[str, Any]) -> KubeObject | None:
        """Make the object's status so; None when nothing had to be written, or the object is gone. Raises KubeError."""
        wanted = {"metadata": {}, "status": dict(status)}
        if not differs(wanted, live, self._field_manager, subresource="status"):
            return None
        metadata = {key: live["metadata"][key] for key in ("name", "namespace", "uid") if key in live["metadata"]}
        try:
            return await self._transport.apply_status(
                resource, {"metadata": metadata, "status": dict(status)}, field_manager=self._field_manager
            )
        except NotFound:
            return None

    async def scale(self, resource: Resource, live: KubeObject, replicas: int) -> bool:
        """Give this very object so many replicas and leave the rest of what we applied as it is; False when it is gone.

        Under a name of its own among the field managers: an apply without the rest would give the rest up.
        """
        metadata = {key: live["metadata"][key] for key in ("name", "namespace", "uid")}
        body = {"metadata": metadata, "spec": {"replicas": replicas}}
        try:
            await self._transport.apply(resource, body, field_manager=f"{self._field_manager}-scale")
        except (NotFound, Conflict):
            return False
        return True

    async def delete(self, resource: Resource, live: KubeObject) -> bool:
        """Delete this very object; False when it is gone already, or the name belongs to another object by now."""
        metadata = live["metadata"]
        try:
            await self._transport.delete(resource, metadata["name"], metadata.get("namespace"), uid=metadata["uid"])
        except (NotFound, Conflict):
            return False
        return True


def differs(
    desired: Mapping[str, Any],
    live: Mapping[str, Any],
    field_manager: str = FIELD_MANAGER,
    *,
    subresource: str = "",
) -> bool:
    """Whether applying `desired` would change `live`.

    Compares what we want with what is there, and what we own (live `managedFields`) with what we want. Without
    `managedFields` in `live` only the first half is possible: fields given up are then not noticed.
    """
    owned = _owned_fields(live, field_manager, subresource)
    wanted, there = _body(desired, subresource), _body(live, subresource)
    # Nearly every status is what we wrote, and equality is found far sooner than that everything is covered.
    return not (_is_same(wanted, there) or _covers(wanted, there, owned, "")) or _gives_up(owned, wanted, "")


def _is_same(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Equality as JSON has it: to Python alone, a number and a truth are equal."""
    if wanted != there:
        return False
    return orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS) == orjson.dumps(there, option=orjson.OPT_SORT_KEYS)


def subset_equal(desired: Any, live: Any) -> bool:
    """Whether everything in `desired` is in `live`, by Kubernetes' rules for list maps, quantities and empty values."""
    return _covers(desired, live, _UNKNOWN, "")


def _body(obj: Mapping[str, Any], subresource: str) -> dict[str, Any]:
    if subresource:
        return {subresource: obj.get(subresource) or {}}
    metadata = obj.get("metadata") or {}
    body = {key: value for key, value in obj.items() if key not in _SERVER_OWNED}
    body["metadata"] = {key: metadata[key] for key in _WRITABLE_METADATA if key in metadata}
    return body


def _owned_fields(live: Mapping[str, Any], field_manager: str, subresource: str) -> _Owned:
    """FieldsV1 of our Apply entry, None when we never applied, `_UNKNOWN` when `live` carries no bookkeeping."""
    entries = (live.get("metadata") or {}).get("managedFields")
    if entries is None:
        return _UNKNOWN
    for entry in entries:
        who = (entry.get("manager"), entry.get("operation"), entry.get("subresource", ""))
        if who == (field_manager, "Apply", subresource):
            fields: dict[str, Any] | None = entry.get("fieldsV1")
            return fields
    return None


def _child(owned: _Owned, step: str) -> _Owned:
    """Ownership one step down. A leaf of FieldsV1 (`{}`) owns everything below it."""
    if not owned:
        return owned
    child: dict[str, Any] | None = owned.get(step)
    return child


def _covers(desired: Any, live: Any, owned: _Owned, field: str) -> bool:
    """Whether `live` has everything of `desired`. `field` is the name that decides how lists and strings compare."""
    if desired is None:
        return True
    if live is _ABSENT or live is None:
        # The server drops zero values of Go types on the way out; when we own the field it has seen ours.
        return desired in _ZERO_VALUES and owned is not None
    if isinstance(desired, Mapping):
        return isinstance(live, Mapping) and all(
            _covers(value, live.get(key, _ABSENT), _child(owned, f"f:{key}"), field if field in QUANTITY_MAPS else key)
            for key, value in desired.items()
        )
    if isinstance(desired, list | tuple):
        return isinstance(live, list) and _covers_list(desired, live, owned, field)
    return _same_scalar(desired, live, field)


def _covers_list(desired: Sequence[Any], live: Sequence[Any], owned: _Owned, field: str) -> bool:
    keys = _map_keys(field, [*desired, *live])
    if keys is None:
        return len(desired) == len(live) and all(
            _covers(want, have, _child(owned, ""), "") for want, have in zip(desired, live, strict=True)
        )
    by_key = {_key_of(item, keys): item for item in live}
    if field in ORDERED_LISTS:
        wanted = [_key_of(item, keys) for item in desired]
        if [key for key in by_key if key in wanted] != wanted:
            return False
    return all(
        (key := _key_of(item, keys)) in by_key and _covers(item, by_key[key], _child(owned, _key_step(keys, key)), "")
        for item in desired
    )


def _map_keys(field: str, items: Iterable[Any]) -> tuple[str, ...] | None:
    """The keys by which the items of the list `field` are told apart; None for a list that is replaced as a whole."""
    items = list(items)
    for keys in LIST_MAP_KEYS.get(field, ()):
        if all(isinstance(item, Mapping) and all(k in item or k in KEY_DEFAULTS for k in keys) for item in items):
            return keys
    return None


def _key_of(item: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(item.get(key, KEY_DEFAULTS.get(key)) for key in keys)


def _key_step(keys: tuple[str, ...], key: tuple[Any, ...]) -> str:
    return "k:" + json.dumps(dict(zip(keys, key, strict=True)), separators=(",", ":"), sort_keys=True)


def _gives_up(owned: _Owned, wanted: Any, field: str) -> bool:
    """Whether we own something below here that is no longer wanted, so that an apply would remove it."""
    if not owned:
        return False
    for step, below in owned.items():
        kind, _, name = step.partition(":")
        if kind == "f":
            if not isinstance(wanted, Mapping) or name not in wanted or _gives_up(below, wanted[name], name):
                return True
        elif kind == "k":
            keys = json.loads(name)
            items = [item for item in wanted or () if _key_of(item, tuple(keys)) == tuple(keys.values())]
            if not items or _gives_up(below, items[0], ""):
                return True
        elif kind == "v" and json.loads(name) not in (wanted or ()):
            return True
    return False


def _same_scalar(desired: Any, live: Any, field: str) -> bool:
    if isinstance(desired, bool) or isinstance(live, bool):
        return desired is live
    if desired == live:
        return True
    if field not in QUANTITY_MAPS and field not in QUANTITY_FIELDS:
        return False
    try:
        return bool(parse_quantity(desired) == parse_quantity(live))
    except ValueError:
        return False
