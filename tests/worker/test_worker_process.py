"""The process that a pod runs: a meter that is a stub, the openai library, SIGTERM, and starts that cannot succeed."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch
from openai import OpenAI
from transformers import BertForSequenceClassification

from lowbeam.api.wire import ProfileChangeResult, WorkerTelemetry
from lowbeam_worker.models import CannotLoadError, choose_device, load
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.random_llama import Shape, make_random_llama
from lowbeam_worker.sentence import embedder, read_recipe
from tests.ports import free_port
from tests.worker.conftest import LLAMA, MINILM, WorkerProcess
from tests.worker.tiny import save_bert

CHAT = ("--task", "text-generation", "--model", "tiny", "--model-path", LLAMA, "--max-output-tokens", "900")
CERTIFICATES = ssl.create_default_context()
"""Read once: a client that reads its own takes so long that it comes back after the worker waited for it."""


class Client(threading.Thread):
    """Sends one request after the other until it is told to go elsewhere, as a load balancer does to one backend."""

    def __init__(self, url: str, *, keeps_connection: bool) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self.lost: list[str] = []
        self.last: httpx.Response | None = None
        self._url = f"{url}/v1/completions"
        self._keeps_connection = keeps_connection

    def run(self) -> None:
        kept = httpx.Client(timeout=60, verify=CERTIFICATES)
        body = {"model": "tiny", "prompt": "Power is", "max_tokens": 4}
        while self.last is None:
            one = kept if self._keeps_connection else httpx.Client(timeout=60, verify=CERTIFICATES)
            try:
                answer = one.post(self._url, json=body)
            except httpx.TransportError as error:
                self.lost.append(repr(error))
                return
            if answer.status_code == 200:
                self.answered += 1
            else:
                self.last = answer


def test_a_metered_worker_says_what_an_answer_cost_and_loses_no_request_when_it_is_replaced(
    worker_process: type[WorkerProcess], nvml_stub: Path
) -> None:
    worker = worker_process(*CHAT, LD_LIBRARY_PATH=str(nvml_stub), POD_NAME="chat-0", POD_NAMESPACE="shop")
    worker.wait_until_ready()
    client = OpenAI(base_url=f"{worker.url}/v1", api_key="none", max_retries=0)
    hello = [{"role": "user", "content": "hello"}]
    answer = client.chat.completions.create(model="tiny", messages=hello, max_tokens=200, temperature=0)  # type: ignore[arg-type]
    assert answer.usage is not None
    energy = (answer.usage.model_extra or {})["energy"]
    assert energy["method"] == "nvml"
    assert energy["scope"] == "device"
    assert energy["joules"] > 0
    assert energy["window_s"] > 0

    telemetry = WorkerTelemetry.model_validate_json(httpx.get(f"{worker.control_url}/telemetry").content)
    assert (telemetry.pod, telemetry.namespace) == ("chat-0", "shop")
    assert telemetry.watts is not None
    assert 20 < telemetry.watts <= 72
    assert telemetry.devices[0].power_limit_watts == 72
    parts = telemetry.energy_joules
    assert parts is not None
    assert parts.load > 0
    assert parts.active + parts.idle + parts.load + parts.reconfigure == pytest.approx(parts.counter, abs=0.005)
    assert energy["joules"] < parts.counter
    assert abs(time.time() - telemetry.sampled_at_seconds) < 2

    stream = client.chat.completions.create(model="tiny", messages=hello, max_tokens=800, temperature=0, stream=True)  # type: ignore[arg-type]
    events = iter(stream)
    next(events)
    clients = [Client(worker.url, keeps_connection=number % 2 == 0) for number in range(6)]
    for one in clients:
        one.start()
    while min(one.answered for one in clients) < 2:
        time.sleep(0.02)
    worker.terminate()
    for one in clients:
        one.join(60)
    rest = list(events)
    code, log = worker.end()
    assert rest[-1].choices[0].finish_reason in {"length", "stop"}
    assert [one.lost for one in clients] == [[]] * 6, log
    for one in clients:
        assert one.last is not None
        assert one.last.status_code == 503
        assert one.last.headers["connection"] == "close"
        assert one.last.headers["retry-after"] == "1"
        assert one.last.json()["error"]["code"] == "not_ready"
    assert code == 0, log


def test_a_worker_that_cannot_start_says_why_and_what_to_do() -> None:
    command = [sys.executable, "-m", "lowbeam_worker", "--task", "text-generation", "--model", "tiny"]
    ports = ("--port", str(free_port()), "--control-port", str(free_port()))
    done = subprocess.run(
        [*command, "--model-path", "/nowhere/at-all", *ports],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "model '/nowhere/at-all' cannot be loaded for --task text-generation" in done.stderr
    assert "Mount its folder and name it with --model-path" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_whose_model_is_broken_ends_with_the_reason(tmp_path: Path) -> None:
    config = save_bert(BertForSequenceClassification, tmp_path) / "config.json"
    broken = json.loads(config.read_text(encoding="utf-8")) | {"num_attention_heads": 0}
    config.write_text(json.dumps(broken), encoding="utf-8")
    command = [sys.executable, "-m", "lowbeam_worker", "--task", "text-classification", "--model", "broken"]
    ports = ("--port", str(free_port()), "--control-port", str(free_port()))
    done = subprocess.run(
        [*command, "--model-path", str(tmp_path), "--device", "cpu", *ports],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "lowbeam-worker ends: model" in last
    assert "ZeroDivisionError: " in last


def test_a_worker_whose_port_is_taken_says_which_and_ends() -> None:
    command = [sys.executable, "-m", "lowbeam_worker", "--task", "text-generation", "--model", "tiny"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = ("--port", str(port), "--control-port", str(free_port()))
        done = subprocess.run(
            [*command, "--model-path", LLAMA, "--device", "cpu", *ports],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert "a port cannot be opened" in done.stderr
    assert f"{port}))" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "task", "message"),
    [
        ("package:no_such_package", Task.TEXT_GENERATION, "package:no_such_package is not a known model package"),
        (LLAMA, Task.FEATURE_EXTRACTION, "it does not serve --task feature-extraction"),
        ("somebody/not-downloaded", Task.TEXT_GENERATION, "or start with --allow-downloads"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(source: str, task: Task, message: str) -> None:
    with pytest.raises(CannotLoadError, match=message):
        load(source, task, Precision.FP32, choose_device("cpu"), allow_downloads=False)


def test_a_gpu_that_is_not_there_is_not_replaced_by_a_cpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(CannotLoadError, match="torch sees no GPU here"):
        choose_device("cuda")


def test_int8_weights_give_nearly_the_same_vectors() -> None:
    texts = ["A cat sits on the mat.", "The stock market fell by three percent.", "Where can I return my shoes?"]
    rows = []
    for precision in (Precision.FP32, Precision.INT8):
        loaded = load(MINILM, Task.FEATURE_EXTRACTION, precision, choose_device("cpu"), allow_downloads=False)
        rows.append(embedder(loaded, read_recipe(loaded.folder))(loaded.tokenizer(texts)["input_ids"]))
    assert (rows[0] * rows[1]).sum(1).min() > 0.98


def test_a_metered_change_of_model_says_its_joules_and_the_books_stay_equal(
    worker_process: type[WorkerProcess], nvml_stub: Path, tmp_path: Path
) -> None:
    model, tokenizer = make_random_llama(torch.float32, Shape(hidden=32, layers=3, heads=4))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    worker = worker_process(*CHAT, "--served-name", "chat", LD_LIBRARY_PATH=str(nvml_stub))
    worker.wait_until_ready()
    body = {"generation": 1, "model": "other", "modelPath": str(tmp_path)}
    answer = httpx.patch(f"{worker.control_url}/control/profile", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    result = ProfileChangeResult.model_validate_json(answer.content)
    question = {"model": "chat", "prompt": "Power is", "max_tokens": 20}
    asked = httpx.post(f"{worker.url}/v1/completions", json=question, timeout=60).json()
    assert asked["model"] == "other"
    telemetry = WorkerTelemetry.model_validate_json(httpx.get(f"{worker.control_url}/telemetry").content)
    parts = telemetry.energy_joules
    assert parts is not None
    assert result.joules is not None
    assert 0 < result.joules <= parts.reconfigure + 0.01
    assert parts.active + parts.idle + parts.load + parts.reconfigure == pytest.approx(parts.counter, abs=0.005)
    worker.terminate()
    assert worker.end()[0] == 0
