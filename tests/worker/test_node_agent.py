"""The node agent and the NVML stub: what they tell, and what they say when there is nothing to tell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from lowbeam.api.wire import NodeTelemetry
from tests.ports import free_port
from tests.worker.conftest import needs_ipv6


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
    # On a machine that is shared, a busy process gets a small part of one CPU: the watts say which.
    assert float(str(found["idle"])) < 60
    assert float(str(found["busy"])) > float(str(found["idle"])) + 15


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


UUIDS = [f"GPU-57ab0000-0000-0000-0000-{index:012d}" for index in (0, 1)]
TOKEN = {"Authorization": "Bearer let-me-in"}


class Agent:
    """`lowbeam-agent` as a process, on two boards of 40 to 72 W whose limits outlive it."""

    def __init__(self, stub: Path, folder: Path, *flags: str, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.limits = folder / "limits"
        self.log = folder / "agent.log"
        more = {"LD_LIBRARY_PATH": str(stub), "NVML_STUB_BOARDS": "2", "NVML_STUB_LIMITS_FILE": str(self.limits)}
        self.environment = os.environ | more | environment
        command = [sys.executable, "-m", "lowbeam_agent", "--port", str(self.port), "--node", "gpu-1"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--kubelet-socket", str(folder / "absent.sock"), *flags],
                env=self.environment,
                stderr=log,
            )

    def __enter__(self) -> Agent:
        eventually(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def telemetry(self) -> NodeTelemetry:
        return NodeTelemetry.model_validate_json(httpx.get(f"{self.url}/telemetry").content)

    def put(self, body: dict[str, object] | str, headers: dict[str, str] = TOKEN) -> httpx.Response:
        content = body if isinstance(body, str) else json.dumps(body)
        return httpx.put(f"{self.url}/limits", content=content, headers=headers)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def die(self) -> None:
        self.process.kill()
        self.process.wait()

    def watts(self) -> list[int]:
        """What the driver holds, whether or not the agent lives."""
        return [int(line) // 1000 for line in self.limits.read_text().split()] if self.limits.exists() else [72, 72]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def with_limits(tmp_path: Path) -> list[str]:
    """Flags of an agent that may set power limits."""
    (tmp_path / "token").write_text("let-me-in\n")
    return ["--limit-token-file", str(tmp_path / "token"), "--state-folder", str(tmp_path / "state")]


def body(generation: int, watts: float | None, **more: object) -> dict[str, object]:
    return {"generation": generation, "limits": [{"uuid": UUIDS[0], "watts": watts} | more]}


def test_the_agent_tells_every_board_and_ends_cleanly(nvml_stub: Path, tmp_path: Path) -> None:
    with Agent(nvml_stub, tmp_path) as agent:
        sample = agent.telemetry()
        assert sample.node == "gpu-1"
        assert [device.uuid for device in sample.devices] == UUIDS
        for device in sample.devices:
            assert device.joules_total
            assert device.power_limit_watts == device.default_limit_watts == device.max_limit_watts == 72
            assert (device.min_limit_watts, device.limit_origin) == (40, "default")
            assert device.holders is None, "a kubelet that was never heard is not a node without pods"
        assert sample.pods_listed_at_seconds is None
        metrics = httpx.get(f"{agent.url}/metrics").text
        assert metrics.count("lowbeam_agent_device_power_watts{") == 2
        assert f'lowbeam_agent_device_power_limit_watts{{UUID="{UUIDS[0]}",kind="min"}} 40.0' in metrics
        assert "lowbeam_agent_pods_age_seconds" not in metrics
        agent.end()


@needs_ipv6
def test_the_agent_answers_on_ipv6_and_on_ipv4(nvml_stub: Path, tmp_path: Path) -> None:
    with Agent(nvml_stub, tmp_path) as agent:
        for host in ("[::1]", "127.0.0.1"):
            assert httpx.get(agent.url.replace("127.0.0.1", host) + "/health").status_code == 200


def test_an_agent_whose_port_is_taken_ends_and_leaves_the_limits_of_the_other_one(
    nvml_stub: Path, tmp_path: Path, with_limits: list[str]
) -> None:
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        assert agent.put(body(1, 50)).status_code == 200
        second = subprocess.run(agent.process.args, env=agent.environment, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"port {agent.port} cannot be opened" in second.stderr
        assert agent.watts() == [50, 72]


def test_a_second_agent_on_another_port_does_not_take_the_leases_of_the_first_for_orphans(
    nvml_stub: Path, tmp_path: Path, with_limits: list[str]
) -> None:
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        assert agent.put(body(1, 50)).status_code == 200
        second = Agent(nvml_stub, tmp_path, *with_limits)
        assert second.process.wait(60) == 1
        assert f"another agent keeps its power limits in {tmp_path / 'state'}" in agent.log.read_text()
        agent.die()
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        assert agent.watts() == [50, 72]
        agent.end()
        assert agent.watts() == [72, 72]


def test_a_lost_board_has_no_figures_and_never_zeros(nvml_stub: Path, tmp_path: Path) -> None:
    with Agent(nvml_stub, tmp_path, NVML_STUB_TROUBLE="lost") as agent:
        for device in agent.telemetry().devices:
            assert device.watts is device.joules_total is device.power_limit_watts is None
            assert device.limit_origin is None
        assert "lowbeam_agent_device_power_watts{" not in httpx.get(f"{agent.url}/metrics").text


def test_a_board_that_does_not_open_is_left_out_with_a_warning_and_an_orphan_on_another_still_ends(
    nvml_stub: Path, tmp_path: Path, with_limits: list[str]
) -> None:
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        assert agent.put(body(4, 50) | {"leaseSeconds": 2}).status_code == 200
        agent.die()
        assert agent.watts() == [50, 72]
    with Agent(nvml_stub, tmp_path, *with_limits, NVML_STUB_LOST_BOARD="1") as agent:
        assert [device.uuid for device in agent.telemetry().devices] == UUIDS[:1]
        assert "board 1: GPU is lost: it is left out" in agent.log.read_text()
        eventually(lambda: agent.watts() == [72, 72])
        refused = agent.put({"generation": 5, "limits": [{"uuid": UUIDS[1], "watts": 50}]})
        assert (refused.status_code, f"no board {UUIDS[1]}" in refused.json()["error"]) == (422, True)
        agent.end()


def test_a_limit_on_a_board_that_is_lost_stays_on_record_until_an_agent_finds_the_board(
    nvml_stub: Path, tmp_path: Path, with_limits: list[str]
) -> None:
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        assert agent.put(body(4, 50) | {"leaseSeconds": 2}).status_code == 200
        agent.die()
        assert agent.watts() == [50, 72]
    with Agent(nvml_stub, tmp_path, *with_limits, NVML_STUB_LOST_BOARD="0") as agent:
        eventually(lambda: "cannot be given back" in agent.log.read_text())
        agent.end()
        assert agent.watts() == [50, 72]
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        eventually(lambda: agent.watts() == [72, 72])
        agent.end()


def test_without_a_token_file_no_limit_can_be_set(nvml_stub: Path, tmp_path: Path) -> None:
    with Agent(nvml_stub, tmp_path) as agent:
        refused = agent.put(body(1, 50))
        assert refused.status_code == 403
        assert "agent.powerLimits.enabled" in refused.json()["error"]
        assert agent.watts() == [72, 72]


def test_a_limit_is_set_read_back_shown_and_given_back_at_sigterm(
    nvml_stub: Path, tmp_path: Path, with_limits: list[str]
) -> None:
    (tmp_path / "limits").write_text("70000\n60000\n")
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        assert [device.limit_origin for device in agent.telemetry().devices] == ["other", "other"]
        assert "its limit is 70.0 W, not the default of 72.0 W" in agent.log.read_text()
        done = agent.put(body(1, 50, safeWatts=45))
        assert done.status_code == 200
        (state,) = done.json()["limits"]
        assert (state["watts"], state["enforcedWatts"], state["foundWatts"]) == (50, 50, 70)
        assert 20 < state["leaseEndsInSeconds"] <= 30
        assert agent.watts() == [50, 60]
        eventually(lambda: agent.telemetry().devices[0].limit_origin == "agent")
        assert agent.telemetry().devices[0].power_limit_watts == 50
        shown = httpx.get(f"{agent.url}/limits", headers=TOKEN).json()
        assert [(it["watts"], it["enforcedWatts"]) for it in shown["limits"]] == [(50, 50), (None, 60)]
        agent.end()
        assert agent.watts() == [70, 60]


def test_a_lease_that_is_not_renewed_ends_without_anybody_asking(
    nvml_stub: Path, tmp_path: Path, with_limits: list[str]
) -> None:
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        assert agent.put(body(1, 60, safeWatts=45) | {"leaseSeconds": 2}).status_code == 200
        assert agent.watts() == [60, 72]
        eventually(lambda: agent.watts() == [45, 72])
        agent.end()
        assert agent.watts() == [72, 72]


def test_a_killed_agents_limit_is_found_again_and_ends(nvml_stub: Path, tmp_path: Path, with_limits: list[str]) -> None:
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        assert agent.put(body(4, 50) | {"leaseSeconds": 2}).status_code == 200
        agent.die()
        assert agent.watts() == [50, 72]
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        assert "orphaned limit of 50000 mW" in agent.log.read_text()
        assert agent.put(body(3, 55)).status_code == 409, "the generation survives too"
        eventually(lambda: agent.watts() == [72, 72])


def test_refusals_of_limits_name_the_cause(nvml_stub: Path, tmp_path: Path, with_limits: list[str]) -> None:
    with Agent(nvml_stub, tmp_path, *with_limits) as agent:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert agent.put(body(1, 50), headers).status_code == 401
        for wrong, says in (
            (body(1, 20), "takes 40 W to 72 W, not 20 W"),
            (body(1, 50, unit="mW"), "limits.0.unit"),
            (body(0, 50), "generation"),
            ({"generation": 1, "limits": []}, "limits"),
            ({"generation": 1, "limits": [{"uuid": UUIDS[0]}]}, "limits.0.watts"),
            ("{", "body"),
        ):
            refused = agent.put(wrong)
            assert (refused.status_code, refused.json()["generation"]) == (422, 0)
            assert says in refused.json()["error"]
        assert agent.put("x" * 70_000).status_code == 413
        (tmp_path / "token").write_text("")
        assert agent.put(body(1, 50)).status_code == 401, "the token's file is read at every request"
        assert agent.watts() == [72, 72]


@pytest.mark.parametrize(
    ("answers", "says"),
    [("refused", "Insufficient Permissions"), ("ignored", "took 50 W and the board enforces 72 W")],
)
def test_a_driver_that_does_not_apply_a_limit_is_an_error_with_the_reading(
    nvml_stub: Path, tmp_path: Path, with_limits: list[str], answers: str, says: str
) -> None:
    with Agent(nvml_stub, tmp_path, *with_limits, NVML_STUB_SET_LIMIT=answers) as agent:
        done = agent.put(body(1, 50))
        assert done.status_code == 503
        (state,) = done.json()["limits"]
        assert says in state["problem"]
        assert state["enforcedWatts"] == 72


def test_an_agent_whose_only_board_is_lost_names_it_and_exits_with_3(nvml_stub: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lowbeam_agent"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LD_LIBRARY_PATH": str(nvml_stub), "NVML_STUB_LOST_BOARD": "0"},
    )
    assert done.returncode == 3
    assert "board 0: GPU is lost" in done.stderr


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
