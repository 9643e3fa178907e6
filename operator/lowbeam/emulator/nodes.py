"""The KWOK nodes: their boards, and the agents that tell of them.

Decides which node has which boards, and which of its pods is its agent. Part of the emulator (tests and demos only).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lowbeam.api.wire import DeviceReading
from lowbeam.catalog import class_of_node
from lowbeam.catalog.facts import Catalogue
from lowbeam.emulator.boards import Drawn, NodeBoards
from lowbeam.emulator.faults import AGENT_FAULTS, Fault
from lowbeam.emulator.members import Agent, Guest, Raw, agent_of, by_address, fake_nodes, guest_of
from lowbeam.runtime.inventory import devices_of


@dataclass(slots=True)
class PlayedAgent:
    """One node agent that is played."""

    agent: Agent
    boards: NodeBoards
    faults: set[Fault] = field(default_factory=set)


class FakeNodes:
    """All KWOK nodes with boards of a class that the catalogue has."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._boards: dict[str, NodeBoards] = {}
        self._agents: dict[str, PlayedAgent] = {}
        """By address."""

    def follow(self, pods: Sequence[Raw], nodes: Sequence[Raw], now: float) -> None:
        """Take over the state of the cluster; boards that are known keep their counters and limits."""
        names = fake_nodes(nodes)
        self._follow_boards(pods, [node for node in nodes if node["metadata"]["name"] in names], now)
        self._follow_agents(by_address(agent for pod in pods if (agent := agent_of(pod, names)) is not None))

    def _follow_boards(self, pods: Iterable[Raw], nodes: Iterable[Raw], now: float) -> None:
        guests: dict[str, list[Guest]] = {}
        for pod in pods:
            if (guest := guest_of(pod)) is not None:
                guests.setdefault(guest.node, []).append(guest)
        before, self._boards = self._boards, {}
        for node in nodes:
            name, count = node["metadata"]["name"], devices_of(node)
            class_name = class_of_node(node["metadata"].get("labels", {}), self._catalogue)
            if class_name is None or not count:
                continue
            accelerator, known = self._catalogue.accelerator_classes[class_name], before.get(name)
            if known is None or (known.accelerator, len(known.boards)) != (accelerator, count):
                known = NodeBoards(name, accelerator, count, now)
            known.seat(guests.get(name, ()))
            self._boards[name] = known

    def _follow_agents(self, agents: Mapping[str, Agent]) -> None:
        faults = {played.agent.uid: played.faults for played in self._agents.values()}
        self._agents = {
            address: PlayedAgent(agent, self._boards[agent.node], faults.get(agent.uid, set()))
            for address, agent in agents.items()
            if agent.node in self._boards
        }
        staying = {played.agent.node: played for played in self._agents.values() if not played.agent.terminating}
        for name, boards in self._boards.items():
            boards.deaf = name in staying and Fault.IGNORE_CONTROL in staying[name].faults
            if name not in staying:
                boards.give_all_back()

    # --- boards ------------------------------------------------------------------------------------------------------

    def advance(self, now: float, drawn: Drawn) -> None:
        """Count joules until `now`, then let the leases end whose time has come. `drawn`: see `NodeBoards.count`."""
        for boards in self._boards.values():
            boards.count(now, drawn)
            boards.end_leases(now)

    def devices(self, node: str, pod_uid: str, now: float, drawn: Drawn) -> tuple[DeviceReading, ...]:
        """The boards that a pod holds, as it reads them itself."""
        if node not in self._boards:
            return ()
        self._boards[node].count(now, drawn)
        return tuple(
            DeviceReading(
                uuid=board.uuid,
                watts=board.watts,
                joules_total=board.joules,
                power_limit_watts=board.limit_watts,
            )
            for board in self._boards[node].of_pod(pod_uid)
        )

    def limit_watts(self, node: str, pod_uid: str) -> float | None:
        """Power limit of each board of a pod, None = as they are built. They keep step: the lowest counts for all."""
        held = self._boards[node].of_pod(pod_uid) if node in self._boards else []
        limits = [board.limit_watts for board in held]
        if not limits or min(limits) * 1000 >= self._boards[node].accelerator.max_milliwatts:
            return None
        return min(limits)

    # --- agents ------------------------------------------------------------------------------------------------------

    def agent_ports(self) -> dict[str, int]:
        """Pod addresses of agents to listen on, each with its port."""
        return {address: played.agent.port for address, played in self._agents.items()}

    def agent_at(self, address: str) -> PlayedAgent | None:
        """The agent behind a pod address."""
        return self._agents.get(address)

    def set_faults(self, wanted: set[Fault], namespace: str, pod: str) -> int:
        """Give these faults, and no others, to the agents that match; returns how many did."""
        if not wanted <= AGENT_FAULTS:
            return 0
        matching = [
            played
            for played in self._agents.values()
            if played.agent.namespace == namespace and pod in ("", played.agent.name)
        ]
        for played in matching:
            played.faults = set(wanted)
            played.boards.deaf = Fault.IGNORE_CONTROL in wanted
        return len(matching)
