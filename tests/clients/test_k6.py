"""k6 against workers: refusals, streams and embeddings are right under load, and clients that vanish leave no slot
taken. The checks are in worker.js; k6 fails when one of them does not hold."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from tests.clients.board import MOST_WATTS
from tests.clients.runs import FIGURES, counted, run_client
from tests.worker.conftest import WorkerProcess

pytestmark = pytest.mark.timeout(900)  # a worker's start and a client's run, on a machine that does other things too
SCRIPT = Path(__file__).with_name("worker.js")


def command(k6: Path, part: str, url: str) -> list[object]:
    # Without the flag k6 reports its use to its makers.
    return [k6, "run", "--no-usage-report", "--quiet", "-e", f"PART={part}", "-e", f"URL={url}", SCRIPT]


def metrics(k6: Path, part: str, url: str, folder: Path) -> dict[str, dict[str, float]]:
    """Run a part of the script; what k6 counted, after no check failed."""
    run_client(
        [*command(k6, part, url)[:3], "--summary-export", folder / "out.json", *command(k6, part, url)[3:]], folder
    )
    found: dict[str, dict[str, float]] = json.loads((folder / "out.json").read_text(encoding="utf-8"))["metrics"]
    assert found["checks"]["fails"] == 0
    return found


def checks(k6: Path, part: str, url: str, folder: Path) -> int:
    """Run a part of the script; how many checks held, after none failed."""
    return int(metrics(k6, part, url, folder)["checks"]["passes"])


def until_idle(worker: WorkerProcess, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while counted(worker)["vllm:num_requests_running"] + counted(worker)["vllm:num_requests_waiting"]:
        assert time.monotonic() < deadline, "slots are still taken"
        time.sleep(0.05)


def answers(worker: WorkerProcess) -> bool:
    body = {"model": "tiny", "prompt": "Power", "max_tokens": 4}
    return httpx.post(f"{worker.url}/v1/completions", json=body, timeout=30).status_code == 200


def active_joules(worker: WorkerProcess) -> float:
    """What the worker has booked to requests, when the last window has closed."""
    time.sleep(1.0)
    return counted(worker, phase="active")["lowbeam_worker_energy_joules_total"]


def test_refusals_hold_under_load(k6: Path, decoder: WorkerProcess, tmp_path: Path) -> None:
    held = checks(k6, "refusals", decoder.url, tmp_path)
    assert counted(decoder)["lowbeam_worker_requests_refused_total"] == 4 * 50
    FIGURES.append(f"k6: {held} checks of refusals at 5 users: all hold")


def test_streams_hold_under_load_and_their_joules_add_up(k6: Path, decoder: WorkerProcess, tmp_path: Path) -> None:
    before = active_joules(decoder)
    found = metrics(k6, "streams", decoder.url, tmp_path)
    stated, booked = found["joules"]["count"], active_joules(decoder) - before
    assert abs(stated - booked) <= 1.0 * MOST_WATTS  # a second of steps: ledger.py says why
    FIGURES.append(
        f"k6: {found['checks']['passes']:.0f} checks of streams at 16 users: all hold; {stated:.1f} J in answers, "
        f"{booked:.1f} J booked ({100 * (stated / booked - 1):+.1f} %)"
    )


def test_who_comes_too_often_is_told_when_to_come_again(k6: Path, decoder: WorkerProcess, tmp_path: Path) -> None:
    limit = {"generation": 1, "requestsPerSecond": 2}
    assert httpx.patch(f"{decoder.control_url}/control/profile", json=limit).status_code == 200
    checks(k6, "limited", decoder.url, tmp_path)
    found = counted(decoder)
    refused = found["lowbeam_worker_requests_refused_total"]
    assert refused > 20
    assert found["vllm:request_success_total"] == found["lowbeam_worker_requests_received_total"] - refused


def test_embeddings_of_fifty_users_are_right(k6: Path, encoder: WorkerProcess, tmp_path: Path) -> None:
    held = checks(k6, "embeddings", encoder.url, tmp_path)
    assert held == 4 * 1000
    assert counted(encoder)["vllm:request_success_total"] == 1000
    FIGURES.append(f"k6: {held} checks of 1000 embeddings at 50 users: all hold")


def test_clients_that_vanish_leave_no_slot_taken(k6: Path, decoder: WorkerProcess, tmp_path: Path) -> None:
    checks(k6, "leavers", decoder.url, tmp_path)
    until_idle(decoder, 5)
    assert answers(decoder)


def test_a_killed_load_generator_leaves_no_slot_taken(k6: Path, decoder: WorkerProcess) -> None:
    generator = subprocess.Popen([str(part) for part in command(k6, "leavers", decoder.url)])
    deadline = time.monotonic() + 30
    while not counted(decoder)["vllm:num_requests_running"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    generator.kill()
    generator.wait()
    until_idle(decoder, 5)
    assert answers(decoder)


def test_a_drained_worker_answers_what_it_has_and_sends_the_rest_elsewhere(
    k6: Path, decoder: WorkerProcess, tmp_path: Path
) -> None:
    with subprocess.Popen([str(part) for part in command(k6, "drained", decoder.url)]) as generator:
        deadline = time.monotonic() + 30
        while counted(decoder).get("vllm:request_success_total", 0) < 16:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert httpx.post(f"{decoder.control_url}/control/drain", timeout=60).status_code < 300
        assert generator.wait(60) == 0, "a request was lost, or refused in another way"
    until_idle(decoder, 1)
    assert counted(decoder)["lowbeam_worker_requests_refused_total"] > 0
