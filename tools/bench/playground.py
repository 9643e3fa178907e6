"""A cluster with KWOK nodes, Lowbeam's CRDs, one operator and the emulator, for the length of a block."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.localcluster import Cluster, ClusterSpec
from tools.localcluster.process import wait_until
from tools.ports import free_port

from .processes import Program, answers

_ROOT = Path(__file__).parents[2]
SAMPLES = _ROOT / "workloads" / "samples"


@dataclass(frozen=True, slots=True)
class Playground:
    """What a benchmark may use."""

    cluster: Cluster
    operator: Program
    emulator: Program
    metrics_port: int
    emulator_url: str
    """Admin port of the emulator."""

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Apply many objects as a user would, in one call of kubectl."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(listed), timeout_s=300)

    def check(self) -> None:
        """Raise when operator or emulator has ended."""
        self.operator.check()
        self.emulator.check()


@contextmanager
def playground(name: str, nodes: Sequence[Mapping[str, Any]]) -> Iterator[Playground]:
    """Start everything and wait until the operator is ready; logs stay in the folder that an error names."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lowbeam-bench-")))
        file = folder / "nodes.yaml"
        file.write_text("\n---\n".join(json.dumps(node) for node in nodes))
        cluster = stack.enter_context(Cluster.up(ClusterSpec(name=f"bench-{name}-{os.getpid()}", kwok_nodes=file)))
        cluster.kubectl("apply", "--server-side", "-f", str(_ROOT / "crds"))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        cluster.kubectl("create", "namespace", "lowbeam-system")
        metrics, health, admin = free_port(), free_port(), free_port()
        environment = cluster.environment()
        emulate = ("emulate", f"--admin-port={admin}", "--start-seconds=1")
        emulator = stack.enter_context(Program(folder / "emulator.log", environment, *emulate))
        ports = (f"--metrics-port={metrics}", f"--health-port={health}")
        operate = ("run", "--worker-image=example/worker:1", *ports)
        operator = stack.enter_context(Program(folder / "operator.log", environment, *operate))
        made = Playground(cluster, operator, emulator, metrics, f"http://127.0.0.1:{admin}")

        def ready() -> bool:
            made.check()
            return answers(f"http://127.0.0.1:{health}/readyz") and answers(f"{made.emulator_url}/replicas")

        wait_until("operator and emulator", ready, timeout_s=60)
        yield made
