"""Operators of several namespaces: one leads, whatever they meet, and the others say why they wait."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest
import structlog

from lowbeam.kube import LEASES, Forbidden, KubeError, KubeObject, LeaderElector, Request, ServerUnavailable
from lowbeam.kube.rivals import Sighting, Step, alive, decide, sight, waiting_message
from tests.fakes.clock import VirtualClock
from tests.fakes.transport import FakeTransport

NAME = "lowbeam-operator"


def lease(namespace: str, version: str, holder: str = "pod") -> KubeObject:
    return {
        "metadata": {"name": NAME, "namespace": namespace, "resourceVersion": version},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15},
    }


class TestWhatIsAlive:
    def test_a_lease_is_alive_while_its_record_changes_whatever_its_clock_says(self) -> None:
        seen: dict[str, Sighting] = {}
        for number in range(5):
            seen = sight(seen, [lease("other", str(number))], namespace="own", now_ms=number * 10_000)
        assert list(alive(seen, 54_999)) == ["other"]
        assert alive(seen, 55_000) == {}

    def test_a_dead_lease_that_is_left_behind_stays_dead_until_it_changes(self) -> None:
        seen = sight({}, [lease("other", "1")], namespace="own", now_ms=0)
        seen = sight(seen, [lease("other", "1")], namespace="own", now_ms=20_000)
        assert alive(seen, 20_000) == {}
        seen = sight(seen, [lease("other", "2")], namespace="own", now_ms=30_000)
        assert list(alive(seen, 30_000)) == ["other"]

    @pytest.mark.parametrize("then", [[], [lease("other", "2", holder="")]], ids=["deleted", "given-back"])
    def test_a_lease_that_goes_counts_for_its_duration_for_its_holder_may_come_back(
        self, then: list[KubeObject]
    ) -> None:
        seen = sight({}, [lease("other", "1")], namespace="own", now_ms=0)
        seen = sight(seen, then, namespace="own", now_ms=2_000)
        assert list(alive(seen, 14_999)) == ["other"]
        assert alive(seen, 15_000) == {}

    def test_what_nobody_holds_and_our_own_are_no_rivals(self) -> None:
        assert sight({}, [lease("left", "1", holder=""), lease("own", "2")], namespace="own", now_ms=0) == {}

    def test_a_list_that_was_slow_says_nothing_about_the_time_it_took(self) -> None:
        """The answer may show the state of its beginning: a renewal since then is not in it."""
        seen = sight({}, [lease("other", "1")], namespace="own", now_ms=0)
        asked_ms, answered_ms = 9_000, 18_000
        seen = sight(seen, [lease("other", "1")], namespace="own", now_ms=answered_ms)
        assert list(alive(seen, asked_ms)) == ["other"]


@pytest.mark.parametrize(
    ("own", "others", "holds", "step"),
    [
        ("b", [], False, Step.LEAD),
        ("b", [], True, Step.LEAD),
        ("a", ["b"], False, Step.STAND_BACK),
        ("b", ["a"], False, Step.STAND_BACK),
        ("a", ["b", "c"], True, Step.KEEP),
        ("b", ["a"], True, Step.STAND_BACK),
        ("b", ["a", "c"], True, Step.STAND_BACK),
    ],
)
def test_who_is_there_already_leads_and_of_two_candidates_the_smaller_namespace_keeps_its_place(
    own: str, others: list[str], holds: bool, step: Step
) -> None:
    assert decide(own, {place: Sighting("pod", "1", 0) for place in others}, holds=holds) is step


def test_the_message_names_both_namespaces_and_what_to_do() -> None:
    said = waiting_message("team-a", NAME, {"lowbeam-system": Sighting("lowbeam-7", "1", 0)})
    assert said == (
        'lease lowbeam-system/lowbeam-operator: held by "lowbeam-7", an operator in another namespace. One operator '
        "plans for the whole cluster: this one, in namespace team-a, waits and writes nothing. Uninstall one of the "
        "two; if no operator runs in lowbeam-system, delete that Lease"
    )


class SlowNetwork:
    """The server behind a network that takes its time in both directions, or is cut."""

    def __init__(self, server: FakeTransport, clock: VirtualClock, dice: random.Random, seconds: float) -> None:
        self._server, self._clock, self._dice, self.seconds = server, clock, dice, seconds
        self.cut = False

    async def _way(self) -> None:
        await self._clock.sleep(self._dice.choice((0, 0.1, 1)) * self._dice.random() * self.seconds)
        if self.cut:
            raise ServerUnavailable(None, "cut")  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        async def through(*args: Any, **options: Any) -> Any:
            await self._way()
            answer = await getattr(self._server, name)(*args, **options)
            await self._way()
            return answer

        return through

    async def list_pages(self, *args: Any, **options: Any) -> Any:
        await self._way()
        pages = [page async for page in self._server.list_pages(*args, **options)]
        await self._way()
        for page in pages:
            yield page


class Process:
    """One operator's elector."""

    def __init__(
        self, server: FakeTransport, clock: VirtualClock, namespace: str, *, dice: random.Random, seconds: float = 0
    ) -> None:
        self.network: Any = SlowNetwork(server, clock, dice, seconds)
        self.elector = LeaderElector(
            self.network,
            namespace=namespace,
            name=NAME,
            identity=f"pod-{dice.randrange(10**9)}",
            monotonic_ms=clock.monotonic_ms,
            now=clock.now,
            sleep=clock.sleep,
            jitter=dice.random,
        )
        self.namespace = namespace
        self._clock = clock
        self.task = asyncio.create_task(self.elector.run())

    async def stop(self) -> None:
        """In good order; takes a moment on the clock."""
        self.task.cancel()
        await self._clock.advance(3 * self.network.seconds + 0.1)
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def kill(self) -> None:
        """No last word."""
        self.network.cut = True
        await self.stop()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def server() -> FakeTransport:
    return FakeTransport()


DICE = random.Random(1)


def no_list(request: Request) -> KubeError | None:
    """What a server says to who may not list."""
    return Forbidden(request, "no", 403) if request.verb == "list" else None


def leaders(*processes: Process) -> list[str]:
    return [process.namespace for process in processes if process.elector.is_leader]


async def test_the_second_operator_waits_without_a_lease_of_its_own_and_leads_when_the_first_has_gone(
    server: FakeTransport, clock: VirtualClock
) -> None:
    first = Process(server, clock, "system", dice=DICE)
    await clock.advance(3)
    second = Process(server, clock, "a-team", dice=DICE)
    with structlog.testing.capture_logs() as logs:
        for _ in range(60):
            await clock.advance(1)
            assert leaders(first, second) == ["system"]
    assert [row["event"] for row in logs if row["log_level"] == "warning"] == [
        "another operator in this cluster: uninstall one of the two"
    ]
    assert "lease system/lowbeam-operator" in second.elector.message
    assert "in namespace a-team, waits" in second.elector.message
    assert list(second.elector.rivals) == ["system"]
    assert [obj["metadata"]["namespace"] for obj in server.stored(LEASES)] == ["system"]

    await first.kill()
    await clock.advance(10)
    assert leaders(second) == [], "the first one's time is not over"
    await clock.advance(10)
    assert leaders(second) == ["a-team"]
    assert second.elector.message == ""
    assert not second.elector.rivals
    await second.stop()


async def test_a_restart_in_good_order_hands_nothing_to_the_other_namespace(
    server: FakeTransport, clock: VirtualClock
) -> None:
    first = Process(server, clock, "system", dice=DICE)
    await clock.advance(3)
    other = Process(server, clock, "a-team", dice=DICE)
    await clock.advance(10)
    await first.stop()
    await clock.advance(8)
    again = Process(server, clock, "system", dice=DICE)
    await clock.advance(60)
    assert leaders(again, other) == ["system"]
    await again.stop()
    await other.stop()


async def test_of_two_that_start_at_the_same_moment_one_leads(server: FakeTransport, clock: VirtualClock) -> None:
    both = Process(server, clock, "b", dice=DICE), Process(server, clock, "a", dice=DICE)
    for _ in range(60):
        await clock.advance(0.5)
        assert len(leaders(*both)) <= 1
    assert leaders(*both) == ["a"]
    for process in both:
        await process.stop()


async def test_a_late_answer_does_not_make_a_lease_older(server: FakeTransport, clock: VirtualClock) -> None:
    """What was read 9 s ago tells nothing about a renewal since."""

    class LateLists(SlowNetwork):
        async def list_pages(self, *args: Any, **options: Any) -> Any:
            async for page in super().list_pages(*args, **options):
                await clock.sleep(9)
                yield page

    server.put(LEASES, {**lease("other", ""), "metadata": {"name": NAME, "namespace": "other"}})
    process = Process(server, clock, "system", dice=DICE)
    process.elector._transport = LateLists(server, clock, DICE, 0)
    await clock.advance(32.5)  # seen at 9 s, asked for again at 11 s and 22 s, answered at 20 s and 31 s
    assert "lease other/lowbeam-operator" in process.elector.message
    assert [obj["metadata"]["namespace"] for obj in server.stored(LEASES)] == ["other"]
    await clock.advance(12)
    assert [obj["metadata"]["namespace"] for obj in server.stored(LEASES)] == ["other", "system"]
    process.task.cancel()
    await clock.advance(30)


async def test_a_leader_names_one_that_does_not_look_for_others(server: FakeTransport, clock: VirtualClock) -> None:
    process = Process(server, clock, "system", dice=DICE)
    await clock.advance(3)
    for number in range(50):
        server.put(
            LEASES, {**lease("older", "", holder=f"pod-{number}"), "metadata": {"name": NAME, "namespace": "older"}}
        )
        await clock.advance(1)
        assert process.elector.is_leader
    assert list(process.elector.rivals) == ["older"]
    assert process.elector.message == ""
    await process.stop()


async def test_without_the_right_to_look_it_leads_after_a_while_and_says_so_once(
    server: FakeTransport, clock: VirtualClock
) -> None:
    server.put(LEASES, {**lease("other", ""), "metadata": {"name": NAME, "namespace": "other"}})
    server.fault = no_list
    with structlog.testing.capture_logs() as logs:
        process = Process(server, clock, "system", dice=DICE)
        await clock.advance(10)
        assert not process.elector.is_leader
        assert 'add verb "list" on "leases"' in process.elector.message
        await clock.advance(90)
    assert process.elector.is_leader
    assert process.elector.message == ""
    warnings = [row for row in logs if row["log_level"] == "warning"]
    assert [row["event"] for row in warnings] == [
        "the lease cannot be renewed",
        "operators of other namespaces are not seen: two would lead",
    ]
    assert all('add verb "list" on "leases"' in row["error"] for row in warnings)
    await process.stop()


async def test_two_that_led_blindly_find_out_who_leads_when_they_may_look(
    server: FakeTransport, clock: VirtualClock
) -> None:
    server.fault = no_list
    both = Process(server, clock, "b", dice=DICE), Process(server, clock, "a", dice=DICE)
    await clock.advance(40)
    assert leaders(*both) == ["b", "a"], "without the right to look"
    server.fault = lambda _: None
    await clock.advance(60)
    for _ in range(60):
        await clock.advance(1)
        assert leaders(*both) == ["a"]
    assert [obj["spec"]["holderIdentity"] for obj in server.stored(LEASES)] == [both[1].elector.identity, ""]
    for process in both:
        await process.stop()


@pytest.mark.parametrize("namespace", ["a-team", "team"])
async def test_one_that_led_blindly_gives_way_to_one_that_looked(
    server: FakeTransport, clock: VirtualClock, namespace: str
) -> None:
    """As when its ClusterRole is bound late."""
    first = Process(server, clock, "system", dice=DICE)
    await clock.advance(3)
    server.fault = no_list
    second = Process(server, clock, namespace, dice=DICE)
    await clock.advance(20)
    assert leaders(first, second) == ["system", namespace], "without the right to look"
    server.fault = lambda _: None
    await clock.advance(31)
    for _ in range(60):
        await clock.advance(1)
        assert leaders(first, second) == ["system"]
    assert "lease system/lowbeam-operator" in second.elector.message
    await second.stop()
    await first.stop()


async def test_a_server_that_refuses_lists_just_after_its_start_makes_no_second_leader(
    server: FakeTransport, clock: VirtualClock
) -> None:
    """Its authorizer may not know all roles yet (kubernetes/kubernetes issue 121635)."""
    processes = [Process(server, clock, namespace, dice=DICE) for namespace in ("system", "team")]
    await clock.advance(30)
    assert len(leaders(*processes)) == 1

    async def never_two(seconds: int) -> None:
        for _ in range(2 * seconds):
            await clock.advance(0.5)
            assert len(leaders(*processes)) <= 1

    server.fault = lambda request: ServerUnavailable(request, "down")
    await never_two(30)
    server.fault = no_list
    processes.append(Process(server, clock, "new", dice=DICE))
    await never_two(12)
    server.fault = lambda _: None
    await never_two(60)
    assert len(leaders(*processes)) == 1
    for process in processes:
        await process.stop()


@pytest.mark.parametrize("seed", range(40))
async def test_never_two_whatever_dies_lags_or_is_cut_off_and_in_the_end_one(
    server: FakeTransport, clock: VirtualClock, seed: int
) -> None:
    dice = random.Random(seed)
    seconds = dice.choice((0, 0.5, 3))

    def start(namespace: str) -> Process:
        return Process(server, clock, namespace, dice=dice, seconds=seconds)

    processes = [start(namespace) for namespace in ("b", "a", "c", "a")]
    for _ in range(250):
        at = dice.randrange(len(processes))
        match dice.randrange(40):
            case 0:
                processes[at].network.cut = not processes[at].network.cut
            case 1:
                await processes[at].kill()
                processes[at] = start(processes[at].namespace)
            case 2:
                await processes[at].stop()
                processes[at] = start(processes[at].namespace)
        await clock.advance(dice.choice((0.1, 1, 3)))
        assert len(leaders(*processes)) <= 1
    for process in processes:
        process.network.cut, process.network.seconds = False, 0
    await clock.advance(60)
    assert len(leaders(*processes)) == 1
    for process in processes:
        await process.stop()
