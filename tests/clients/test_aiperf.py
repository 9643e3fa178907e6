"""NVIDIA's AIPerf against a metered worker: its requests, its counts and its joules are ours.

AIPerf reads the board itself, through the same NVML stub; the board's counter lies outside both processes. Its joules
are the counter's difference between the last sample before its first request and the last one within 666 ms after the
end, so they may differ from ours by what the board draws in that slack: the sampling error, which is computed below.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.board import IDLE_WATTS, MOST_WATTS, REFRESH_SECONDS
from tests.clients.runs import FIGURES, counted, run_client
from tests.worker.conftest import WorkerProcess

pytestmark = pytest.mark.timeout(900)  # a worker's start and a client's run, on a machine that does other things too
REQUESTS = 96
CONCURRENCY = 8
ANSWER_TOKENS = 128
SCRAPE_SECONDS = 0.333
"""AIPerf's own interval for /metrics."""
WINDOW_SECONDS = 0.3
"""Our ledger closes a window when the counter has moved and 0.2 s have passed, and looks every 0.1 s."""


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def stated_energy(record: dict[str, Any]) -> dict[str, Any]:
    """`usage.energy` of the last chunk that has one."""
    events = [packet["value"] for answer in record["responses"] for packet in answer["packets"]]
    stated = [json.loads(event)["usage"] for event in events if '"energy"' in event]
    found: dict[str, Any] = stated[-1]["energy"]
    return found


def counter_at(scrapes: list[dict[str, Any]], at_ns: int) -> float:
    """Our counter, as AIPerf scraped it, between its two nearest scrapes."""
    points = [
        (scrape["timestamp_ns"], scrape["metrics"]["lowbeam_worker_energy_counter_joules"][0]["value"])
        for scrape in scrapes
    ]
    (before_ns, before), (after_ns, after) = next(
        (one, two) for one, two in itertools.pairwise(points) if one[0] <= at_ns <= two[0]
    )
    return float(before + (after - before) * (at_ns - before_ns) / (after_ns - before_ns))


def test_its_joules_per_request_are_ours_within_its_sampling_error(
    aiperf: Path, decoder: WorkerProcess, on_the_board: dict[str, str], tokenizer: Path, tmp_path: Path
) -> None:
    before, active_before = counted(decoder), counted(decoder, phase="active")
    run_client(
        [
            *(aiperf, "profile", "--url", decoder.url, "--model", "tiny", "--tokenizer", tokenizer),
            *("--endpoint-type", "chat", "--streaming", "--use-server-token-count"),
            *("--concurrency", CONCURRENCY, "--request-count", REQUESTS, "--isl", 48, "--osl", ANSWER_TOKENS),
            *("--extra-inputs", "ignore_eos:true", "--random-seed", 7),
            *("--gpu-telemetry", "pynvml", "--server-metrics-formats", "json", "jsonl"),
            *("--export-level", "raw", "--ui", "none", "--artifact-dir", tmp_path / "out"),
        ],
        tmp_path,
        **on_the_board,
    )
    after, active_after = counted(decoder), counted(decoder, phase="active")
    summary = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    records = lines(tmp_path / "out" / "profile_export_raw.jsonl")
    board_samples = lines(tmp_path / "out" / "gpu_telemetry_export.jsonl")
    scrapes = [one for one in lines(tmp_path / "out" / "server_metrics_export.jsonl") if one.get("metrics")]

    # Every request answered, at the length that was asked for, and both count the same.
    assert summary["error_summary"] == []
    assert summary["request_count"]["avg"] == len(records) == REQUESTS
    assert summary["output_sequence_length"]["min"] == summary["output_sequence_length"]["max"] == ANSWER_TOKENS
    for name, expected in (
        ("lowbeam_worker_requests_received_total", REQUESTS),
        ("vllm:request_success_total", REQUESTS),
        ("vllm:generation_tokens_total", summary["total_osl"]["avg"]),
        ("vllm:prompt_tokens_total", summary["total_isl"]["avg"]),
    ):
        assert after[name] - before.get(name, 0) == expected, name
    # It found /metrics by itself, and reads the names of the model-server protocol there.
    scraped = json.loads((tmp_path / "out" / "server_metrics_export.json").read_text(encoding="utf-8"))["metrics"]
    assert {"vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:time_to_first_token_seconds"} <= set(scraped)

    # Joules, by its two samples at the ends.
    started_ns = min(record["metadata"]["request_start_ns"] for record in records)
    ended_ns = max(record["metadata"]["request_end_ns"] for record in records)
    theirs = summary["nvidia_total_gpu_energy"]["avg"]
    joules_at = {one["timestamp_ns"]: one["telemetry_data"]["nvidia_energy_consumption"] * 1e6 for one in board_samples}
    first_ns, last_ns = min(
        ((first, last) for first in joules_at for last in joules_at if last > first),
        key=lambda ends: (abs(joules_at[ends[1]] - joules_at[ends[0]] - theirs), abs(ends[0] - started_ns)),
    )
    assert joules_at[last_ns] - joules_at[first_ns] == pytest.approx(theirs, abs=0.01)
    ours = counter_at(scrapes, last_ns) - counter_at(scrapes, first_ns)
    slack_s = abs(started_ns - first_ns) / 1e9 + abs(last_ns - ended_ns) / 1e9
    # Ours is read at two scrapes, and is behind the board by a window: at either end the board draws between its least
    # and its most for as long.
    sampling_error = 2 * (SCRAPE_SECONDS + WINDOW_SECONDS + REFRESH_SECONDS) * (MOST_WATTS - IDLE_WATTS)
    assert abs(theirs - ours) <= sampling_error

    # The same from the answers: each values its part of the window that is open when it ends at the latest busy watts.
    stated = [stated_energy(record) for record in records]
    assert {one["method"] for one in stated} == {"nvml"}
    active = sum(one["joules"] for one in stated)
    idle = sum(one["idle_joules"] for one in stated)
    open_s = sum(one["age_s"] + REFRESH_SECONDS for one in stated) / CONCURRENCY
    stating_error = open_s * (MOST_WATTS - IDLE_WATTS)
    assert abs(theirs - (active + idle)) <= stating_error + (slack_s + 2 * REFRESH_SECONDS) * MOST_WATTS
    charged = "lowbeam_worker_energy_charged_joules_total"
    assert after[charged] - before.get(charged, 0) == pytest.approx(active, abs=0.001)
    phase = "lowbeam_worker_energy_joules_total"
    booked = active_after[phase] - active_before[phase]
    assert abs(active - booked) <= 1.0 * MOST_WATTS  # a second of steps, however many answers there are
    unsettled = sum(one["unsettled_joules"] for one in stated)
    assert after["lowbeam_worker_energy_ledger_error_joules"] == 0
    FIGURES.extend(
        [
            f"AIPerf {summary['aiperf_version']}: {REQUESTS} requests of {ANSWER_TOKENS} tokens at {CONCURRENCY}, "
            f"{(ended_ns - started_ns) / 1e9:.1f} s",
            f"  its joules {theirs:.1f} ({theirs / REQUESTS:.3f} per request), our counter {ours:.1f} "
            f"({ours / REQUESTS:.3f}): difference {100 * (theirs - ours) / ours:+.2f} %, "
            f"sampling error {100 * sampling_error / ours:.1f} %",
            f"  stated in answers {active + idle:.1f} ({(active + idle) / REQUESTS:.3f} a request: {active:.1f} busy, "
            f"{idle:.1f} idle): difference {100 * (theirs - active - idle) / (active + idle):+.2f} %",
            f"  busy joules in answers {active:.1f}, {unsettled:.1f} of them unsettled; booked {booked:.1f}",
        ]
    )


def test_its_embeddings_are_all_answered_and_counted(
    aiperf: Path, encoder: WorkerProcess, tokenizer: Path, tmp_path: Path
) -> None:
    before = counted(encoder)
    run_client(
        [
            *(aiperf, "profile", "--url", encoder.url, "--model", "minilm", "--tokenizer", tokenizer),
            *("--endpoint-type", "embeddings", "--concurrency", CONCURRENCY, "--request-count", 200, "--isl", 40),
            *("--no-gpu-telemetry", "--ui", "none", "--artifact-dir", tmp_path / "out"),
        ],
        tmp_path,
    )
    summary = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    after = counted(encoder)
    assert summary["error_summary"] == []
    assert summary["request_count"]["avg"] == 200
    name = "vllm:request_success_total"
    assert after[name] - before.get(name, 0) == 200
    FIGURES.append(f"AIPerf embeddings: 200 of 200 answered, {summary['request_throughput']['avg']:.0f} requests/s")
