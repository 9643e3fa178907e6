"""Another model behind the same port, while clients ask: none is lost, none gets a mixture, and what cannot be loaded
changes nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import torch
from transformers import BertForSequenceClassification, BertModel

from lowbeam.api.wire import ProfileChangeResult
from lowbeam_worker import building
from lowbeam_worker.control import changes
from lowbeam_worker.front.encoding import RowRunner
from lowbeam_worker.options import Task
from lowbeam_worker.random_llama import Shape, make_random_llama
from tests.worker.conftest import LLAMA, LocalWorker, local_worker, options
from tests.worker.tiny import save_bert

pytestmark = pytest.mark.asyncio(loop_scope="session")
TEXT = "who lives in paris ? anna"
PROMPT = {"prompt": "Power is", "max_tokens": 60, "temperature": 0}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of all kinds in one folder."""
    folder = tmp_path_factory.mktemp("models")
    save_bert(BertForSequenceClassification, folder / "first", id2label={0: "bad", 1: "good"})
    save_bert(BertForSequenceClassification, folder / "second", seed=2, id2label={0: "cold", 1: "mild", 2: "warm"})
    save_bert(BertModel, folder / "headless", seed=3)
    cut = save_bert(BertForSequenceClassification, folder / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:2000])
    pickled = save_bert(BertForSequenceClassification, folder / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    model, tokenizer = make_random_llama(torch.float32, Shape(hidden=32, layers=3, heads=4))
    model.save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    return folder


@pytest_asyncio.fixture(loop_scope="session")
async def judge(shelf: Path) -> AsyncIterator[LocalWorker]:
    async for local in local_worker(
        options(Task.TEXT_CLASSIFICATION, "first", str(shelf / "first"), served_name="triage")
    ):
        yield local


@pytest_asyncio.fixture(loop_scope="session")
async def writer() -> AsyncIterator[LocalWorker]:
    async for local in local_worker(options(Task.TEXT_GENERATION, "tiny", LLAMA, served_name="chat")):
        yield local


async def change(local: LocalWorker, **body: object) -> httpx.Response:
    return await local.control.patch("/control/profile", json=body)


async def made(local: LocalWorker, **body: object) -> ProfileChangeResult:
    answer = await change(local, **body)
    assert answer.status_code == 200, answer.text
    return ProfileChangeResult.model_validate_json(answer.content)


async def predict(local: LocalWorker) -> Any:
    answer = await local.serving.post("/predict", json={"inputs": TEXT})
    assert answer.status_code == 200, answer.text
    # No score lies near a border of three digits: who shares its step moves a score by a ten-millionth.
    return [(it["label"], round(it["score"], 3)) for it in answer.json()]


async def write(local: LocalWorker, model: str, name: str = "") -> httpx.Response:
    headers = {"X-Request-Id": name} if name else {}
    return await local.serving.post("/v1/completions", json={"model": model, **PROMPT}, headers=headers)


def encoder_threads() -> int:
    return sum(thread.name == "encoder" for thread in threading.enumerate())


async def until_retired(local: LocalWorker) -> None:
    async with asyncio.timeout(30):
        while local.worker.retiring:  # noqa: ASYNC110 - the worker has no event for it
            await asyncio.sleep(0.01)


async def test_an_encoder_changes_model_under_load_and_every_answer_is_wholly_of_one(
    judge: LocalWorker, shelf: Path
) -> None:
    first = await predict(judge)
    asked_before: list[Any] = []
    asked_after: list[Any] = []
    changed, stop = asyncio.Event(), asyncio.Event()

    async def client() -> None:
        while not stop.is_set():
            answers = asked_after if changed.is_set() else asked_before
            answers.append(await predict(judge))

    clients = [asyncio.create_task(client()) for _ in range(16)]
    while len(asked_before) < 32:  # noqa: ASYNC110 - the clients have no event for it
        await asyncio.sleep(0)
    result = await made(judge, generation=1, model="second", modelPath=str(shelf / "second"))
    changed.set()
    second = await predict(judge)
    while len(asked_after) < 32:  # noqa: ASYNC110
        await asyncio.sleep(0)
    stop.set()
    await asyncio.gather(*clients)
    assert (result.changed, result.profile.model, result.profile.precision) == (True, "second", "fp32")
    assert 1 <= result.requests_touched <= 16
    assert result.seconds > 0
    assert {label for label, _ in first} == {"bad", "good"}
    assert {label for label, _ in second} == {"cold", "mild", "warm"}
    # Those in flight at the change may be answered by either, in any order; whoever asks later, by the second alone.
    assert {str(one) for one in asked_before} <= {str(first), str(second)}
    assert {str(one) for one in asked_after} == {str(second)}
    await until_retired(judge)
    assert judge.worker.telemetry().profile.model == "second"
    assert (await judge.serving.get("/info")).json()["model_id"] == "second"


async def test_a_decoders_requests_in_flight_are_finished_by_the_model_that_began_them(
    writer: LocalWorker, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = (await write(writer, "tiny")).json()["choices"][0]["text"]
    names, asked, prepare = [f"r{number}" for number in range(6)], [], changes.prepare

    async def streamed() -> list[str]:
        body = {"model": "chat", **PROMPT, "stream": True}
        async with writer.serving.stream("POST", "/v1/completions", json=body) as events:
            return [line async for line in events.aiter_lines() if line]

    async def ask_in_the_last_moment(*given: Any) -> Any:
        fresh = await prepare(*given)
        for name in names:
            asked.append(asyncio.create_task(write(writer, "chat" if int(name[1]) % 2 else "tiny", name)))
        asked.append(asyncio.create_task(streamed()))
        while len(writer.worker.requests_in_flight()) < 7:  # noqa: ASYNC110 - the worker has no event for it
            await asyncio.sleep(0)
        return fresh

    monkeypatch.setattr(changes, "prepare", ask_in_the_last_moment)
    result = await made(writer, generation=1, model="other", modelPath=str(shelf / "llama"))
    monkeypatch.undo()
    new = await write(writer, "chat")
    *finished, lines = await asyncio.gather(*asked)
    assert result.requests_touched == 7
    assert set(names) < set(result.requests)
    assert [answer.json()["choices"][0]["text"] for answer in finished] == [old] * 6
    assert {answer.json()["model"] for answer in finished} == {"tiny"}
    assert new.json()["model"] == "other"
    assert new.json()["choices"][0]["text"] != old
    assert lines[-1] == "data: [DONE]"
    assert {'"model":"tiny"' in line for line in lines[:-1]} == {True}
    await until_retired(writer)
    back = await made(writer, generation=2, model="tiny", modelPath=LLAMA)
    assert back.profile.model == "tiny"
    assert (await write(writer, "tiny")).json()["choices"][0]["text"] == old


async def test_the_served_name_stays_and_the_old_models_name_is_gone(writer: LocalWorker, shelf: Path) -> None:
    async def listed() -> list[str]:
        return [entry["id"] for entry in (await writer.serving.get("/v1/models")).json()["data"]]

    assert await listed() == ["tiny", "chat"]
    await made(writer, generation=1, model="other", modelPath=str(shelf / "llama"))
    assert await listed() == ["other", "chat"]
    gone, stays = await write(writer, "tiny"), await write(writer, "chat")
    assert (gone.status_code, stays.status_code) == (404, 200)
    assert "'tiny' is not served here; this worker serves 'other' or 'chat'" in gone.json()["error"]["message"]
    assert (await writer.serving.get("/v1/models/tiny")).status_code == 404
    assert (await writer.serving.get("/v1/models/chat")).status_code == 200
    assert 'model="other"' in (await writer.serving.get("/metrics")).text


async def test_a_decoder_takes_a_precision_that_its_cache_cannot_by_a_second_engine(writer: LocalWorker) -> None:
    old = (await write(writer, "tiny")).json()["choices"]
    asked = [asyncio.create_task(write(writer, "tiny")) for _ in range(4)]
    await asyncio.sleep(0.02)
    result = await made(writer, generation=1, precision="bf16", batchLimit=4)
    assert (result.profile.precision, result.profile.batch_limit) == ("bf16", 4)
    assert [answer.json()["choices"] for answer in await asyncio.gather(*asked)] == [old] * 4
    assert (await write(writer, "tiny")).status_code == 200
    assert writer.worker.telemetry().profile.precision == "bf16"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere", "cannot be loaded for --task text-classification"),
        ("headless", "no weights for classifier.bias, classifier.weight: it was not trained for"),
        ("pickled", "cannot be loaded for --task text-classification"),
        ("cut", "cannot be loaded for --task text-classification"),
        ("llama", "has no weights for score.weight"),
    ],
)
async def test_what_cannot_be_loaded_is_refused_and_the_old_model_goes_on(
    judge: LocalWorker, shelf: Path, model: str, message: str
) -> None:
    first, before = await predict(judge), judge.worker.profile()
    answer = await change(judge, generation=1, model=model, modelPath=str(shelf / model), batchLimit=2)
    assert answer.status_code == 422
    assert f"model: '{model}' at fp32 cannot be had" in answer.json()["error"]
    assert message in answer.json()["error"]
    assert judge.worker.profile() == before
    assert judge.worker.state == "ready"
    assert await predict(judge) == first
    # The generation was not used up: the next decision may have it.
    assert (await change(judge, generation=1, batchLimit=2)).status_code == 200


async def test_a_model_for_which_there_is_no_room_is_not_even_read(
    judge: LocalWorker, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "free_bytes", lambda *_: 20 << 20)
    monkeypatch.setattr(building, "load", lambda *_, **__: pytest.fail("it was read"))
    answer = await change(judge, generation=1, model="second", modelPath=str(shelf / "second"))
    assert answer.status_code == 422
    assert "MiB and 20 MiB are free beside the model that runs; raise the memory limit" in answer.json()["error"]


async def test_a_model_whose_warm_up_fails_never_takes_a_request(
    judge: LocalWorker, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("out of memory")

    first, before = await predict(judge), encoder_threads()
    monkeypatch.setattr(RowRunner, "warm_up", broken)
    answer = await change(judge, generation=1, model="second", modelPath=str(shelf / "second"))
    assert answer.status_code == 422
    assert "its warm-up request failed: out of memory" in answer.json()["error"]
    assert await predict(judge) == first
    assert encoder_threads() == before


async def test_whoever_sheds_watts_does_not_wait_for_a_model_that_is_loading(
    judge: LocalWorker, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, original = threading.Event(), building.load

    def slow(*given: Any, **more: Any) -> Any:
        assert disk.wait(30)
        return original(*given, **more)

    monkeypatch.setattr(building, "load", slow)
    body = {"generation": 1, "model": "second", "modelPath": str(shelf / "second"), "batchLimit": 16}
    loading = [asyncio.create_task(change(judge, **body)) for _ in range(2)]
    while judge.worker.state != "reconfiguring":  # noqa: ASYNC110 - the worker has no event for it
        await asyncio.sleep(0)
    assert (await judge.serving.get("/ready")).status_code == 200
    urgent = await made(judge, generation=2, batchLimit=1)
    assert (urgent.profile.model, urgent.profile.batch_limit) == ("first", 1)
    assert not any(task.done() for task in loading)
    assert (await change(judge, generation=1, batchLimit=3)).status_code == 409
    disk.set()
    one, other = [ProfileChangeResult.model_validate_json((await task).content) for task in loading]
    assert one == other
    assert (one.profile.model, one.profile.batch_limit, one.profile.generation) == ("second", 1, 2)
    assert judge.worker.profile() == one.profile


async def test_a_newer_decision_about_the_model_wins_over_one_that_is_loading(
    judge: LocalWorker, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, original = threading.Event(), building.load

    def slow(*given: Any, **more: Any) -> Any:
        assert disk.wait(30)
        return original(*given, **more)

    monkeypatch.setattr(building, "load", slow)
    loading = asyncio.create_task(change(judge, generation=1, model="second", modelPath=str(shelf / "second")))
    while judge.worker.state != "reconfiguring":  # noqa: ASYNC110
        await asyncio.sleep(0)
    stay = await made(judge, generation=2, model="first")
    assert not stay.changed
    disk.set()
    answer = await loading
    assert answer.status_code == 422
    assert "a newer change has decided otherwise" in answer.json()["error"]
    assert judge.worker.profile() == stay.profile


async def test_the_old_models_memory_is_given_back(judge: LocalWorker, shelf: Path) -> None:
    assert judge.worker.engine is not None
    old, before = weakref.ref(judge.worker.engine), encoder_threads()
    for generation, name in enumerate(("second", "first", "second"), start=1):
        await made(judge, generation=generation, model=name, modelPath=str(shelf / name))
        await until_retired(judge)
    for _ in range(100):
        gc.collect()
        if old() is None:
            break
        await asyncio.sleep(0.02)
    assert old() is None
    assert encoder_threads() == before


async def test_a_worker_may_end_while_an_old_model_still_answers(shelf: Path) -> None:
    async for local in local_worker(options(Task.TEXT_GENERATION, "tiny", LLAMA)):
        asked = asyncio.create_task(write(local, "tiny"))
        while not local.worker.requests_in_flight():  # noqa: ASYNC110
            await asyncio.sleep(0)
        await made(local, generation=1, model="other", modelPath=str(shelf / "llama"))
        await local.worker.stop()
        assert (await asked).status_code in {200, 500}
        assert local.worker.retiring == 0
