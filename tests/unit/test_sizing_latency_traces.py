"""The carried traces are what their README says, and the replay is right where it can be done by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tools.latency import traces
from tools.latency.replay import Replica, replay

COUNTS = {"Azure conversation": 19_366, "Azure code": 8_819, "Mooncake conversation": 12_031}


@pytest.mark.parametrize("name", COUNTS)
def test_a_carried_trace_is_whole_sorted_and_described(name: str) -> None:
    trace = traces.load(name)
    assert trace.arrival.size == trace.output_tokens.size == COUNTS[name]
    assert trace.arrival[0] == 0
    assert (np.diff(trace.arrival) >= 0).all()
    readme = (traces.FILES[name].parent / "README.md").read_text()
    assert f"{COUNTS[name]:,}" in readme
    assert "Licence" in readme


def test_an_azure_file_is_reduced_to_milliseconds_and_tokens(tmp_path: Path) -> None:
    source, target = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    source.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:04.0319600,3180,8\n"
        "2023-11-16 18:17:03.9799600,4808,10\n"
    )
    assert traces.carry_azure(source, target) == 2
    first = target.read_bytes()
    traces.carry_azure(source, target)
    assert target.read_bytes() == first, "the same source gives the same bytes"


def test_a_mooncake_file_loses_its_prompt_hashes(tmp_path: Path) -> None:
    source, target = tmp_path / "m.jsonl", tmp_path / "m.csv.gz"
    rows = [{"timestamp": 3000 * i, "input_length": 5, "output_length": 7, "hash_ids": [1]} for i in (1, 2)]
    source.write_text("\n".join(json.dumps(row) for row in rows))
    assert traces.carry_mooncake(source, target) == 2


def test_an_encoder_takes_what_has_arrived_when_it_is_free() -> None:
    replica = Replica(encoder=True, limit=2, slope=0.5, full_seconds=1.0)
    taken = replay(replica, np.array([0.0, 0.1, 0.2, 0.3]), np.ones(4)).wholes
    # One alone (0.75 s), then two together (1 s), then the last alone.
    assert taken.tolist() == pytest.approx([0.75, 1.65, 1.55, 2.2])


def test_a_decoder_slows_down_when_a_second_request_joins_and_keeps_a_third_waiting() -> None:
    replica = Replica(encoder=False, limit=2, slope=1.0, full_seconds=1.0)
    taken = replay(replica, np.array([0.0, 0.25, 0.3]), np.array([1.0, 1.0, 1.0])).wholes
    # Alone at double speed until 0.25 (half done), then both at single speed: the first ends at 0.75, when the third
    # begins; the second ends at 1.25, and the third, half done, alone after another 0.25.
    assert taken.tolist() == pytest.approx([0.75, 1.0, 1.2])


def test_answers_alone_on_a_flat_replica_take_their_own_length() -> None:
    replica = Replica(encoder=False, limit=4, slope=0.0, full_seconds=2.0)
    assert replay(replica, np.array([0.0, 50.0]), np.array([0.5, 3.0])).wholes.tolist() == pytest.approx([1.0, 6.0])
