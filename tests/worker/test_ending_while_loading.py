"""SIGTERM while a model is read: nothing can interrupt the thread that reads it, and nobody waits for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import httpx
import pytest

from tests.ports import free_port
from tests.worker.conftest import LLAMA, ROOT

READS_FOR_EVER = """
import sys, time
from lowbeam_worker.cgroup import prepare_threads
prepare_threads()
from lowbeam_worker import __main__, random_llama
quick, original = int(sys.argv.pop(1)), random_llama.make_random_llama
def make(*shape, **more):
    global quick
    quick -= 1
    if quick < 0:
        print("reading", flush=True)
        time.sleep(120)
    return original(*shape, **more)
random_llama.make_random_llama = make
__main__.main()
"""


@pytest.mark.parametrize("while_serving", [False, True])
def test_a_worker_that_is_told_to_end_does_not_read_its_model_to_the_end(while_serving: bool) -> None:
    port, control = free_port(), free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", READS_FOR_EVER, str(int(while_serving)), "--task", "text-generation"),
            *("--model", "tiny", "--model-path", LLAMA, "--device", "cpu"),
            *("--port", str(port), "--control-port", str(control)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        if while_serving:
            wait_until_ready(f"http://127.0.0.1:{port}")
            change = {"generation": 1, "model": "other", "modelPath": LLAMA}
            with pytest.raises(httpx.ReadTimeout):
                httpx.patch(f"http://127.0.0.1:{control}/control/profile", json=change, timeout=1)
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()


def wait_until_ready(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    pytest.fail("the worker did not become ready")
