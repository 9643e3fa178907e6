"""What a cluster is and what it has taken from the machine, in one JSON file that survives a crash.

Invariant: whatever must be undone is written here *before* it is done, so that `down` finds it after any crash.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import paths
from .errors import LocalClusterError
from .network import Network
from .process import Command, Running

_NAME_LIMIT = 40


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """What to start. The control plane always; the rest on request."""

    name: str = "lowbeam"
    nodes: int = 0
    """Real nodes (containerd, runc, kubelet); they need root on Linux."""
    kwok_nodes: Path | None = None
    """A YAML file of Node objects that KWOK plays."""
    fake_gpus: int = 0
    """nvidia.com/gpu that a device plugin offers on each real node."""
    prometheus: bool = False

    def __post_init__(self) -> None:
        plain = self.name.replace("-", "")
        if not (plain.isascii() and plain.isalnum() and self.name == self.name.lower()) or len(self.name) > _NAME_LIMIT:
            raise LocalClusterError(
                f"cluster name {self.name!r}: use lower-case letters, digits and '-', at most {_NAME_LIMIT}"
            )
        if not 0 <= self.nodes <= Network.MAX_NODES:
            raise LocalClusterError(f"--nodes {self.nodes}: between 0 and {Network.MAX_NODES}")
        if self.fake_gpus and not self.nodes:
            raise LocalClusterError("--fake-gpus needs --nodes: a device plugin talks to a real kubelet")
        if self.kwok_nodes and not self.kwok_nodes.is_file():
            raise LocalClusterError(f"--kwok {self.kwok_nodes}: no such file")


@dataclass(slots=True)
class State:
    """The record of one cluster; `save()` after every change."""

    home: Path
    spec: ClusterSpec
    network: Network
    owner: Running | None
    """The process that the cluster dies with (a test session); None for one started by hand."""
    ports: dict[str, int] = field(default_factory=dict)
    commands: dict[str, Command] = field(default_factory=dict)
    processes: dict[str, Running] = field(default_factory=dict)
    cgroups: list[str] = field(default_factory=list)
    ready: bool = False

    def save(self) -> None:
        """Write the record atomically."""
        self.home.mkdir(parents=True, exist_ok=True)
        scratch = self.home / ".state.json"
        scratch.write_text(json.dumps(dataclasses.asdict(self), default=str, indent=1))
        scratch.replace(self.home / "state.json")

    @classmethod
    def load(cls, name: str) -> State | None:
        """Read a cluster's record; None when there is none."""
        file = paths.cluster_dir(name) / "state.json"
        if not file.exists():
            return None
        raw: dict[str, Any] = json.loads(file.read_text())
        spec = raw["spec"]
        spec["kwok_nodes"] = None  # only needed at `up`; the file may be gone by now
        return cls(
            home=Path(raw["home"]),
            spec=ClusterSpec(**spec),
            network=Network(**raw["network"]),
            owner=Running(**raw["owner"]) if raw["owner"] else None,
            ports=raw["ports"],
            commands={
                part: Command(part, tuple(c["argv"]), Path(c["log"]), c["env"]) for part, c in raw["commands"].items()
            },
            processes={part: Running(**p) for part, p in raw["processes"].items()},
            cgroups=raw["cgroups"],
            ready=raw["ready"],
        )

    def abandoned(self) -> bool:
        """Return whether nobody needs what is left: its owner ended, or `up` never finished, or a part has died."""
        if self.owner is not None:
            return not self.owner.alive()
        return not self.ready or not all(process.alive() for process in self.processes.values())


def this_process() -> Running:
    """Return the record of the calling process."""
    found = Running.of(os.getpid())
    assert found is not None
    return found


def names() -> list[str]:
    """Return the names of all clusters with a record in this cache."""
    return sorted(file.parent.name for file in (paths.cache() / "clusters").glob("*/state.json"))
