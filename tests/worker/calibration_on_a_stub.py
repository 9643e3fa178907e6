"""`lowbeam-worker calibrate` on the stand-in for NVIDIA's library, with the model on the CPU.

For tests, and for the sample in docs/calibrate.md: there is no GPU here. Watts follow the stand-in's law and are no
measurement; the class is called `stub`, so that nobody takes them for one. Needs LD_LIBRARY_PATH (`calibrate_on_a_stub`
sets it), for the library is loaded by name. What the real command refuses, a board that the model does not run on, is
the one thing that is allowed here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = {"citation": "made up for tests: tests/stubs/nvml", "date": "2026-11-21"}
CLASS = {
    "apiVersion": "lowbeam.dev/v1alpha1",
    "kind": "AcceleratorClass",
    "metadata": {"name": "stub"},
    "spec": {
        "productLabels": ["Stub-L4"],
        "memoryMebibytes": 24576,
        "precisions": ["fp32", "bf16", "fp16"],
        "idleWatts": "25",
        "maxWatts": "72",
        "source": SOURCE,
    },
}
CARD = {
    "apiVersion": "lowbeam.dev/v1alpha1",
    "kind": "ModelCard",
    "metadata": {"name": "llama-tiny"},
    "spec": {
        "modelPath": "random:llama-tiny",
        "tasks": ["text-generation"],
        "licence": "apache-2.0",
        "totalParametersMillions": 1,
        "activeParametersMillions": 1,
        "contextTokens": 2048,
        "generative": True,
        "variants": [{"precision": "fp32", "weightsMebibytes": 4}, {"precision": "bf16", "weightsMebibytes": 2}],
        "source": SOURCE,
    },
}


def calibrate_on_a_stub(stub: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    """The worker's command in a process of its own; end it, or wait for it, and read both streams."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.worker.calibration_on_a_stub", *flags],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        | {"LD_LIBRARY_PATH": str(stub), "PYTHONPATH": f"{ROOT}/operator:{ROOT}/workloads:{ROOT}"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _main() -> None:
    from lowbeam_worker.calibration.command import main  # noqa: PLC0415 - threads first, torch after
    from lowbeam_worker.calibration.options import parse  # noqa: PLC0415
    from lowbeam_worker.cgroup import prepare_threads  # noqa: PLC0415

    parse(sys.argv[1:])  # wrong flags end here, without torch
    prepare_threads()
    from lowbeam_worker import models  # noqa: PLC0415
    from lowbeam_worker.calibration import run  # noqa: PLC0415

    run.choose_device = lambda _: models.choose_device("cpu")
    main(sys.argv[1:])


def sample() -> int:
    """The sample of the documentation: `python -m tests.worker.calibration_on_a_stub sample`."""
    from tests.stubs.nvml.build import build_stub  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        flags = [
            *("--task", "text-generation", "--model", "llama-tiny", "--model-path", "random:llama-tiny"),
            *("--class", "stub", "--boards", "Stub-L4", "--precisions", "fp32", "--batches", "1,4,16"),
            *("--input-tokens", "32", "--output-tokens", "64", "--window-seconds", "2", "--tolerance-percent", "20"),
        ]
        child = calibrate_on_a_stub(build_stub(Path(folder)), *flags, OMP_NUM_THREADS="1")
        out, words = child.communicate()
    print(words, out, sep="\n", end="")
    return child.returncode


if __name__ == "__main__":
    if sys.argv[1:] == ["sample"]:
        sys.exit(sample())
    _main()
