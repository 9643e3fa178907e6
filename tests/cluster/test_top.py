"""`lowbeam top` on a real API server and a real pseudo-terminal: what is seen, what changes, and every way out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lowbeam.runtime.settings import LEASE_NAME
from tests.faultproxy import Answer, FaultProxy
from tests.kube_harness import (
    proxy,  # noqa: F401  a fixture
    user_of,
    with_token,
)
from tests.terminal import Terminal
from tools.localcluster.client import ClusterClient

ROOT = Path(__file__).resolve().parents[2]
SPEC = {
    "task": "text-classification",
    "load": {"requestsPerMinute": 60, "inputTokens": 100, "outputTokens": 1},
}


class Told:
    """Objects of one test, with the status that an operator would write."""

    def __init__(self, cluster: ClusterClient, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.cap = f"top-{uuid.uuid4().hex[:8]}"

    def workload(self, name: str, **status: Any) -> None:
        body = {
            "apiVersion": "lowbeam.dev/v1alpha1",
            "kind": "InferenceWorkload",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": SPEC,
        }
        self.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(body))
        if status:
            self.status("iw", name, "-n", self.namespace, **status)

    def power_cap(self, **status: Any) -> None:
        spec = {"scope": {"namespaces": {"names": [self.namespace]}}, "watts": 1000, "mode": "Observe"}
        body = {"apiVersion": "lowbeam.dev/v1alpha1", "kind": "PowerCap", "metadata": {"name": self.cap}, "spec": spec}
        self.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(body))
        self.status("pcap", self.cap, **status)

    def status(self, kind: str, name: str, *where: str, **status: Any) -> None:
        patch = json.dumps({"status": status})
        self.cluster.kubectl("patch", kind, name, *where, "--subresource=status", "--type=merge", "-p", patch)

    def user(self, folder: Path, *verbs: str) -> Path:
        """A kubeconfig of somebody who may do this with the workloads of the namespace, and nothing else."""
        return user_of(self.cluster, self.namespace, folder, *verbs)


@pytest.fixture
def told(cluster: ClusterClient, namespace: str) -> Iterator[Told]:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    made = Told(cluster, namespace)
    made.workload("assistant", energy={"measuredWatts": 1840, "joulesPerRequest": "47.1", "stars": "****"})
    made.workload("triage", energy={"measuredWatts": 34, "joulesPerRequest": "0.412"})
    made.power_cap(state="WithinCap", effectiveWatts=1000, usableWatts=950, measuredWatts=900, committedWatts=940)
    yield made
    cluster.kubectl("delete", "pcap", made.cap, "--ignore-not-found", "--wait=false")


def top(told: Told, *args: str, **options: Any) -> Terminal:
    return Terminal("top", "--kubeconfig", str(told.cluster.kubeconfig), "-n", told.namespace, *args, **options)


def printed(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lowbeam", "top", *args]
    inherited = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**inherited, **environment}
    )


def test_it_shows_what_is_and_what_changes_and_q_leaves(told: Told) -> None:
    with top(told) as terminal:
        shown = terminal.wait_for("assistant")
        assert "2 workloads: 1.87 kW measured" in shown
        assert f"{told.cap}" in shown
        assert shown.index("assistant") < shown.index("triage"), "most watts first"
        told.status("iw", "triage", "-n", told.namespace, energy={"measuredWatts": 2500})
        told.status("pcap", told.cap, state="OverCap", measuredWatts=960)
        shown = terminal.wait_for("4.34 kW measured")
        assert shown.index("triage") < shown.index("assistant")
        assert "OverCap" in terminal.wait_for("OverCap")
        told.cluster.kubectl("delete", "iw", "triage", "-n", told.namespace)
        assert "triage" not in terminal.wait_for("1 workload: 1.84 kW")
        terminal.type(b"q")
        assert terminal.ended() == 0


@pytest.mark.parametrize(
    ("way", "code"), [("Ctrl-C", 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), ("Q", 0)], ids=str
)
def test_every_way_out_gives_the_terminal_back(told: Told, way: str | signal.Signals, code: int) -> None:
    with top(told) as terminal:
        terminal.wait_for("assistant")
        if isinstance(way, signal.Signals):
            terminal.process.send_signal(way)
        else:
            terminal.type(b"\x03" if way == "Ctrl-C" else b"Q")
        assert terminal.ended() == code


def test_a_fault_of_our_own_gives_the_terminal_back_too(told: Told, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import lowbeam.cli.top as v\n"
        "lines, calls = v.lines, []\n"
        "def broken(*args):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 1: raise RuntimeError('a bug')\n"
        "    return lines(*args)\n"
        "v.lines = broken\n"
    )
    with top(told, PYTHONPATH=str(tmp_path)) as terminal:
        assert terminal.ended(30) == 1
        assert b"RuntimeError: a bug" in terminal.sent
        assert b"assistant" in terminal.sent


def test_ctrl_z_gives_the_terminal_back_and_the_picture_returns(told: Told) -> None:
    with top(told) as terminal:
        terminal.wait_for("assistant")
        terminal.type(b"\x1a")
        terminal.wait_stopped()
        terminal.assert_restored()
        terminal.go_on()
        terminal.wait_for("assistant")
        assert terminal.sent.count(b"\x1b[?1049h") == 2
        terminal.type(b"q")
        assert terminal.ended() == 0


def test_it_follows_the_size_of_the_window(told: Told) -> None:
    with top(told) as terminal:
        assert "COMMITTED" in terminal.wait_for("LAST DECISION")
        terminal.resize(40, 12)
        shown = terminal.wait_for("q: quit   █ measured  ▒ committed  │ us…")
        assert max(map(len, shown.splitlines())) == 40
        assert len(shown.splitlines()) == 12
        terminal.type(b"q")
        assert terminal.ended() == 0


async def test_it_asks_once_and_then_only_listens(told: Told, proxy: FaultProxy, tmp_path: Path) -> None:  # noqa: F811
    kubeconfig = str(proxy.write_kubeconfig(tmp_path))
    with Terminal("top", "--kubeconfig", kubeconfig, "-n", told.namespace) as terminal:
        await asyncio.to_thread(terminal.wait_for, "assistant")
        asked, sent = dict(proxy.calls), len(terminal.sent)
        await asyncio.sleep(7)
        new = {call: count - asked.get(call, 0) for call, count in proxy.calls.items() if count > asked.get(call, 0)}
        assert new.keys() <= {("get", "leases")}
        assert len(terminal.sent) - sent < 4 * 200, "only the time of day changed"
        terminal.type(b"q")
        assert await asyncio.to_thread(terminal.ended) == 0


async def test_a_lost_connection_keeps_the_last_picture_and_comes_back(
    told: Told,
    proxy: FaultProxy,  # noqa: F811
    tmp_path: Path,
) -> None:
    kubeconfig = str(proxy.write_kubeconfig(tmp_path))
    with Terminal("top", "--kubeconfig", kubeconfig, "-n", told.namespace) as terminal:
        await asyncio.to_thread(terminal.wait_for, "assistant")
        await proxy.go_down()
        await asyncio.to_thread(terminal.wait_for, "! no news since ")
        assert "1.84 kW" in await asyncio.to_thread(terminal.wait_for, "Cannot connect to host")
        told.status("iw", "assistant", "-n", told.namespace, energy={"measuredWatts": 1111})
        await proxy.come_back()
        shown = await asyncio.to_thread(terminal.wait_for, "1.11 kW")
        assert "no news" not in shown
        terminal.type(b"q")
        assert await asyncio.to_thread(terminal.ended) == 0


async def test_credentials_that_expire_are_named(told: Told, proxy: FaultProxy, tmp_path: Path) -> None:  # noqa: F811
    with Terminal("top", "--kubeconfig", str(proxy.write_kubeconfig(tmp_path)), "-n", told.namespace) as terminal:
        await asyncio.to_thread(terminal.wait_for, "assistant")
        refusal = json.dumps({"kind": "Status", "message": "Unauthorized", "code": 401})
        proxy.fault = lambda _: Answer(401, body=refusal)
        await proxy.cut()
        shown = await asyncio.to_thread(terminal.wait_for, "! no news since ")
        assert "Unauthorized; renew the kubeconfig" in shown
        terminal.type(b"q")
        assert await asyncio.to_thread(terminal.ended) == 0


def test_a_user_of_one_namespace_sees_its_workloads_and_why_no_caps(told: Told, tmp_path: Path) -> None:
    kubeconfig = str(told.user(tmp_path, "list", "watch"))
    caps = 'caps: not readable for you: that needs a ClusterRole with "list" and "watch" on "powercaps.lowbeam.dev"'
    done = printed("--kubeconfig", kubeconfig, "-n", told.namespace, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert caps[:70] in done.stdout
    assert "assistant  " in done.stdout
    with Terminal("top", "--kubeconfig", kubeconfig, "-n", told.namespace, columns=130) as terminal:
        shown = terminal.wait_for("assistant")
        assert caps in shown
        assert "Lease" not in shown, "what nobody may read is not guessed"
        terminal.type(b"q")
        assert terminal.ended() == 0
    everywhere = printed("--kubeconfig", kubeconfig, "-A", "--once")
    assert everywhere.returncode == 1
    assert 'cannot list resource "inferenceworkloads" in API group "lowbeam.dev" at the cluster scope; choose a ' in (
        everywhere.stderr
    )
    assert everywhere.stderr.count("\n") == 1
    with Terminal("top", "--kubeconfig", kubeconfig, "-A") as terminal:
        assert terminal.ended(30) == 1
        assert b"1049" not in terminal.sent, "said before the screen changes"


def test_a_user_who_may_list_and_not_watch_is_told(told: Told, tmp_path: Path) -> None:
    kubeconfig = str(told.user(tmp_path, "list"))
    assert printed("--kubeconfig", kubeconfig, "-n", told.namespace, "--once").returncode == 0
    with Terminal("top", "--kubeconfig", kubeconfig, "-n", told.namespace) as terminal:
        assert terminal.ended(30) == 1
        assert b'cannot watch resource "inferenceworkloads"' in terminal.sent.rpartition(b"\x1b[?1049l")[2]


def test_credentials_that_nobody_knows_end_with_one_line(told: Told, tmp_path: Path) -> None:
    done = printed("--kubeconfig", str(with_token(told.cluster, tmp_path, "wrong")), "-A")
    assert done.returncode == 3
    assert done.stderr == (
        "list inferenceworkloads: Unauthorized; renew the kubeconfig or the pod's service account token\n"
    )


def test_a_cluster_that_does_not_answer_ends_with_one_line(told: Told, tmp_path: Path) -> None:
    path = with_token(told.cluster, tmp_path, "any", server="https://127.0.0.1:1")
    with Terminal("top", "--kubeconfig", str(path), "-A") as terminal:
        assert terminal.ended(60) == 3
    said = terminal.sent.decode().strip()
    assert said.startswith("list inferenceworkloads: ClientConnectorError: Cannot connect to host 127.0.0.1:1")
    assert "\n" not in said


def test_without_a_terminal_it_prints_once_without_colours(told: Told) -> None:
    done = printed("--kubeconfig", str(told.cluster.kubeconfig), "-n", told.namespace, "--limit", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "assistant" in done.stdout
    assert "... and 1 more workload not shown" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    coloured = printed("--kubeconfig", str(told.cluster.kubeconfig), "-n", told.namespace, FORCE_COLOR="1")
    assert (coloured.returncode, "\x1b[1m" in coloured.stdout, "\x1b[?" in coloured.stdout) == (0, True, False)


def test_json_has_the_figures_of_the_status(told: Told) -> None:
    done = printed("--kubeconfig", str(told.cluster.kubeconfig), "-n", told.namespace, "-o", "json", "--sort", "name")
    data = json.loads(done.stdout)
    assert [(it["name"], it["measuredWatts"]) for it in data["workloads"]] == [("assistant", 1840), ("triage", 34)]
    (cap,) = [it for it in data["caps"] if it["name"] == told.cap]
    assert (cap["enforced"], cap["usableWatts"], cap["note"]) == (False, 950, "observes only: dims nothing")


def test_an_operator_that_does_not_renew_its_lease_is_named(told: Told) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": LEASE_NAME, "namespace": told.namespace},
        "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 15, "renewTime": "2026-11-20T08:00:00.000000Z"},
    }
    told.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(lease))
    where = ("--kubeconfig", str(told.cluster.kubeconfig), "-n", told.namespace)
    here = printed(*where, "--operator-namespace", told.namespace)
    assert "! the operator has not renewed its Lease for " in here.stdout
    assert "!" not in printed(*where, "--operator-namespace", "not-there").stdout.splitlines()[1]
