"""The control port: telemetry as the operator reads it, profile changes that may be sent again, drain, token."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from lowbeam.api.wire import ProfileChangeResult, RunningProfile, WorkerTelemetry
from lowbeam_worker.control.app import control_app
from lowbeam_worker.options import Task
from tests.worker.conftest import MINILM, LocalWorker, local_worker, options

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def fresh() -> AsyncIterator[LocalWorker]:
    """A worker of its own: these tests change its state."""
    async for local in local_worker(options(Task.FEATURE_EXTRACTION, "minilm", MINILM)):
        yield local


async def change(local: LocalWorker, **body: int) -> httpx.Response:
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
    assert fresh.worker.engine.batch_limit == 2
    read = RunningProfile.model_validate_json((await fresh.control.get("/control/profile")).content)
    assert read == result.profile


async def test_an_older_decision_and_another_one_of_the_same_generation_are_refused(fresh: LocalWorker) -> None:
    await change(fresh, generation=5, batchLimit=4)
    older = await change(fresh, generation=4, batchLimit=8)
    other = await change(fresh, generation=5, batchLimit=8)
    assert (older.status_code, other.status_code) == (409, 409)
    assert "generation 4 is not newer than 5" in older.json()["error"]
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
    assert 'lowbeam_worker_energy_method_info{method="unavailable",scope="none"} 1.0' in text
    assert 'vllm:num_requests_running{model_name="minilm"} 0.0' in text
    assert "lowbeam_worker_energy_joules_total" not in text
