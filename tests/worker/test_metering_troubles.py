"""The meter against the compiled stand-in for NVIDIA's library, in all its troubles, and against RAPL's files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lowbeam.api.wire import DeviceReading, MeterMethod, MeterScope
from lowbeam_worker.energy.boards import NoMeterError, Reading
from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.energy.meter import CHECK_SECONDS, REOPEN_SECONDS, Meter, open_meter
from lowbeam_worker.energy.rapl import Packages
from lowbeam_worker.energy.statement import energy_headers, energy_statement
from lowbeam_worker.front.app import fresh_watts
from lowbeam_worker.worker import Worker

ROOT = Path(__file__).parents[2]
WATTS = {"NVML_STUB_IDLE_W": "40", "NVML_STUB_MAX_W": "40"}
"""Whatever the process takes of the CPU."""
SCRIPT = """
import json, logging, os, sys, time
sys.path[:0] = ["operator", "workloads"]
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
from lowbeam_worker.energy import meter as metering
from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.energy.statement import energy_statement
ledger = Ledger()
meter = metering.open_meter((), ledger)
metering.STUCK_SECONDS, metering.REOPEN_SECONDS = 0.25, 0.2
said = []

def serve(seconds):
    began = time.monotonic()
    account, until = ledger.open_account(began), began + seconds
    while time.monotonic() < until:
        ledger.begin_step(time.monotonic(), [(account, 1)], time.process_time())
        time.sleep(0.02)
        ledger.end_step(time.monotonic(), time.process_time())
        meter.sample()
    said.append(energy_statement(ledger.charge(account, time.monotonic()), meter) | {
        "seconds": time.monotonic() - began,
        "trouble": meter.trouble, "error": meter.error_joules(), "resets": ledger.counter_resets,
        "counter": ledger.parts().counter_mj, "watts": meter.last.watts if meter.last else None,
        "age": time.time() - meter.last.at_unix_s if meter.last else None})

def in_trouble(kind, seconds):
    os.environ["NVML_STUB_TROUBLE"] = kind
    serve(seconds)
    del os.environ["NVML_STUB_TROUBLE"]

meter.settle()
%s
print(json.dumps(said))
"""


def metered(stub: Path | None, body: str, **environment: str) -> tuple[list[dict[str, Any]], str]:
    """What answers say about their energy, in a process of its own, and its log."""
    path = {"LD_LIBRARY_PATH": str(stub)} if stub else {}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT % body],
        cwd=ROOT,
        env=os.environ | WATTS | {"LOWBEAM_POWERCAP": "/nonexistent"} | path | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    answers: list[dict[str, Any]] = json.loads(found.stdout)
    assert all(answer["error"] == 0 for answer in answers)
    return answers, found.stderr


def test_without_the_library_only_cpu_seconds_are_told_and_the_log_says_what_to_do() -> None:
    (answer,), log = metered(None, "serve(0.3)")
    assert (answer["method"], answer["scope"], answer["joules"], answer["watts"]) == ("unavailable", "none", None, None)
    assert answer["cpu_seconds"] > 0
    assert "NVML does not start" in log
    assert "energy is not metered" in log


def test_a_board_that_works_tells_joules_of_its_own_counter(nvml_stub: Path) -> None:
    (answer,), _ = metered(nvml_stub, "serve(0.8)")
    assert (answer["method"], answer["scope"], answer["estimate"]) == ("nvml", "device", False)
    assert answer["source"] == "nvmlDeviceGetTotalEnergyConsumption"
    assert answer["joules"] == pytest.approx(40 * answer["seconds"], rel=0.35)
    assert answer["age_s"] < 1


def test_a_board_in_mig_mode_gives_estimates(nvml_stub: Path) -> None:
    (answer,), _ = metered(nvml_stub, "serve(0.6)", NVML_STUB_MIG="1")
    assert (answer["scope"], answer["estimate"]) == ("shared", True)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"NVML_STUB_TROUBLE": "permission"}, "Insufficient Permissions"),
        ({"NVML_STUB_NO_ENERGY": "1"}, "Not Supported"),
        ({"NVML_STUB_BOARDS": "0"}, "no board at all"),
        ({"NVML_STUB_BOARDS": "2", "NVML_STUB_LOST_BOARD": "1"}, "not every board (board 1: GPU is lost)"),
    ],
)
def test_a_counter_that_may_not_be_read_is_no_counter(
    nvml_stub: Path, environment: dict[str, str], reason: str
) -> None:
    (answer,), log = metered(nvml_stub, "serve(0.3)", **environment)
    assert (answer["method"], answer["joules"]) == ("unavailable", None)
    assert reason in log


def test_a_frozen_counter_is_doubted_and_what_it_skipped_is_booked_when_it_moves(nvml_stub: Path) -> None:
    (before, frozen, after), log = metered(nvml_stub, 'serve(0.6); in_trouble("frozen", 0.6); serve(0.6)')
    assert before["joules"] > 0
    assert (frozen["joules"], frozen["method"]) == (None, "unavailable")
    assert "stands still" in frozen["trouble"]
    assert frozen["age"] > 0.2
    assert frozen["watts"] > 0  # the last good reading, growing old; never 0
    assert after["joules"] > 0
    seconds = sum(it["seconds"] for it in (before, frozen, after))
    assert after["counter"] == pytest.approx(40_000 * seconds, rel=0.35)
    assert "energy is metered again" in log


def test_a_board_that_falls_off_the_bus_makes_figures_unknown_until_it_is_back(nvml_stub: Path) -> None:
    (before, lost, after), _ = metered(nvml_stub, 'serve(0.5); in_trouble("lost", 0.5); serve(0.8)')
    assert before["joules"] > 0
    assert (lost["joules"], lost["method"]) == (None, "unavailable")
    assert "GPU is lost" in lost["trouble"]
    assert after["joules"] > 0


def test_a_change_of_profile_in_which_a_board_is_lost_for_good_ends_and_idle_joules_stay_idle(nvml_stub: Path) -> None:
    change = (
        "serve(0.5)\n"
        "with ledger.phase('reconfigure'):\n"
        "    os.environ['NVML_STUB_LOST_BOARD'] = '0'; serve(0.5)\n"
        "del os.environ['NVML_STUB_LOST_BOARD']\n"
        "time.sleep(0.3); meter.settle(); before = ledger.parts()\n"
        "time.sleep(0.3); meter.settle(); after = ledger.parts()\n"
        "said.append({'error': 0, 'idle': after.idle_mj - before.idle_mj,\n"
        "             'reconfigure': after.reconfigure_mj - before.reconfigure_mj})\n"
    )
    (_, lost, later), log = metered(nvml_stub, change)
    assert "GPU is lost" in lost["trouble"]
    assert "energy is metered again" in log
    assert later["idle"] > 0
    assert later["reconfigure"] == 0


@pytest.mark.parametrize("uuid", [False, True])
def test_boards_that_a_pod_was_not_given_may_be_lost_and_its_own_may_not(nvml_stub: Path, uuid: bool) -> None:
    script = (
        "import json, sys\nsys.path[:0] = ['operator', 'workloads']\n"
        "from lowbeam_worker.energy.boards import Boards, NoMeterError\nsaid = []\n"
        "for name in sys.argv[1:]:\n"
        "    try: said.append(len(Boards((name,)).read().devices))\n"
        "    except NoMeterError as error: said.append(str(error))\n"
        "print(json.dumps(said))"
    )
    names = [f"GPU-57ab0000-0000-0000-0000-{index:012d}" if uuid else str(index) for index in (0, 1)]
    found = subprocess.run(
        [sys.executable, "-c", script, *names],
        cwd=ROOT,
        env=os.environ | {"LD_LIBRARY_PATH": str(nvml_stub), "NVML_STUB_BOARDS": "2", "NVML_STUB_LOST_BOARD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    own, lost = json.loads(found.stdout)
    assert own == 1
    assert f"no board called {names[1]} (board 1: GPU is lost)" in lost


def test_a_reload_of_the_driver_costs_one_window(nvml_stub: Path) -> None:
    (answer,), _ = metered(nvml_stub, "serve(1.2)", NVML_STUB_BACKWARDS_AFTER_S="0.5")
    assert answer["resets"] == 1
    # However long a busy machine makes a window, one is lost and there are several.
    assert 40_000 * 0.3 * answer["seconds"] < answer["counter"] < 40_000 * answer["seconds"]


class Script:
    """A source that plays a list of readings."""

    method, scope, name = MeterMethod.NVML, MeterScope.DEVICE, "a script"

    def __init__(self) -> None:
        self.now_s, self.counter_mj, self.sensor_watts, self.closed = 0.0, 0, 100.0, False
        self.readable = True
        self.boards: list[float] = []
        """Joules of each; empty: only the sum is known."""

    def read(self) -> Reading:
        if self.boards:
            self.counter_mj = round(sum(self.boards) * 1000)
        counter = self.counter_mj if self.readable else None
        devices = tuple(DeviceReading(uuid=f"GPU-{i}", joules_total=joules) for i, joules in enumerate(self.boards))
        return Reading(devices, self.now_s, self.now_s, counter, self.sensor_watts, self.sensor_watts)

    def why_unreadable(self) -> str | None:
        return None if self.readable else "GPU is lost"

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("counted_watts", "ratio"), [(100, 1.0), (30, 0.3), (210, 2.1)])
def test_counter_and_power_sensor_are_compared(
    counted_watts: int, ratio: float, caplog: pytest.LogCaptureFixture
) -> None:
    source, ledger = Script(), Ledger()
    meter = Meter(source, ledger)
    assert meter.agreement is None
    for _ in range(round(CHECK_SECONDS * 2)):
        source.now_s += 1
        source.counter_mj += counted_watts * 1000
        meter.sample()
    assert meter.agreement == pytest.approx(ratio)
    assert ("disagree" in caplog.text) == (ratio != 1.0)


def test_a_counter_that_moves_in_leaps_does_not_read_as_no_power() -> None:
    source = Script()
    meter = Meter(source, Ledger())
    for tick in range(40):
        source.now_s = tick * 0.1
        source.counter_mj = 100_000 * (tick // 15)
        meter.sample()
        assert meter.last is not None
        assert meter.last.watts is not None
        assert meter.last.watts > 30


@pytest.mark.parametrize(("sensor_watts", "is_frozen"), [(None, True), (100.0, True), (0.0, False)])
def test_a_counter_that_stands_still_is_no_zero_unless_the_sensor_says_so(
    sensor_watts: float | None, is_frozen: bool
) -> None:
    source = Script()
    source.sensor_watts = sensor_watts
    meter = Meter(source, Ledger())
    for tick in range(40):
        source.now_s = tick * 0.1
        source.counter_mj = 10_000 * min(tick, 10)
        meter.sample()
    assert (meter.trouble is not None) is is_frozen
    assert meter.last is not None
    assert meter.last.at_monotonic_s < 3.1 if is_frozen else meter.last.watts == 0
    assert meter.method is (MeterMethod.UNAVAILABLE if is_frozen else MeterMethod.NVML)


def test_a_board_that_is_reset_beside_one_that_runs_on_costs_one_window_and_is_no_negative_power() -> None:
    source, ledger = Script(), Ledger()
    meter, joules = Meter(source, ledger), [5.0, 1000.0]
    for tick in range(20):
        source.now_s = tick * 0.5
        joules = [0.0 if tick == 10 else joules[0] + 1, joules[1] + 150]
        source.boards = joules
        meter.sample()
        assert meter.last is not None
        assert all((device.watts or 0) >= 0 for device in meter.last.devices)
    assert (meter.counter_resets, meter.error_joules()) == (1, 0)
    assert ledger.parts().counter_mj == 18 * 151_000, "19 windows less the one of the reset"


def test_a_source_that_stays_gone_is_opened_anew() -> None:
    first, second, ledger = Script(), Script(), Ledger()
    second.counter_mj = 5_000_000
    meter = Meter(first, ledger, lambda: second)
    meter.sample()
    first.readable = False
    first.now_s = 1.0
    meter.sample()
    second.now_s = first.now_s = 2.0 + REOPEN_SECONDS
    meter.sample()
    assert first.closed
    for tick in range(3):
        second.now_s += 1
        second.counter_mj += 1000 * (tick > 0)
        meter.sample()
    assert ledger.parts().counter_mj == 2000  # and not the difference between two counters
    assert meter.error_joules() == 0


def powercap(folder: Path, counters: dict[str, tuple[str, int, int]]) -> Path:
    for name, (kind, counter_uj, range_uj) in counters.items():
        domain = folder / name
        domain.mkdir(parents=True, exist_ok=True)
        (domain / "name").write_text(kind + "\n", encoding="ascii")
        (domain / "energy_uj").write_text(f"{counter_uj}\n", encoding="ascii")
        (domain / "max_energy_range_uj").write_text(f"{range_uj}\n", encoding="ascii")
    return folder


def test_rapl_counts_packages_and_their_memory_across_a_wrap_and_is_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = {
        "intel-rapl:0": ("package-0", 900_000, 1_000_000),
        "intel-rapl:0:0": ("core", 5, 1_000_000),
        "intel-rapl:0:1": ("dram", 100_000, 1_000_000),
    }
    monkeypatch.setenv("LOWBEAM_POWERCAP", str(powercap(tmp_path, domains)))
    packages = Packages()
    assert packages.read().counter_mj == 0
    domains["intel-rapl:0"] = ("package-0", 50_000, 1_000_000)  # wrapped: 150 mJ
    domains["intel-rapl:0:1"] = ("dram", 130_000, 1_000_000)
    powercap(tmp_path, domains)
    reading = packages.read()
    assert reading.counter_mj == 180
    assert reading.watts is None
    meter = open_meter((), Ledger())
    assert (meter.method, meter.scope) == (MeterMethod.RAPL, MeterScope.SHARED)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert packages.read().counter_mj is None
    assert "cannot be read any more" in (packages.why_unreadable() or "")


def test_rapl_that_only_root_may_read_says_how_to_allow_it(tmp_path: Path) -> None:
    folder = powercap(tmp_path, {"intel-rapl:0": ("package-0", 1, 10)})
    (folder / "intel-rapl:0" / "energy_uj").write_text("not a number", encoding="ascii")
    with pytest.raises(NoMeterError, match="LOWBEAM_POWERCAP"):
        Packages(folder)
    with pytest.raises(NoMeterError, match="no energy counters"):
        Packages(tmp_path / "nothing")


def test_headers_name_only_what_is_known() -> None:
    ledger = Ledger()
    account = ledger.open_account(0.0)
    ledger.begin_step(0.0, [(account, 1)], 1.0)
    ledger.end_step(1.0, 1.5)
    headers = energy_headers(energy_statement(ledger.charge(account, 1.0), Meter(None, ledger)))
    assert headers == {
        "X-Energy-Method": "unavailable",
        "X-Energy-Scope": "none",
        "X-Energy-CPU-Seconds": "0.500000",
    }


def test_how_old_watts_are_does_not_depend_on_the_clock_on_the_wall() -> None:
    """A power budget is kept by watts of now: after a clock was set back, old ones must not pass for them."""
    meter = SimpleNamespace(last=Reading((), time.time(), time.monotonic() - 60, 1, 310.0))
    worker = cast(Worker, SimpleNamespace(meter=meter))
    assert fresh_watts(worker) is None
    meter.last = Reading((), time.time() - 3600, time.monotonic(), 1, 310.0)
    assert fresh_watts(worker) == 310
