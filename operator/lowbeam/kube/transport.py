"""The port to the API server: seven calls, dicts in and dicts out.

Decides what a caller may ask of Kubernetes and how it is spelled. Never interprets an object. Whoever implements it
(`AioTransport` over HTTP, a fake in tests) raises only `KubeError`s, and counts each call it was asked for in `calls`.

Invariants
- Objects that come back always carry `apiVersion` and `kind`, also as items of a list.
- `apply` and `apply_status` are server-side apply; with `metadata.uid` in the body they never create an object and
  never touch one that took the name of a deleted one; with `metadata.resourceVersion` they are a compare-and-swap.
- Nothing deletes without a uid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from lowbeam.kube.resources import Resource

FIELD_MANAGER = "lowbeam"
PAGE_SIZE = 500

KubeObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a list; `resource_version` is that of the whole list, where a watch may begin."""

    items: tuple[KubeObject, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """`type` is ADDED, MODIFIED, DELETED or BOOKMARK. `initial_end`: the bookmark that ends the initial events."""

    type: str
    object: KubeObject
    initial_end: bool = False


class KubeTransport(Protocol):
    """What the rest of Lowbeam may ask of an API server."""

    calls: Counter[tuple[str, str]]
    """(verb, plural[/subresource]) as RBAC spells them -> how often. Retries count once."""

    def list_pages(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE_SIZE,
    ) -> AsyncIterator[ListPage]:
        """Most recent state, page by page. Raises Gone when the pages outlive the server's history: start again."""

    def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        resource_version: str = "",
        initial_events: bool = False,
        timeout_seconds: int = 300,
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `resource_version`, until the server ends the watch.

        With `initial_events` (then without a version): first the whole state as ADDED, then the `initial_end` bookmark;
        raises Invalid where the server does not know this. Raises Gone when the version was compacted.
        """

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> KubeObject:
        """One object. Raises NotFound."""

    async def create(self, resource: Resource, body: KubeObject) -> KubeObject:
        """A new object. Raises AlreadyExists."""

    async def apply(
        self, resource: Resource, body: KubeObject, *, field_manager: str = FIELD_MANAGER, force: bool = True
    ) -> KubeObject:
        """Server-side apply; answers the live object. Raises Conflict on a uid or resourceVersion mismatch, and without
        `force` where another manager wants another value of a field."""

    async def apply_status(
        self, resource: Resource, body: KubeObject, *, field_manager: str = FIELD_MANAGER
    ) -> KubeObject:
        """Server-side apply of `status`. Raises NotFound when the object is gone, never creates it."""

    async def delete(self, resource: Resource, name: str, namespace: str | None = None, *, uid: str) -> None:
        """Delete this very object, children in the background.

        Raises NotFound when it is gone (perhaps by an earlier attempt of this call, whose answer was lost), and
        Conflict when the name belongs to another object now.
        """


WRITE_VERBS = frozenset({"create", "patch", "delete"})


def count_writes(calls: Counter[tuple[str, str]]) -> int:
    """Writes in a call counter, leases and events left out: zero while nothing changes."""
    ignored = {"leases", "events"}
    return sum(count for (verb, label), count in calls.items() if verb in WRITE_VERBS and label not in ignored)
