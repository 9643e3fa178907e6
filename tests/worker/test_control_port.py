"""The control port: telemetry as the operator reads it, profile changes that may be sent again, drain, token."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from lowbeam.api.wire import DrainStarted, ProfileChangeResult, RunningProfile, WorkerTelemetry
from lowbeam_worker.control.app import control_app
from lowbeam_worker.models import CannotLoadError
from lowbeam_worker.options import Precision, Task
from tests.worker.conftest import LLAMA, MINILM, LocalWorker, local_worker, options

pytestmark = pytest.mark.asyncio(loop_scope="session")
TEXT = "How many joules is this?"


@pytest_asyncio.fixture(loop_scope="session")
async def fresh() -> AsyncIterator[LocalWorker]:
    """A worker of its own: these tests change its state."""
    async for local in local_worker(options(Task.FEATURE_EXTRACTION, "minilm", MINILM)):
        yield local


@pytest_asyncio.fixture(loop_scope="session")
async def writer() -> AsyncIterator[LocalWorker]:
    """A language model of its own."""
    async for local in local_worker(options(Task.TEXT_GENERATION, "tiny", LLAMA)):
        yield local


async def change(local: LocalWorker, **body: object) -> httpx.Response:
    return await local.control.patch("/control/profile", json=body)


async def test_telemetry_is_what_the_operator_expects(minilm: LocalWorker) -> None:
    before = WorkerTelemetry.model_validate_json((await minilm.control.get("/telemetry")).content)
    await minilm.serving.post("/v1/embeddings", json={"model": "minilm", "input": ["one", "two"]})
    await minilm.serving.post("/v1/embeddings", json={"model": "wrong", "input": "x"})
    after = WorkerTelemetry.model_validate_json((await minilm.control.get("/telemetry")).content)
    assert (after.pod, after.namespace, after.state) == ("worker-0", "tests", "ready")
    assert after.requests_total - before.requests_total == 1
    assert after.requests_received_total - before.requests_received_total == 2
    assert after.input_tokens_total > before.input_tokens_total
    assert (after.method, after.scope) == ("unavailable", "none")
    assert after.watts is None
    assert after.energy_joules is None
    assert after.cpu_seconds_total > 0


async def test_a_batch_limit_changes_while_serving_and_the_same_change_is_not_made_twice(fresh: LocalWorker) -> None:
    first = await change(fresh, generation=3, batchLimit=2)
    again = await change(fresh, generation=3, batchLimit=2)
    result = ProfileChangeResult.model_validate_json(first.content)
    assert result.changed
    assert (result.profile.batch_limit, result.profile.generation) == (2, 3)
    assert result.joules is None
    assert again.content == first.content
    assert fresh.worker.engine is not None
    assert fresh.worker.engine.limits.batch == 2
    read = RunningProfile.model_validate_json((await fresh.control.get("/control/profile")).content)
    assert read == result.profile


async def test_an_older_decision_and_another_one_of_the_same_generation_are_refused(fresh: LocalWorker) -> None:
    await change(fresh, generation=5, batchLimit=4)
    older = await change(fresh, generation=4, batchLimit=8)
    other = await change(fresh, generation=5, batchLimit=8)
    assert (older.status_code, other.status_code) == (409, 409)
    assert "generation 4 is not newer than 5" in older.json()["error"]
    assert (older.json()["generation"], other.json()["generation"]) == (5, 5)
    assert fresh.worker.profile().batch_limit == 4


async def test_a_change_that_cannot_be_made_changes_nothing(fresh: LocalWorker) -> None:
    wrong = await change(fresh, generation=1, batchLimit=0)
    garbage = await fresh.control.patch("/control/profile", content=b"[]")
    assert (wrong.status_code, garbage.status_code) == (422, 422)
    assert "batchLimit" in wrong.json()["error"]
    assert fresh.worker.profile().generation == 0


async def test_a_drained_worker_is_not_ready_and_refuses_new_requests(fresh: LocalWorker) -> None:
    assert (await fresh.serving.get("/ready")).status_code == 200
    assert (await fresh.control.post("/control/drain")).status_code == 202
    refused = await fresh.serving.post("/v1/embeddings", json={"model": "minilm", "input": "x"})
    assert (await fresh.serving.get("/ready")).status_code == 503
    assert (await fresh.serving.get("/health")).status_code == 200
    assert refused.status_code == 503
    assert "Retry-After" in refused.headers
    assert fresh.worker.telemetry().state == "draining"


async def test_draining_tells_who_is_still_here_and_may_be_said_twice(writer: LocalWorker) -> None:
    body = {"model": "tiny", "prompt": "Power is", "max_tokens": 60, "temperature": 0}
    post = writer.serving.post("/v1/completions", json=body, headers={"X-Request-Id": "mine"})
    asked = asyncio.create_task(post)
    while not writer.worker.requests_in_flight():  # noqa: ASYNC110 - the worker has no event for it
        await asyncio.sleep(0)
    first = DrainStarted.model_validate_json((await writer.control.post("/control/drain")).content)
    assert (first.state, first.requests_in_flight, first.requests) == ("draining", 1, ("mine",))
    assert (await asked).status_code == 200
    again = DrainStarted.model_validate_json((await writer.control.post("/control/drain")).content)
    assert again.requests_in_flight == 0


async def test_a_change_names_the_requests_that_go_on_under_it(writer: LocalWorker) -> None:
    body = {"model": "tiny", "prompt": "Power is", "max_tokens": 60, "temperature": 0}
    alone = (await writer.serving.post("/v1/completions", json=body)).json()["choices"]
    names = [f"r{number}" for number in range(6)]
    asked = [
        asyncio.create_task(writer.serving.post("/v1/completions", json=body, headers={"X-Request-Id": name}))
        for name in names
    ]
    while len(writer.worker.requests_in_flight()) < 6:  # noqa: ASYNC110 - the worker has no event for it
        await asyncio.sleep(0)
    result = ProfileChangeResult.model_validate_json((await change(writer, generation=1, batchLimit=1)).content)
    assert result.requests_touched == 6
    assert result.requests == tuple(names)
    assert result.seconds < 5
    answers = await asyncio.gather(*asked)
    assert [answer.json()["choices"] for answer in answers] == [alone] * 6
    # What only counts for later requests touches none.
    later = ProfileChangeResult.model_validate_json((await change(writer, generation=2, maxOutputTokens=32)).content)
    assert (later.changed, later.requests_touched) == (True, 0)


async def test_tokens_per_step_and_lengths_of_answers_change_while_serving(writer: LocalWorker) -> None:
    wish = {"tokenBudget": 64, "maxOutputTokens": 20, "defaultOutputTokens": 5}
    result = ProfileChangeResult.model_validate_json((await change(writer, generation=1, **wish)).content)
    assert writer.worker.engine is not None
    assert writer.worker.engine.limits.step_tokens == 64
    assert (result.profile.token_budget, result.profile.max_output_tokens, result.profile.default_output_tokens) == (
        64,
        20,
        5,
    )
    body = {"model": "tiny", "prompt": "Power is scarce " * 20, "temperature": 0}
    usual = await writer.serving.post("/v1/completions", json=body)
    long = await writer.serving.post("/v1/completions", json={**body, "max_tokens": 21})
    assert usual.json()["usage"]["completion_tokens"] <= 5
    assert long.status_code == 400
    assert "at most 20 tokens" in long.json()["error"]["message"]


async def test_the_admission_rate_holds_the_rest_back_until_it_is_lifted(fresh: LocalWorker) -> None:
    async def ask() -> httpx.Response:
        return await fresh.serving.post("/v1/embeddings", json={"model": "minilm", "input": "x"})

    # So slow that no machine is slow enough to be let in a second time.
    await change(fresh, generation=1, requestsPerSecond=0.002)
    assert [(await ask()).status_code for _ in range(6)] == [200, *[429] * 5]
    refused = await ask()
    assert refused.json()["error"]["code"] == "admission_rate"
    assert 100 < int(refused.headers["Retry-After"]) <= 500
    lifted = await change(fresh, generation=2, requestsPerSecond=None)
    assert lifted.json()["profile"]["requestsPerSecond"] is None
    assert [(await ask()).status_code for _ in range(6)] == [200] * 6


async def test_of_two_writers_the_newer_decision_stands_whoever_comes_first(fresh: LocalWorker) -> None:
    wishes = [{"generation": number, "batchLimit": number} for number in range(1, 21)]
    random.Random(3).shuffle(wishes)
    answers = await asyncio.gather(*(change(fresh, **wish) for wish in wishes))
    profile = fresh.worker.profile()
    assert (profile.generation, profile.batch_limit) == (20, 20)
    made = [wish["generation"] for wish, answer in zip(wishes, answers, strict=True) if answer.status_code == 200]
    assert made == sorted(made)
    assert {answer.status_code for answer in answers} == {200, 409}


@pytest.mark.parametrize(
    ("wish", "part"),
    [
        ({"batchLimit": 65536}, "batchLimit: batch limit 65536 is outside 1 to 512"),
        ({"tokenBudget": 1 << 20}, "tokenBudget"),
        ({"defaultOutputTokens": 100, "maxOutputTokens": 50}, "defaultOutputTokens 100 is above maxOutputTokens 50"),
        ({"defaultOutputTokens": 1000}, "above maxOutputTokens 64"),
        ({"maxThinkingTokens": 100}, "no mark for the end of its thinking"),
        ({"powerBudgetWatts": 100.0}, "no power meter"),
        ({"precision": "fp4"}, "'fp4' is none of fp32"),
        ({"model": "other"}, "model: 'other' at fp32 cannot be had: model 'other' cannot be loaded"),
        ({"requestsPerSecond": 0}, "requestsPerSecond"),
        ({"batchLimit": "4"}, "batchLimit"),
        ({"batchLimit": 4, "temperature": 1}, "temperature"),
    ],
)
async def test_what_cannot_be_had_refuses_the_whole_change_and_is_named(
    llama: LocalWorker, wish: dict[str, object], part: str
) -> None:
    before = llama.worker.profile()
    answer = await change(llama, generation=1, **{"batchLimit": 3, **wish})
    assert answer.status_code == 422, answer.text
    assert part in answer.json()["error"]
    assert llama.worker.profile() == before


async def test_fields_that_have_no_absence_stay_as_they_are_where_null_is_sent(fresh: LocalWorker) -> None:
    await change(fresh, generation=1, batchLimit=4)
    result = await change(fresh, generation=2, batchLimit=None)
    assert (result.json()["changed"], result.json()["profile"]["batchLimit"]) == (False, 4)


async def test_an_encoder_writes_no_answers_whose_length_could_change(fresh: LocalWorker) -> None:
    answer = await change(fresh, generation=1, maxOutputTokens=10)
    assert answer.status_code == 422
    assert "feature-extraction writes no answers" in answer.json()["error"]


async def test_an_encoder_changes_precision_under_load_and_back(fresh: LocalWorker) -> None:
    async def ask() -> np.ndarray[Any, Any]:
        answer = await fresh.serving.post("/v1/embeddings", json={"model": "minilm", "input": TEXT})
        assert answer.status_code == 200
        return np.array(answer.json()["data"][0]["embedding"])

    async def hammer() -> list[np.ndarray[Any, Any]]:
        return [await ask() for _ in range(12)]

    before = await ask()
    seen = []
    for generation, precision in enumerate(("int8", "bf16", "fp32"), start=1):
        load = asyncio.create_task(hammer())
        result = ProfileChangeResult.model_validate_json(
            (await change(fresh, generation=generation, precision=precision)).content
        )
        assert (result.changed, result.profile.precision) == (True, precision)
        seen.append(await ask())
        assert all(vector @ before > 0.95 for vector in await load)
        assert fresh.worker.telemetry().profile.precision == precision
    assert np.abs(seen[0] - before).max() > 1e-4
    assert np.abs(seen[1] - before).max() > 1e-5
    assert np.abs(seen[2] - before).max() < 1e-6


async def test_the_stated_memory_is_that_of_the_precision_that_runs(fresh: LocalWorker) -> None:
    async def stated(local: LocalWorker) -> dict[str, int]:
        memory: dict[str, int] = (await local.serving.get("/info")).json()["memory_bytes"]
        return memory | {"peak": memory["peak"] - memory["runtime"], "runtime": 0}

    at_fp32 = await stated(fresh)
    assert (await change(fresh, generation=1, precision="bf16")).status_code == 200
    at_bf16 = await stated(fresh)
    async for local in local_worker(options(Task.FEATURE_EXTRACTION, "minilm", MINILM, precision=Precision.BF16)):
        assert at_bf16 == await stated(local)
        assert at_bf16 != at_fp32
        assert (await change(local, generation=1, precision="fp32")).status_code == 200
        assert await stated(local) == at_fp32


async def test_a_decoder_goes_to_int8_and_back_with_requests_in_flight(writer: LocalWorker) -> None:
    body = {"model": "tiny", "prompt": "Power is scarce", "max_tokens": 60, "temperature": 0}
    before = (await writer.serving.post("/v1/completions", json=body)).json()["choices"]
    for generation, precision in enumerate(("int8", "fp32"), start=1):
        load = [asyncio.create_task(writer.serving.post("/v1/completions", json=body)) for _ in range(4)]
        await asyncio.sleep(0.02)
        answer = await change(writer, generation=generation, precision=precision)
        assert answer.status_code == 200, answer.text
        answers = await asyncio.gather(*load)
        assert [one.status_code for one in answers] == [200] * 4
    assert writer.worker.engine is not None
    assert writer.worker.engine.stats().restarts == 0
    assert (await writer.serving.post("/v1/completions", json=body)).json()["choices"] == before


async def test_weights_for_which_there_is_no_room_are_not_even_read(
    fresh: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowbeam_worker.models.free_bytes", lambda *_: 20 << 20)
    answer = await change(fresh, generation=1, precision="bf16")
    assert answer.status_code == 422
    message = "would stand beside the old ones: bf16 needs up to 129 MiB and 20 MiB are free"
    assert message in answer.json()["error"]
    assert fresh.worker.profile().precision == "fp32"


async def test_a_precision_whose_weights_do_not_load_leaves_everything_as_it_was(
    fresh: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Any:
        raise CannotLoadError("the disk is gone")

    assert fresh.worker.running is not None
    monkeypatch.setattr(fresh.worker.running, "reload", broken)
    answer = await change(fresh, generation=1, precision="bf16", batchLimit=3)
    assert answer.status_code == 422
    assert "the disk is gone" in answer.json()["error"]
    assert fresh.worker.profile().batch_limit == 8
    assert (fresh.worker.profile().precision, fresh.worker.profile().generation) == ("fp32", 0)
    assert fresh.worker.takes_requests


async def test_a_mounted_token_is_read_anew_and_a_missing_one_lets_nobody_in(
    minilm: LocalWorker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "token"
    given = dataclasses.replace(minilm.worker.options, control_token_file=str(secret), control_token="other")
    monkeypatch.setattr(minilm.worker, "options", given)

    async def status(token: str) -> int:
        return (await minilm.control.get("/telemetry", headers={"Authorization": f"Bearer {token}"})).status_code

    assert [await status("one"), await status("other"), await status("")] == [401, 401, 401]
    secret.write_text("one\n")
    assert [await status("one"), await status("other")] == [200, 401]
    secret.write_text("two\n")
    assert [await status("one"), await status("two")] == [401, 200]
    secret.write_text("")
    assert await status("") == 401


async def test_a_configured_token_is_needed_on_every_route(
    minilm: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm.worker, "options", dataclasses.replace(minilm.worker.options, control_token="secret"))
    transport = httpx.ASGITransport(control_app(minilm.worker))
    async with httpx.AsyncClient(transport=transport, base_url="http://control") as client:
        wrong = {"Authorization": "Bearer guess"}
        for method, path in (("GET", "/telemetry"), ("GET", "/control/profile"), ("PATCH", "/control/profile")):
            assert (await client.request(method, path)).status_code == 401
            assert (await client.request(method, path, headers=wrong)).status_code == 401
        assert (await client.post("/control/drain")).status_code == 401
        right = await client.get("/telemetry", headers={"Authorization": "Bearer secret"})
        assert right.status_code == 200


async def test_metrics_have_our_names_and_those_of_the_model_server_protocol(minilm: LocalWorker) -> None:
    text = (await minilm.serving.get("/metrics")).text
    assert 'lowbeam_worker_batch_limit{model="minilm"} 8.0' in text
    assert 'lowbeam_worker_energy_method_info{method="unavailable",scope="none",source="none"} 1.0' in text
    assert re.search(r'vllm:num_requests_running\{[^}]*model_name="minilm"[^}]*\} 0\.0', text)
    assert "lowbeam_worker_energy_joules_total" not in text
