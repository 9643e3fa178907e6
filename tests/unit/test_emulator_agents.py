"""The emulator's node agents: what they tell of their boards, and what a power limit does to whoever holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.api.wire import (
    BoardReading,
    LimitChange,
    LimitOrigin,
    LimitReport,
    LimitWish,
    NodeTelemetry,
    ProfileChange,
    WorkerTelemetry,
)
from lowbeam.emulator.agent_port import AgentPorts
from lowbeam.emulator.boards import ImpossibleLimit, NodeBoards, OldChange
from lowbeam.emulator.faults import Fault
from lowbeam.emulator.fleet import Fleet, FleetSettings
from lowbeam.emulator.members import guest_of
from lowbeam.emulator.replica import Pace
from lowbeam.render import labels
from lowbeam_agent.leases import ImpossibleLimitError, Leases, OldChangeError
from tests.ports import free_port
from tests.unit import test_emulator_fleet as base
from tests.worker.test_node_agent_leases import FakeBoards, MemoryStore

H100 = replace(base.CATALOGUE.accelerator_classes["h100"], bare_idle_milliwatts=70_000, min_milliwatts=200_000)
CATALOGUE = replace(base.CATALOGUE, accelerator_classes={"h100": H100})
QUIET = 0.031
SETTLED = 40.0
NODE = {
    "metadata": {
        "name": "fake",
        "annotations": {"kwok.x-k8s.io/node": "fake"},
        "labels": {"nvidia.com/gpu.product": "H100"},
    },
    "status": {"allocatable": {labels.GPU_RESOURCE: "4"}},
}
AGENT_LABELS = {labels.PART_OF: labels.PRODUCT, labels.COMPONENT: "agent"}


def with_boards(pod: dict[str, Any], boards: int = 1) -> dict[str, Any]:
    container = {"name": "main", "resources": {"limits": {labels.GPU_RESOURCE: boards}}}
    return pod | {"spec": pod["spec"] | {"containers": [container]}}


def worker(name: str = "a", address: str = "1", **changes: Any) -> dict[str, Any]:
    return with_boards(base.pod(name, address, **changes))


def stranger(name: str = "theirs", boards: int = 1, **changes: Any) -> dict[str, Any]:
    made = with_boards(base.pod(name, "", **changes), boards)
    return made | {"metadata": made["metadata"] | {"labels": {}}}


def agent(address: str = "9", port: int = 9466, **changes: Any) -> dict[str, Any]:
    made = base.pod("agent", address, **changes)
    container = {"name": "agent", "ports": [{"name": "agent", "containerPort": port}]}
    return {
        "metadata": made["metadata"] | {"labels": AGENT_LABELS},
        "spec": {"nodeName": "fake", "containers": [container]},
        "status": made["status"],
    }


class Stage:
    """One node of four boards whose worker, if there is one, is at full batches."""

    def __init__(self, *pods: dict[str, Any], per_minute: int = 1200) -> None:
        self.clock = base.FakeClock()
        self.fleet = Fleet(CATALOGUE, self.clock, FleetSettings(pace=Pace(1.0, 1.0)))
        self.per_minute, self.generation = per_minute, 0
        self.follow(*pods)
        self.wait(2)
        for played in self.fleet.everyone().values():
            played.replica.change(ProfileChange(generation=1, batch_limit=64), self.fleet.now())
        self.wait(SETTLED)

    def follow(self, *pods: dict[str, Any]) -> None:
        self.fleet.follow(pods, [base.workload(self.per_minute)], [NODE])

    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds
        self.fleet.share_load()

    def boards(self) -> list[BoardReading]:
        played = self.fleet.nodes.agent_at("9")
        assert played is not None
        return list(self.fleet.node_telemetry(played, limits_allowed=True).devices)

    def board_of(self, pod: str) -> BoardReading:
        (found,) = (board for board in self.boards() if board.holders and board.holders[0].pod == pod)
        return found

    def limit(self, watts: float | None, pod: str = "a", **more: Any) -> LimitReport:
        played = self.fleet.nodes.agent_at("9")
        assert played is not None
        self.generation += 1
        wish = LimitWish(uuid=self.board_of(pod).uuid, watts=watts, **more)
        return self.fleet.set_limits(played, LimitChange(generation=self.generation, limits=(wish,)))

    def renew(self, watts: float, pod: str) -> None:
        self.generation -= 1
        self.limit(watts, pod)

    def telemetry(self, address: str = "1") -> WorkerTelemetry:
        played = self.fleet.at(address)
        assert played is not None
        return self.fleet.telemetry(played)

    def rate(self, seconds: float = 20.0) -> float:
        before = self.telemetry().requests_total
        self.wait(seconds)
        return (self.telemetry().requests_total - before) / seconds


def test_an_agent_tells_every_board_of_its_node_and_who_holds_it() -> None:
    stage = Stage(agent(), worker(), stranger(boards=2))
    boards = stage.boards()
    assert len({board.uuid for board in boards}) == 4
    assert [[it.pod for it in board.holders or ()] for board in boards] == [["a"], ["theirs"], ["theirs"], []]
    drawn = [board.watts for board in boards]
    assert drawn == [pytest.approx(600, rel=QUIET), 100, 100, 70]
    span = {(it.min_limit_watts, it.max_limit_watts, it.default_limit_watts, it.power_limit_watts) for it in boards}
    assert span == {(200, 700, 700, 700)}
    assert {board.limit_origin for board in boards} == {LimitOrigin.DEFAULT}


def test_a_worker_and_the_agent_of_its_node_tell_the_same_of_its_board() -> None:
    stage = Stage(agent(), worker())
    stage.limit(500)
    stage.wait(10)
    (own,), told = stage.telemetry().devices, stage.board_of("a")
    assert own.model_dump() == told.model_dump(include=set(type(own).model_fields))
    assert own.power_limit_watts == 500


def test_a_pod_keeps_its_boards_while_others_come_and_go_and_joules_never_go_back() -> None:
    stage = Stage(agent(), stranger("early", created="2025-12-01T00:00:00Z"), worker())
    before = stage.board_of("a")
    stage.follow(agent(), worker(), stranger("late", boards=2, created="2025-11-01T00:00:00Z"))
    stage.wait(5)
    after = stage.board_of("a")
    assert after.uuid == before.uuid
    assert [[it.pod for it in board.holders or ()] for board in stage.boards()] == [["late"], ["a"], ["late"], []]
    assert before.joules_total is not None
    assert after.joules_total == pytest.approx(before.joules_total + 5 * 600, rel=QUIET)
    stage.follow(agent())
    stage.wait(10)
    free = next(board for board in stage.boards() if board.uuid == before.uuid)
    assert free.joules_total == pytest.approx((after.joules_total or 0) + 10 * 70)


def test_a_limited_worker_draws_no_more_and_serves_less_until_it_is_given_back() -> None:
    stage = Stage(agent(), worker())
    whole = stage.rate()
    assert stage.limit(450).limits[0].enforced_watts == 450
    assert (stage.telemetry().watts or 0) > 550, "it takes the settle time"
    stage.wait(1.5)
    assert stage.telemetry().watts == pytest.approx(450, rel=QUIET)
    assert (stage.telemetry().watts or 0) <= 450
    limited = stage.rate(20.0)
    assert limited < whole * 0.98
    stage.limit(None)
    stage.wait(2)
    assert stage.telemetry().watts == pytest.approx(600, rel=QUIET)
    assert stage.rate() == pytest.approx(whole, rel=0.02)


def test_a_limit_far_below_any_data_is_obeyed_too() -> None:
    stage = Stage(agent(), worker())
    stage.limit(200)
    stage.wait(2)
    assert (stage.telemetry().watts or 0) <= 200


def test_a_changed_load_does_not_lift_a_limit() -> None:
    stage = Stage(agent(), worker())
    stage.limit(450)
    stage.per_minute = 2400
    stage.follow(agent(), worker())
    stage.wait(10)
    assert (stage.telemetry().watts or 0) <= 450


def test_a_lease_that_is_not_renewed_ends_at_the_safe_limit_or_at_what_was_found() -> None:
    stage = Stage(agent(), worker(), worker("b", "2"))
    stage.limit(450, safe_watts=300)
    stage.limit(500, "b")

    def limits() -> list[float | None]:
        return [stage.board_of(pod).power_limit_watts for pod in ("a", "b")]

    stage.wait(29)
    assert limits() == [450, 500]
    stage.renew(500, "b")
    stage.wait(2)
    assert limits() == [300, 500]
    stage.wait(29)
    assert limits() == [300, 700]
    assert (stage.board_of("a").limit_origin, stage.board_of("b").limit_origin) == ("agent", "default")


def test_an_agent_that_goes_gives_every_board_back() -> None:
    stage = Stage(agent(), worker())
    stage.limit(450, safe_watts=450)
    stage.follow(agent(terminating=True), worker())
    assert stage.board_of("a").power_limit_watts == 700


def test_an_agent_that_ignores_limits_says_yes_and_its_boards_say_no() -> None:
    stage = Stage(agent(), worker())
    assert stage.fleet.set_faults({Fault.WRONG_UNIT}, "ns", pod="agent") == 0, "no agent has this fault"
    assert stage.fleet.set_faults({Fault.IGNORE_CONTROL}, "ns", pod="agent") == 1
    assert stage.limit(450).limits[0].enforced_watts == 450
    stage.wait(5)
    board = stage.board_of("a")
    assert (board.power_limit_watts, board.limit_origin) == (700, LimitOrigin.DEFAULT)
    assert stage.telemetry().watts == pytest.approx(600, rel=QUIET)
    stage.follow(agent(), worker())
    stage.limit(450)
    assert stage.board_of("a").power_limit_watts == 700, "a fault lasts with the pod"
    stage.fleet.set_faults(set(), "ns", pod="agent")
    stage.limit(450)
    assert stage.board_of("a").power_limit_watts == 450


# --- the same as the real one -----------------------------------------------------------------------------------------

UUIDS = [f"GPU-emulated-{index}-n" for index in range(2)]
WISHES = st.builds(
    LimitWish,
    uuid=st.sampled_from([*UUIDS, "GPU-of-another-node"]),
    watts=st.sampled_from([None, 50.0, 100.0, 250.0, 400.0, 450.0]),
    safe_watts=st.sampled_from([None, 50.0, 150.0, 400.0]),
)
CHANGES = st.builds(
    LimitChange,
    generation=st.integers(1, 4),
    lease_seconds=st.sampled_from([5.0, 30.0]),
    limits=st.lists(WISHES, min_size=1, max_size=3).map(tuple),
)


@given(st.lists(st.tuples(CHANGES, st.sampled_from([0.0, 3.0, 10.0, 40.0])), max_size=12))
def test_limits_are_set_refused_and_end_as_with_the_real_agent(steps: list[tuple[LimitChange, float]]) -> None:
    now = [0.0]
    real = Leases(FakeBoards(*UUIDS), UUIDS, MemoryStore(), lambda: now[0])
    accelerator = replace(H100, min_milliwatts=100_000, max_milliwatts=400_000)
    played = NodeBoards("n", accelerator, 2, 0.0)
    for change, seconds in steps:
        try:
            expected: LimitReport | str = real.change(change)
        except OldChangeError:
            expected = "old"
        except ImpossibleLimitError:
            expected = "impossible"
        try:
            given_: LimitReport | str = played.change(change, now[0])
        except OldChange:
            given_ = "old"
        except ImpossibleLimit:
            given_ = "impossible"
        assert given_ == expected
        now[0] += seconds
        real.tick()
        played.end_leases(now[0])
        assert played.report(now[0]) == real.report()


def test_a_pod_holds_what_each_of_its_containers_asks_for() -> None:
    pod = worker()
    pod["spec"]["containers"] += [
        {"name": "sidecar"},
        {"name": "second", "resources": {"limits": {labels.GPU_RESOURCE: "2"}}},
    ]
    guest = guest_of(pod)
    assert guest is not None
    assert guest.containers == ("main", "second", "second")
    assert guest_of(pod | {"status": {"phase": "Succeeded"}}) is None
    assert guest_of(base.pod("none", "1")) is None


# --- on the wire ------------------------------------------------------------------------------------------------------

TOKEN = {"Authorization": "Bearer let-me-in"}


@pytest.mark.parametrize(
    ("allowed", "headers", "change", "status"),
    [
        (False, TOKEN, {}, 403),
        (True, {}, {}, 401),
        (True, {"Authorization": "Bearer wrong"}, {}, 401),
        (True, TOKEN, {}, 200),
        (True, TOKEN, {"generation": 1}, 409),
        (True, TOKEN, {"watts": 100}, 422),
        (True, TOKEN, {"watts": "much"}, 422),
    ],
)
async def test_the_port_answers_as_the_agents_does(
    tmp_path: Path, allowed: bool, headers: dict[str, str], change: dict[str, Any], status: int
) -> None:
    token = tmp_path / "token"
    token.write_text("let-me-in\n")
    port = free_port()
    stage = Stage(agent("127.0.0.1", port), worker())
    url = f"http://127.0.0.1:{port}"
    async with (
        AgentPorts(stage.fleet, token if allowed else None) as ports,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        await ports.follow(stage.fleet.nodes.agent_ports())
        assert ports.listening() == {"127.0.0.1"}
        told = NodeTelemetry.model_validate_json((await http.get(f"{url}/telemetry")).content)
        assert (told.node, told.limits_allowed, len(told.devices)) == ("fake", allowed, 4)
        wish = {"uuid": told.devices[0].uuid, "watts": change.get("watts", 450)}

        async def put(generation: int) -> httpx.Response:
            body = {"generation": generation, "limits": [wish]}
            return await http.put(f"{url}/limits", json=body, headers=headers)

        if "generation" in change:
            assert (await put(7)).status_code == 200
        answer = await put(change.get("generation", 8))
        assert answer.status_code == status
        report = await http.get(f"{url}/limits", headers=headers)
        if status == 200:
            assert LimitReport.model_validate_json(answer.content).limits[0].enforced_watts == 450
            assert LimitReport.model_validate_json(report.content).generation == 8
        else:
            assert answer.json()["error"]
            assert answer.json()["generation"] == (7 if status == 409 else 0)

        stage.fleet.set_faults({Fault.SILENT}, "ns", pod="agent")
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(f"{url}/telemetry")
