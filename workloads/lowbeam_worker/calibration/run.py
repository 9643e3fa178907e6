"""A calibration from its first look at the device to the last profile.

    refuse what cannot be true -> for each precision: load, idle, a point per batch, idle again -> the profile, as text

Decides what a failure costs: a batch that cannot be measured is left out and the next one tried (but none above one
that the engine did not bear); a precision that cannot be loaded is passed over; a device that is not ours alone, or a
counter that cannot be believed, ends everything, and the profile that was being measured is not written. Profiles that
were finished before are out already. On SIGINT, SIGTERM or SIGHUP the batches that are complete are written; a second
one ends the process at once.

Profiles go to stdout, words to stderr as YAML comments: a pod's log, which mixes both, is still what kubectl takes.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from lowbeam_worker.calibration.closed_loops import loaded_engine
from lowbeam_worker.calibration.device import CannotCalibrateError, Device, driver_version, open_device
from lowbeam_worker.calibration.load import Load, StepWatch
from lowbeam_worker.calibration.options import CalibrationOptions
from lowbeam_worker.calibration.point import LeftOutError, Point, TooMuchError, idle_watts, measure
from lowbeam_worker.calibration.profile import Circumstances, LeftOut, Measurement, document, head, rising, row
from lowbeam_worker.memory import give_back
from lowbeam_worker.models import CannotLoadError, choose_device, load
from lowbeam_worker.options import Precision

INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
APART_SECONDS = 0.2
"""A container's runtime copies the two streams of a pod apart; a word inside a profile would spoil it."""
_WIDTH = 80


async def run(options: CalibrationOptions) -> int:
    """0: a profile for every precision; 1: not for every one; 130: interrupted."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - inside a coroutine there is one
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        """Once; whoever asks again does not want to wait, and the signal ends the process."""
        for number in INTERRUPTING:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        task.cancel()

    for number in INTERRUPTING:
        loop.add_signal_handler(number, interrupt)
    try:
        return await _all_precisions(options)
    except CannotCalibrateError as error:
        say(f"calibration ends: {error}")
        return 1
    except CannotLoadError as error:
        say(f"nothing is measured: {error}")
        return 1
    except asyncio.CancelledError:
        say("interrupted; what was complete is written")
        return INTERRUPTED


async def _all_precisions(options: CalibrationOptions) -> int:
    watch = StepWatch()
    device = open_device(options.boards, options.accelerator_class, watch)
    try:
        processor = choose_device("cuda" if options.boards else "cpu")
        say(f"on {device.name}, energy by {device.counter}")
        written = 0
        for precision in options.precisions:
            try:
                written += await _one_precision(options, precision, device, watch, processor)
            except (CannotLoadError, torch.OutOfMemoryError, MemoryError) as error:
                say(f"{precision}: left out: {str(error) or 'there is too little memory for its weights'}")
            finally:
                give_back()  # here, where no frame holds the model any more
                if processor.type == "cuda":
                    torch.cuda.empty_cache()
        return 0 if written == len(options.precisions) else 1
    finally:
        device.close()


async def _one_precision(
    options: CalibrationOptions, precision: Precision, device: Device, watch: StepWatch, processor: torch.device
) -> bool:
    say(f"{precision}: loading {options.model} from {options.model_path}")
    loaded = await asyncio.to_thread(
        load,
        options.model_path,
        options.task,
        precision,
        processor,
        allow_downloads=options.allow_downloads,
        allow_pickle=options.allow_pickle,
    )
    engine, pressure = loaded_engine(options, loaded, watch)
    engine.start()
    try:
        before = await idle_watts(device, options.rules)
        say(f"{precision}: {before:.1f} W without work; {options.rules.windows} windows per batch")
        curve, after = _Curve([], []), None
        interruption: asyncio.CancelledError | None = None
        try:
            await _measure(options, pressure, device, curve)
            after = await idle_watts(device, options.rules, before)
        except asyncio.CancelledError as error:
            interruption = error
        revision = options.revision or _revision(options.model_path, loaded.folder)
        where = _circumstances(device, revision, before, after)
        written = await _write(options, precision, curve, where)
        if interruption is not None:
            raise interruption
        if not written:
            say(f"{precision}: no profile: every batch was left out, see above")
        return written
    finally:
        await engine.stop()


@dataclass(frozen=True, slots=True)
class _Curve:
    """What there is of it so far."""

    points: list[Point]
    left_out: list[LeftOut]


async def _measure(options: CalibrationOptions, pressure: Load, device: Device, curve: _Curve) -> None:
    """Batch after batch into `curve`."""
    most, why = pressure.most
    _line(head(options))
    for batch in options.batches:
        above = tuple(it for it in options.batches if it >= batch)
        try:
            if batch > most:
                raise TooMuchError(why)
            curve.points.append(await measure(batch, pressure, device, options.rules))
        except LeftOutError as error:
            too_much = isinstance(error, TooMuchError)
            curve.left_out.append(LeftOut(above if too_much else (batch,), str(error)))
            say(str(curve.left_out[-1]))
            if too_much:
                return
        else:
            _line(row(options, curve.points[-1]))


async def _write(options: CalibrationOptions, precision: Precision, curve: _Curve, where: Circumstances) -> bool:
    """The profile on stdout; False when there is no point."""
    kept, dropped = rising(curve.points)
    for left in dropped:
        say(str(left))
    if not kept:
        return False
    text = document(options, Measurement(precision, tuple(kept), (*curve.left_out, *dropped), where))
    await asyncio.sleep(APART_SECONDS)
    sys.stdout.write(text)
    sys.stdout.flush()
    await asyncio.sleep(APART_SECONDS)
    return True


def _circumstances(device: Device, revision: str, before: float, after: float | None) -> Circumstances:
    driver = driver_version()
    return Circumstances(
        date=datetime.now(UTC).date().isoformat(),
        device=device.name,
        counter=device.counter,
        software=(
            f"native {_version('lowbeam')}",
            f"torch {torch.__version__}",
            f"transformers {_version('transformers')}",
            *([f"driver {driver}"] if driver else []),
        ),
        revision=revision,
        idle_watts_before=before,
        idle_watts_after=after,
    )


def _revision(source: str, folder: Path | None) -> str:
    """Of the weights, where their place tells it: the hub's cache names commits, a package has a version."""
    if folder is None:
        return "random"
    if source.startswith("package:"):
        return f"{source} {_version(source.removeprefix('package:'))}"
    return folder.name if folder.parent.name == "snapshots" else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def say(words: str) -> None:
    """A sentence, in lines of at most 80 columns."""
    _line(*textwrap.wrap(words, _WIDTH - 2))


def _line(*lines: str) -> None:
    sys.stderr.write("".join(f"# {line}\n" for line in lines))
    sys.stderr.flush()
