"""Which devices are measured and which are refused: the compiled stand-in for NVIDIA's library, and RAPL's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lowbeam_worker.calibration import device as calibration_device
from lowbeam_worker.calibration.device import CannotCalibrateError, _OnPackages, open_device
from lowbeam_worker.energy import rapl
from lowbeam_worker.energy.ledger import Ledger

ROOT = Path(__file__).parents[2]
SCRIPT = """
import asyncio, json, os, sys, time
sys.path[:0] = ["operator", "workloads"]
from lowbeam_worker.calibration import device as calibration_device
from lowbeam_worker.calibration.device import CannotCalibrateError, open_device
from lowbeam_worker.energy.ledger import Ledger

async def windows(device):
    begin = await device.border()
    await asyncio.sleep(0.5)
    %s
    device.check_alone()
    end = await device.border()
    return (end.counter_mj - begin.counter_mj) / 1000 / (end.at_s - begin.at_s)

try:
    device = open_device(["Stub-L4"], "stub", Ledger())
    print(json.dumps({"watts": asyncio.run(windows(device)), "name": device.name, "counter": device.counter}))
except CannotCalibrateError as error:
    print(json.dumps({"refused": str(error)}))
"""


def opened(stub: Path | None, meanwhile: str = "pass", **environment: str) -> dict[str, Any]:
    path = {"LD_LIBRARY_PATH": str(stub)} if stub else {}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT % meanwhile],
        cwd=ROOT,
        env=os.environ | {"NVML_STUB_IDLE_W": "40", "NVML_STUB_MAX_W": "40"} | path | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer


@pytest.mark.parametrize("refresh_ms", ["0", "100"])
def test_borders_lie_where_the_counter_moves_so_that_its_refresh_costs_no_accuracy(
    nvml_stub: Path, refresh_ms: str
) -> None:
    found = opened(nvml_stub, NVML_STUB_REFRESH_MS=refresh_ms)
    # A window of half a second holds five refreshes: borders anywhere would be wrong by up to 20 %.
    assert found["watts"] == pytest.approx(40, rel=0.05)
    assert (found["name"], found["counter"]) == ("Stub L4", "nvmlDeviceGetTotalEnergyConsumption")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"NVML_STUB_TROUBLE": "permission"}, "cannot be read (nvmlDeviceGetTotalEnergyConsumption"),
        ({"NVML_STUB_NO_ENERGY": "1"}, "Not Supported"),
        ({"NVML_STUB_BOARDS": "0"}, "NVML shows no board at all"),
        ({"NVML_STUB_BOARDS": "2"}, "2 boards and the model runs on one; name it with CUDA_VISIBLE_DEVICES=0"),
        ({"NVML_STUB_NAME": "NVIDIA L4"}, "this board is a NVIDIA L4, and class stub is Stub-L4; name its own class"),
        ({"NVML_STUB_MIG": "1"}, "cut into MIG instances"),
        ({"NVML_STUB_TROUBLE": "lost"}, "GPU is lost"),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else None,
)
def test_a_device_whose_figures_would_not_be_the_classs_is_refused(
    nvml_stub: Path, environment: dict[str, str], reason: str
) -> None:
    assert reason in opened(nvml_stub, **environment)["refused"]


def test_without_a_counter_nothing_is_written_and_it_says_what_to_do() -> None:
    refused = opened(None)["refused"]
    assert "NVML does not start" in refused
    assert "A profile without measured watts would be a guess" in refused


def test_one_of_two_boards_may_be_named(nvml_stub: Path) -> None:
    assert opened(nvml_stub, NVML_STUB_BOARDS="2", CUDA_VISIBLE_DEVICES="1")["watts"] == pytest.approx(40, rel=0.05)


def test_a_board_with_somebody_elses_process_is_refused(nvml_stub: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.write_text("4711\n")
    refused = opened(nvml_stub, NVML_STUB_PIDS_FILE=str(pids))["refused"]
    assert "Stub L4 is not ours alone: NVML shows process 4711 on it" in refused


@pytest.mark.parametrize(
    ("then", "refused"), [("4711", False), ("4711 4712", True)], ids=["ours under another id", "a stranger"]
)
def test_once_the_model_is_there_one_process_may_be_ours_and_two_may_not(
    nvml_stub: Path, tmp_path: Path, then: str, refused: bool
) -> None:
    pids = tmp_path / "pids"
    pids.touch()
    found = opened(nvml_stub, f"open({str(pids)!r}, 'w').write('{then}')", NVML_STUB_PIDS_FILE=str(pids))
    assert ("refused" in found) == refused
    assert not refused or "processes 4711, 4712" in found["refused"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_board_whose_power_limit_was_lowered_is_refused(nvml_stub: Path, tmp_path: Path, when: str) -> None:
    limits = tmp_path / "limits"
    lower = f"open({str(limits)!r}, 'w').write('30000')"
    if when == "before":
        limits.write_text("30000\n")
    refused = opened(nvml_stub, "pass" if when == "before" else lower, NVML_STUB_LIMITS_FILE=str(limits))["refused"]
    assert "its power limit is set to 30 W, 40 W is its own" in refused
    assert "nvidia-smi -pl 40" in refused


def test_a_counter_that_stops_or_runs_backwards_ends_it(nvml_stub: Path) -> None:
    frozen = opened(nvml_stub, "os.environ['NVML_STUB_TROUBLE'] = 'frozen'")["refused"]
    assert "stood still for 2 s" in frozen or "stands still" in frozen
    assert "ran backwards" in opened(nvml_stub, NVML_STUB_BACKWARDS_AFTER_S="0.3")["refused"]


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CPU package that draws 30 W: its counter is what it is in the moment in which it is read."""
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "name").write_text("package-0\n")
    (package / "max_energy_range_uj").write_text("262143328850\n")
    monkeypatch.setenv("LOWBEAM_POWERCAP", str(tmp_path))
    read, began_s = rapl._number, time.monotonic()

    def number(path: Path) -> int:
        return round(30e6 * (time.monotonic() - began_s)) if path.name == "energy_uj" else read(path)

    monkeypatch.setattr(rapl, "_number", number)
    return package


async def test_a_class_without_boards_is_metered_by_the_cpus_own_counters(powercap: Path) -> None:
    device = open_device((), "cpu", Ledger())
    begin = await device.border()
    time.sleep(0.3)  # noqa: ASYNC251 - nothing else runs here
    end = await device.border()
    device.close()
    assert (end.counter_mj - begin.counter_mj) / 1000 / (end.at_s - begin.at_s) == pytest.approx(30, rel=0.1)
    assert device.name == "the CPU"


def test_counters_of_the_cpu_that_are_for_root_are_refused(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWBEAM_POWERCAP", "/nonexistent")
    with pytest.raises(CannotCalibrateError, match="there are no energy counters of the CPU"):
        open_device((), "cpu", Ledger())


@pytest.mark.parametrize(("taken", "seen"), [(0.01, False), (0.5, True)])
def test_other_processes_on_the_cpu_are_seen_by_the_time_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: float, seen: bool
) -> None:
    monkeypatch.setattr(calibration_device, "LEAST_LOOK_SECONDS", 0.2)
    ticks, cpus, stat = os.sysconf("SC_CLK_TCK"), os.cpu_count() or 1, tmp_path / "stat"
    stat.write_text("cpu 1000 10 100 5000 7 3 2 0 0 0\n")
    packages, began_s, ours_s = _OnPackages(stat), time.monotonic(), time.process_time()
    time.sleep(0.3)
    others_s = taken * cpus * (time.monotonic() - began_s) + time.process_time() - ours_s
    stat.write_text(f"cpu {1000 + round(others_s * ticks)} 10 100 9000 7 3 2 0 0 0\n")
    assert ("of the machine's CPU time" in (packages.seen() or "")) == seen
