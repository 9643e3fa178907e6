"""What the agent tells while NVML hangs, and which board a device number means."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from lowbeam_agent import sampler
from tests.worker.test_node_agent import UUIDS, Agent, eventually
from tests.worker.test_node_agent_pods import FakeKubelet


def test_a_reading_that_has_grown_old_is_no_figure_of_now(nvml_stub: Path, tmp_path: Path) -> None:
    watts = tmp_path / "watts"
    watts.write_text("60\n")
    with Agent(nvml_stub, tmp_path, NVML_STUB_WATTS_FILE=str(watts)) as agent:
        assert 'lowbeam_agent_device_power_watts{UUID="' in httpx.get(f"{agent.url}/metrics").text
        watts.unlink()
        os.mkfifo(watts)  # who opens it waits, inside NVML
        eventually(lambda: httpx.get(f"{agent.url}/health").status_code == 503)
        metrics = httpx.get(f"{agent.url}/metrics").text
        assert "{UUID=" not in metrics
        age_s = float(metrics.split("\nlowbeam_agent_sample_age_seconds ")[1].split()[0])
        assert age_s >= sampler.FRESH_SECONDS


def test_a_device_number_means_the_same_board_when_another_one_is_lost(nvml_stub: Path, tmp_path: Path) -> None:
    """GKE names boards as the files in /dev are called: their numbers stay, indices of boards that open do not."""
    kubelet = FakeKubelet(tmp_path / "kubelet.sock")
    kubelet.pods = {("shop", "search-0", "worker"): ["nvidia1"]}
    kubelet.start()
    flags = ("--kubelet-socket", str(kubelet.socket))
    with Agent(nvml_stub, tmp_path, *flags, NVML_STUB_BOARDS="3", NVML_STUB_LOST_BOARD="0") as agent:
        eventually(lambda: agent.telemetry().pods_listed_at_seconds is not None)
        held = {board.uuid: [it.pod for it in board.holders or ()] for board in agent.telemetry().devices}
        assert held == {UUIDS[1]: ["search-0"], f"{UUIDS[1][:-1]}2": []}
    kubelet.stop()
