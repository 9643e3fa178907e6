"""GuideLLM against a worker: answers of the length it asked for, none lost, and the same counts on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.runs import FIGURES, counted, run_client
from tests.worker.conftest import WorkerProcess

pytestmark = pytest.mark.timeout(900)  # a worker's start and a client's run, on a machine that does other things too
REQUESTS = 48


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_every_answer_has_the_length_it_asked_for_and_both_count_the_same(
    route: str, guidellm: Path, decoder: WorkerProcess, tokenizer: Path, tmp_path: Path
) -> None:
    before = counted(decoder)
    run_client(
        [
            *(guidellm, "run", "--backend", f"kind=openai_http,target={decoder.url},model=tiny,request_format={route}"),
            *("--tokenizer", f"kind=huggingface_auto,model={tokenizer}"),
            *("--data", "kind=synthetic_text,prompt_tokens=48,output_tokens=32"),
            *("--profile", "kind=concurrent,streams=8", "--constraint", f"kind=max_requests,count={REQUESTS}"),
            *("--output", f"kind=json,path={tmp_path / 'out.json'}", "--disable-console-interactive"),
        ],
        tmp_path,
    )
    after = counted(decoder)
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["benchmarks"][0]["metrics"]
    assert found["request_totals"] == {"successful": REQUESTS, "errored": 0, "incomplete": 0, "total": REQUESTS}
    written, read = found["output_token_count"]["successful"], found["prompt_token_count"]["successful"]
    assert (written["min"], written["max"]) == (32, 32)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("vllm:generation_tokens_total") == written["total_sum"]
    assert grown("vllm:prompt_tokens_total") == read["total_sum"]
    assert grown("vllm:request_success_total") == REQUESTS
    # What a client waits for its first token begins before our clock and ends after it.
    theirs_ms = found["time_to_first_token_ms"]["successful"]["mean"]
    first = "vllm:time_to_first_token_seconds"
    ours_ms = 1000 * grown(f"{first}_sum") / grown(f"{first}_count")
    assert ours_ms < theirs_ms
    FIGURES.append(
        f"GuideLLM {route}: {REQUESTS} of {REQUESTS} answered with 32 tokens each; mean time to first token "
        f"{theirs_ms:.0f} ms there, {ours_ms:.0f} ms here"
    )
