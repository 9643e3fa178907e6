"""What the agent tells while NVML hangs, and which board a device number means."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from lowbeam_agent import sampler
from tests.worker.test_node_agent import Agent, eventually


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
