"""Field ownership of the fake API server: server-side apply for maps, keyed lists and atomic values.

A path is a tuple of FieldsV1 steps, e.g. ("f:spec", "f:containers", 'k:{"name":"worker"}', "f:image").
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

from lowbeam.kube.apply import KEY_DEFAULTS, LIST_MAP_KEYS

Path = tuple[str, ...]


def paths_of(value: Any, field: str = "", prefix: Path = ()) -> set[Path]:
    """Leaves of an applied value; items of keyed lists count themselves too."""
    if isinstance(value, dict) and value:
        return set().union(*(paths_of(child, key, (*prefix, f"f:{key}")) for key, child in value.items()))
    keys = map_keys(field, value)
    if keys and value:
        found: set[Path] = set()
        for item in value:
            step = (*prefix, key_step(item, keys))
            found |= {step} | paths_of(item, "", step)
        return found
    return {prefix}


def fields_v1(paths: Iterable[Path]) -> dict[str, Any]:
    """The tree that `managedFields` shows."""
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        if path and path[-1].startswith("k:"):
            node["."] = {}
    return tree


def merged(live: Any, applied: Any, field: str = "") -> Any:
    """`live` with `applied` over it."""
    if isinstance(live, dict) and isinstance(applied, dict):
        result = dict(live)
        for key, value in applied.items():
            if value is not None:
                result[key] = merged(live.get(key), value, key)
        return result
    keys = map_keys(field, applied)
    if keys and isinstance(live, list):
        items = {key_step(item, keys): item for item in live}
        ours = {key_step(item, keys): merged(items.get(key_step(item, keys)), item) for item in applied}
        in_our_order = iter(ours.values())
        return [*(next(in_our_order) if step in ours else item for step, item in items.items()), *in_our_order]
    return copy.deepcopy(applied)


def remove(value: Any, path: Path) -> None:
    """Take the field or list item at `path` out of `value`, and maps that become empty by it."""
    step, rest = path[0], path[1:]
    kind, _, name = step.partition(":")
    if kind == "k":
        wanted = json.loads(name)
        for item in [i for i in value if all(i.get(k, KEY_DEFAULTS.get(k)) == v for k, v in wanted.items())]:
            if rest:
                remove(item, rest)
            else:
                value.remove(item)
    elif isinstance(value, dict) and name in value:
        if rest:
            remove(value[name], rest)
        if not rest or value[name] in ({}, []):
            del value[name]


def map_keys(field: str, value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    for keys in LIST_MAP_KEYS.get(field, ()):
        if all(isinstance(item, dict) and all(k in item or k in KEY_DEFAULTS for k in keys) for item in value):
            return keys
    return None


def key_step(item: dict[str, Any], keys: tuple[str, ...]) -> str:
    return "k:" + json.dumps({k: item.get(k, KEY_DEFAULTS.get(k)) for k in keys}, separators=(",", ":"), sort_keys=True)
