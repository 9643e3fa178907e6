"""The mirror of one kind: whatever happens between server and operator, it ends up equal to the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lowbeam.kube import (
    NODES,
    PODS,
    Change,
    Forbidden,
    Informer,
    InformerState,
    KubeObject,
    NotFound,
    Request,
    Resource,
    ServerUnavailable,
    keep_fields_of,
    keep_only,
)
from tests.fakes.clock import VirtualClock, settle
from tests.fakes.transport import FakeTransport


def pod(name: str, namespace: str = "team-a", **labels: str) -> KubeObject:
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": {}}


class Watched:
    """An informer that runs, and what it reported."""

    def __init__(self, server: FakeTransport, clock: VirtualClock, resource: Resource = PODS, **options: Any) -> None:
        self.informer = Informer(
            server, resource, monotonic_ms=clock.monotonic_ms, sleep=clock.sleep, jitter=lambda: 0.5, **options
        )
        self.reported: list[tuple[Change, str]] = []
        self.informer.on_change(self._report)
        self.task = asyncio.create_task(self.informer.run())

    def _report(self, _: Resource, change: Change, old: KubeObject | None, new: KubeObject | None) -> None:
        obj = new or old
        assert obj is not None
        self.reported.append((change, obj["metadata"]["name"]))

    def state(self) -> str:
        return self.informer.state.value

    def names(self) -> set[str]:
        return {obj["metadata"]["name"] for obj in self.informer.objects()}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def server() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
async def watched(server: FakeTransport, clock: VirtualClock) -> AsyncIterator[Any]:
    running: list[Watched] = []

    def start(resource: Resource = PODS, **options: Any) -> Watched:
        running.append(Watched(server, clock, resource, **options))
        return running[-1]

    yield start
    for one in running:
        one.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await one.task


@pytest.fixture(params=["streaming", "paged"])
def any_server(request: pytest.FixtureRequest, server: FakeTransport) -> FakeTransport:
    server.streaming_lists = request.param == "streaming"
    return server


async def test_the_first_list_and_later_changes_arrive(any_server: FakeTransport, watched: Any) -> None:
    any_server.put(PODS, pod("a"))
    mirror = watched()
    await mirror.informer.wait_synced()
    assert mirror.names() == {"a"}
    any_server.put(PODS, pod("b"))
    any_server.put(PODS, {**pod("a"), "spec": {"nodeName": "n1"}})
    any_server.remove(PODS, "team-a", "a")
    await settle()
    assert mirror.names() == {"b"}
    assert mirror.reported == [
        (Change.ADDED, "a"),
        (Change.ADDED, "b"),
        (Change.MODIFIED, "a"),
        (Change.DELETED, "a"),
    ]
    uid = any_server.stored(PODS)[0]["metadata"]["uid"]
    assert mirror.informer.by_uid(uid) == mirror.informer.get("team-a", "b")


async def test_what_it_shows_is_one_value_until_something_changes(server: FakeTransport, watched: Any) -> None:
    server.put(PODS, pod("a"))
    mirror = watched()
    await mirror.informer.wait_synced()
    shown = [mirror.informer.objects()]
    assert mirror.informer.objects() is shown[0]
    for change in (
        lambda: server.put(PODS, {**pod("a"), "spec": {"nodeName": "n1"}}),
        lambda: server.put(PODS, pod("b")),
        lambda: server.remove(PODS, "team-a", "a"),
    ):
        change()
        await settle()
        shown.append(mirror.informer.objects())
    assert [sorted(obj["metadata"]["name"] for obj in objects) for objects in shown] == [
        ["a"],
        ["a"],
        ["a", "b"],
        ["b"],
    ]
    assert shown[0] != shown[1]


async def test_more_objects_than_one_page_holds_are_all_mirrored(server: FakeTransport, watched: Any) -> None:
    server.streaming_lists = False
    for number in range(1203):
        server.put(PODS, pod(f"p{number}"))
    mirror = watched()
    await mirror.informer.wait_synced()
    assert len(mirror.informer.objects()) == 1203


async def test_pods_deleted_while_the_watch_was_cut_and_history_was_compacted_leave_no_ghosts(
    any_server: FakeTransport, clock: VirtualClock, watched: Any
) -> None:
    for number in range(30):
        any_server.put(PODS, pod(f"p{number}"))
    mirror = watched()
    await mirror.informer.wait_synced()
    any_server.cut_watches()
    for number in range(20):
        any_server.remove(PODS, "team-a", f"p{number}")
    any_server.compact()
    await clock.advance(10)
    assert mirror.names() == {f"p{number}" for number in range(20, 30)}
    deleted = [name for change, name in mirror.reported if change is Change.DELETED]
    assert sorted(deleted) == sorted(f"p{number}" for number in range(20))


async def test_an_object_remade_under_its_name_is_deleted_and_added_never_modified(
    server: FakeTransport, clock: VirtualClock, watched: Any
) -> None:
    old = server.put(PODS, pod("a"))
    mirror = watched()
    await mirror.informer.wait_synced()
    server.cut_watches()
    server.remove(PODS, "team-a", "a")
    server.put(PODS, pod("a"))
    server.compact()
    await clock.advance(10)
    assert mirror.reported[1:] == [(Change.DELETED, "a"), (Change.ADDED, "a")]
    assert mirror.informer.by_uid(old["metadata"]["uid"]) is None


async def test_a_watch_that_ended_in_good_order_goes_on_where_it_was(server: FakeTransport, watched: Any) -> None:
    server.put(PODS, pod("a"))
    mirror = watched()
    await mirror.informer.wait_synced()
    asked: list[Request] = []
    server.streaming_lists = False  # a second list would have to be a paged one
    server.fault = asked.append
    server.end_watches()
    server.put(PODS, pod("b"))
    await settle()
    assert mirror.reported == [(Change.ADDED, "a"), (Change.ADDED, "b")]
    assert {request.verb for request in asked} == {"watch"}


async def test_after_a_cut_even_a_quiet_kind_is_known_to_be_true_within_seconds(
    server: FakeTransport, clock: VirtualClock, watched: Any
) -> None:
    server.put(PODS, pod("a"))
    mirror = watched()
    await mirror.informer.wait_synced()
    await clock.advance(50)
    server.cut_watches()
    await clock.advance(1)
    assert mirror.state() == "watching"
    assert mirror.informer.last_sync_age_ms() < 1000


async def test_a_reader_far_away_lists_in_pages_that_the_server_compresses(server: FakeTransport, watched: Any) -> None:
    server.put(PODS, pod("a"))
    mirror = watched(PODS, streaming_lists=False)
    await mirror.informer.wait_synced()
    await settle()
    assert (server.calls["list", "pods"], server.calls["watch", "pods"]) == (1, 1)
    server.put(PODS, pod("b"))
    await settle()
    assert mirror.names() == {"a", "b"}
    assert server.calls["list", "pods"] == 1


async def test_a_kind_without_permission_says_which_rule_is_missing_and_stops_no_other(
    server: FakeTransport, clock: VirtualClock, watched: Any
) -> None:
    server.fault = lambda request: Forbidden(request, "not allowed", 403) if request.resource == "nodes" else None
    server.put(PODS, pod("a"))
    server.put(NODES, {"metadata": {"name": "n1"}})
    pods, nodes = watched(PODS), watched(NODES)
    await pods.informer.wait_synced()
    await settle()
    assert nodes.informer.state is InformerState.FORBIDDEN
    assert not nodes.informer.synced
    assert 'add verb "watch" on "nodes"' in nodes.informer.message
    server.fault = lambda _: None
    await clock.advance(15)
    assert nodes.names() == {"n1"}
    assert (nodes.informer.state, nodes.informer.message) == (InformerState.WATCHING, "")


async def test_a_kind_that_is_not_installed_is_told_apart_and_found_later(
    server: FakeTransport, clock: VirtualClock, watched: Any
) -> None:
    server.fault = lambda request: NotFound(request, "the server could not find the requested resource", 404)
    mirror = watched()
    await settle()
    assert mirror.informer.state is InformerState.MISSING_KIND
    assert "install the CRDs" in mirror.informer.message
    server.fault = lambda _: None
    await clock.advance(15)
    assert mirror.informer.synced


async def test_a_minute_without_api_server_ends_by_itself_and_the_age_shows_it(
    server: FakeTransport, clock: VirtualClock, watched: Any
) -> None:
    server.put(PODS, pod("a"))
    server.put(PODS, pod("b"))
    mirror = watched()
    await mirror.informer.wait_synced()
    server.fault = lambda request: ServerUnavailable(request, "connection refused")
    server.cut_watches()
    server.remove(PODS, "team-a", "b")
    await clock.advance(60)
    assert mirror.state() == "unreachable"
    assert mirror.names() == {"a", "b"}, "the last known objects stay"
    assert mirror.informer.last_sync_age_ms() == 60_000
    server.fault = lambda _: None
    await clock.advance(5)
    assert mirror.names() == {"a"}
    assert mirror.state() == "watching"
    age_ms = mirror.informer.last_sync_age_ms()
    assert age_ms is not None
    assert age_ms <= 5_000


async def test_a_refused_resume_lists_again_even_when_the_server_does_not_say_gone(
    server: FakeTransport, clock: VirtualClock, watched: Any
) -> None:
    """A restored etcd answers "too large resource version" with 504."""
    server.put(PODS, pod("a"))
    mirror = watched()
    await mirror.informer.wait_synced()
    asked: list[Request] = []

    def too_large(request: Request) -> Exception | None:
        asked.append(request)
        return ServerUnavailable(request, "Too large resource version", 504) if len(asked) == 1 else None

    server.fault = too_large
    server.end_watches()
    server.remove(PODS, "team-a", "a")
    server.compact()
    await clock.advance(5)
    assert mirror.names() == set()


async def test_history_that_went_back_without_any_sign_is_found_by_the_regular_list(
    server: FakeTransport, clock: VirtualClock, watched: Any
) -> None:
    server.put(PODS, pod("a"))
    mirror = watched()
    await mirror.informer.wait_synced()
    del server._store[(PODS, "team-a", "a")]  # a restored etcd: the object never was, and no event says so
    await clock.advance(15 * 60)
    server.end_watches()
    await settle()
    assert mirror.names() == set()
    assert mirror.reported[-1] == (Change.DELETED, "a")


async def test_a_failing_callback_and_a_nonsense_event_do_not_end_the_mirror(
    server: FakeTransport, clock: VirtualClock, watched: Any
) -> None:
    mirror = watched()
    await mirror.informer.wait_synced()
    failing = [RuntimeError("callback bug")]
    mirror.informer.on_change(lambda *_: (_ for _ in ()).throw(failing[0]))
    server.fault = lambda _: ValueError("an event of unknown form")
    server.put(PODS, pod("a"))
    await settle()
    server.fault = lambda _: None
    await clock.advance(5)
    assert mirror.names() == {"a"}


async def test_an_object_that_leaves_the_selection_is_gone_from_the_mirror(server: FakeTransport, watched: Any) -> None:
    server.put(PODS, pod("a", app="worker"))
    server.put(PODS, pod("other", app="web"))
    mirror = watched(label_selector="app=worker")
    await mirror.informer.wait_synced()
    assert mirror.names() == {"a"}
    server.put(PODS, pod("a", app="web"))
    await settle()
    assert mirror.names() == set()


@pytest.mark.parametrize("streaming", [True, False])
async def test_objects_that_nobody_wants_are_not_held_and_leave_when_they_change(
    server: FakeTransport, watched: Any, streaming: bool
) -> None:
    server.streaming_lists = streaming
    server.put(PODS, pod("a", app="worker"))
    server.put(PODS, pod("other", app="web"))
    mirror = watched(wanted=lambda obj: obj["metadata"]["labels"].get("app") == "worker")
    await mirror.informer.wait_synced()
    assert mirror.names() == {"a"}
    server.put(PODS, pod("late", app="web"))
    server.put(PODS, pod("a", app="web"))
    await settle()
    assert mirror.names() == set()
    server.put(PODS, pod("late", app="worker"))
    server.remove(PODS, "team-a", "other")
    await settle()
    assert mirror.names() == {"late"}


async def test_cancelling_ends_the_mirror_at_once(server: FakeTransport, watched: Any) -> None:
    mirror = watched()
    await mirror.informer.wait_synced()
    mirror.task.cancel()
    await settle()
    assert mirror.task.cancelled()


async def test_before_the_first_list_nothing_is_claimed(server: FakeTransport, watched: Any) -> None:
    server.fault = lambda request: ServerUnavailable(request, "down")
    mirror = watched()
    await settle()
    assert not mirror.informer.synced
    assert mirror.informer.last_sync_age_ms() is None


def test_trimming_keeps_our_own_bookkeeping_only() -> None:
    entries = [{"manager": "lowbeam", "operation": "Apply"}, {"manager": "kubectl"}]
    obj: KubeObject = {"metadata": {"name": "a", "managedFields": entries}}
    assert keep_fields_of("lowbeam")(obj)["metadata"]["managedFields"] == entries[:1]


def test_keeping_only_some_paths_drops_the_rest_and_tolerates_what_is_not_there() -> None:
    node: KubeObject = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"a": "b"}, "managedFields": [{}]},
        "spec": {"podCIDR": "10.0.0.0/24"},
        "status": {"allocatable": {"cpu": "4"}, "images": [1, 2, 3]},
    }
    kept = keep_only("status.allocatable", "spec.unschedulable", "status.nodeInfo.kubeletVersion")(node)
    assert kept == {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"a": "b"}},
        "status": {"allocatable": {"cpu": "4"}},
    }


async def test_streams_that_are_closed_at_once_are_not_asked_for_without_a_pause(
    server: FakeTransport, clock: VirtualClock, watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(PODS, pod("a"))
    mirror = watched()
    await mirror.informer.wait_synced()
    asked_at_ms: list[int] = []

    async def closed_at_once(*_: object, **__: object) -> AsyncIterator[Any]:
        asked_at_ms.append(clock.monotonic_ms())
        await asyncio.sleep(0)
        for event in ():
            yield event

    with monkeypatch.context() as proxy:
        proxy.setattr(server, "watch", closed_at_once)
        server.end_watches()
        await clock.advance(60)
    assert mirror.informer.synced
    assert len(set(asked_at_ms)) > 10, "it goes on"
    assert len(asked_at_ms) < 2 * len(set(asked_at_ms)), "and rests in between"
    server.put(PODS, pod("b"))
    await clock.advance(5)
    assert mirror.names() == {"a", "b"}
