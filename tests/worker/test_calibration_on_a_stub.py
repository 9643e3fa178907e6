"""The whole command in a process of its own, on the compiled stand-in for NVIDIA's library, with the real MiniLM."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lowbeam.api.v1alpha1 import EnergyProfile
from lowbeam.api.v1alpha1.loading import read_documents
from tests.worker.calibration_on_a_stub import calibrate_on_a_stub
from tests.worker.calibration_samples import DECODER, ENCODER

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def calibrate(nvml_stub: Path) -> Iterator[Start]:
    """Start it with this; whatever is left over is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str, **environment: str) -> subprocess.Popen[str]:
        started.append(calibrate_on_a_stub(nvml_stub, *flags, **environment))
        return started[-1]

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
            child.communicate()


def test_it_measures_the_board_and_after_ctrl_c_writes_what_is_complete(calibrate: Start) -> None:
    child = calibrate(
        *(*ENCODER, "--input-tokens", "16", "--batches", "1,2,3,4,5,6,7,8"),
        *("--windows", "5", "--window-seconds", "0.3", "--tolerance-percent", "100"),
        OMP_NUM_THREADS="1",
        NVML_STUB_IDLE_W="40",
        NVML_STUB_MAX_W="40",
        NVML_STUB_REFRESH_MS="50",
    )
    assert child.stderr is not None
    words = []
    for line in child.stderr:
        words.append(line)
        if line.split()[1].isdigit():
            break  # the first batch is measured
    child.send_signal(signal.SIGINT)
    out, rest = child.communicate(timeout=240)
    words += rest.splitlines(keepends=True)
    assert child.returncode == 130, words
    (profile,) = (it.object for it in read_documents(out))
    assert isinstance(profile, EnergyProfile)
    assert profile.spec.points[-1].batch < 8
    # The interval of the counter's refreshes is no error of a window that begins and ends with one.
    assert all(float(it.watts) == pytest.approx(40, rel=0.1) for it in profile.spec.points)
    assert "interrupted before it was measured after" in (profile.spec.source.note or "")
    assert words[-1] == "# interrupted; what was complete is written\n"
    # A pod's log mixes both streams: it must still be what kubectl takes.
    assert all(line.startswith("# ") and len(line) <= 81 for line in words)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--precisions", "fp8"), "this worker cannot load fp8; it loads fp32, bf16, fp16, int8"),
        (("--batches", "4,2"), "list each batch once, in ascending order"),
        (("--windows", "2"), "no whole number from 3 to 31"),
        (("--output-tokens", "1"), "text-generation writes text; give the typical length"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_wrong_flags_are_refused_before_anything_is_loaded(
    calibrate: Start, flags: tuple[str, ...], reason: str
) -> None:
    child = calibrate(*DECODER, *flags)
    out, words = child.communicate(timeout=240)
    assert child.returncode == 2
    assert not out
    assert reason in " ".join(words.split())
