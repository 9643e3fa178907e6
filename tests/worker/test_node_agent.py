"""The node agent and the NVML stub: what they tell, and what they say when there is nothing to tell."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from lowbeam.api.wire import NodeTelemetry


def ask_stub(script: str, folder: Path, **environment: str) -> dict[str, object]:
    """Run a few lines against NVIDIA's own Python binding with the stub below it."""
    lines = f"import json, time, pynvml as n\nn.nvmlInit()\nd = n.nvmlDeviceGetHandleByIndex(0)\n{script}"
    done = subprocess.run(
        [sys.executable, "-c", lines],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"LD_LIBRARY_PATH": str(folder)} | environment,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_stubs_counter_is_the_integral_of_the_watts_in_the_file(nvml_stub: Path, tmp_path: Path) -> None:
    watts = tmp_path / "watts"
    watts.write_text("60\n")
    found = ask_stub(
        "e, t = n.nvmlDeviceGetTotalEnergyConsumption(d), time.monotonic()\ntime.sleep(0.5)\n"
        "e, t = n.nvmlDeviceGetTotalEnergyConsumption(d) - e, time.monotonic() - t\n"
        "print(json.dumps({'watts': e / 1000 / t}))",
        nvml_stub,
        NVML_STUB_WATTS_FILE=str(watts),
    )
    assert abs(float(str(found["watts"])) - 60) < 2


def test_the_stub_draws_more_when_its_process_works(nvml_stub: Path) -> None:
    found = ask_stub(
        "def power(work):\n"
        "    n.nvmlDeviceGetTotalEnergyConsumption(d)\n"
        "    c, t = time.process_time(), time.monotonic()\n"
        "    while work and time.process_time() - c < 0.3: pass\n"
        "    if not work: time.sleep(0.3)\n"
        "    return n.nvmlDeviceGetPowerUsage(d) / 1000\n"
        "print(json.dumps({'idle': power(False), 'busy': power(True)}))",
        nvml_stub,
        NVML_STUB_IDLE_W="30",
        NVML_STUB_MAX_W="300",
    )
    assert float(str(found["idle"])) < 60
    assert float(str(found["busy"])) > 90


def test_the_stub_refuses_to_set_a_limit_and_can_lose_its_counter(nvml_stub: Path) -> None:
    found = ask_stub(
        "try:\n    n.nvmlDeviceSetPowerManagementLimit(d, 50000); refused = False\n"
        "except n.NVMLError_NoPermission: refused = True\n"
        "before = n.nvmlDeviceGetTotalEnergyConsumption(d); time.sleep(0.25)\n"
        "print(json.dumps({'refused': refused, 'before': before, 'after': n.nvmlDeviceGetTotalEnergyConsumption(d)}))",
        nvml_stub,
        NVML_STUB_BACKWARDS_AFTER_S="0.2",
    )
    assert found["refused"] is True
    assert int(str(found["after"])) < int(str(found["before"]))


def test_the_agent_tells_every_board_and_ends_cleanly(nvml_stub: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    agent = subprocess.Popen(
        [sys.executable, "-m", "lowbeam_agent", "--port", str(port), "--node", "gpu-1"],
        env=os.environ | {"LD_LIBRARY_PATH": str(nvml_stub), "NVML_STUB_BOARDS": "2"},
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/telemetry")
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        sample = NodeTelemetry.model_validate_json(answer.content)
        assert sample.node == "gpu-1"
        assert len({device.uuid for device in sample.devices}) == 2
        assert all(device.joules_total and device.power_limit_watts == 72 for device in sample.devices)
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert metrics.count("lowbeam_agent_device_power_watts{") == 2
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(15) == 0
    finally:
        agent.kill()
        agent.wait()


def test_without_nvml_the_agent_says_what_is_missing_and_exits_with_3() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lowbeam_agent"],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"},
    )
    assert done.returncode == 3
    assert "libnvidia-ml.so.1 must be on its library path" in done.stderr
