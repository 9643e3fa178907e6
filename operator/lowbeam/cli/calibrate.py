"""`lowbeam calibrate`: measure a model of the catalogue on the device at hand, or print the Job that does it.

Decides what is asked of the worker, by the catalogue and the user's own objects: task, lengths, precisions, where the
weights are. The worker measures (`python -m lowbeam_worker calibrate`, a process of its own: nothing here imports
torch). What it writes goes through the catalogue's checks before it is called good. Never writes to a cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lowbeam.api.v1alpha1 import AcceleratorClass as AcceleratorClassObject
from lowbeam.api.v1alpha1 import EnergyProfile, ModelCard
from lowbeam.api.v1alpha1.loading import read_documents
from lowbeam.catalog import CatalogueProblem, load_builtin, overlay, verify
from lowbeam.catalog.engines import NATIVE
from lowbeam.catalog.facts import AcceleratorClass, Catalogue, Model, Reasoning
from lowbeam.catalog.verify import Severity
from lowbeam.cli.calibrate_job import job
from lowbeam.cli.catalog.filters import find_model
from lowbeam.cli.catalog.words import unknown, wrapped
from lowbeam.cli.manifests import Manifests, read_files
from lowbeam.errors import BadInput, Impossible, LowbeamError
from lowbeam_worker.calibration.options import parse

INTERRUPTED = 130
_INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOT_MEASURED = frozenset({"summarization"})
"""Tasks that the worker serves and that there is no load for yet: batches whose answers have lengths of their own."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One run of the worker: precisions that are read from the same weights."""

    model: Model
    task: str
    accelerator_class: str
    boards: tuple[str, ...]
    precisions: tuple[str, ...]
    model_path: str
    flags: tuple[str, ...]
    """The rest, as the worker takes it."""

    def arguments(self) -> list[str]:
        """What comes after `lowbeam-worker`."""
        return [
            *("calibrate", "--task", self.task, "--model", self.model.name, "--model-path", self.model_path),
            *("--class", self.accelerator_class),
            *(("--boards", ",".join(self.boards)) if self.boards else ()),
            *("--precisions", ",".join(self.precisions)),
            *self.flags,
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, how long, and where the profile goes."""
    parser.add_argument("model", help="its name in the catalogue, or of a ModelCard in -f")
    parser.add_argument("--class", dest="accelerator_class", required=True, help="accelerator class of the device")
    parser.add_argument("--task", help="default: the first of the model's tasks that can be measured")
    parser.add_argument("--precisions", metavar="LIST", help="for example bf16,int8; default: all that can be measured")
    parser.add_argument("--batches", metavar="LIST", help="default: 1,2,4,...,256, as far as memory goes")
    parser.add_argument("--input-tokens", type=int, help="length of every prompt; default: the task's")
    parser.add_argument("--output-tokens", type=int, help="length of every answer; default: the task's")
    parser.add_argument("--windows", type=int, help="repeats per batch (5)")
    parser.add_argument("--window-seconds", type=float, help="least length of each (10)")
    parser.add_argument("--tolerance-percent", type=float, help="widest half of the 95 %% confidence interval (5)")
    parser.add_argument("--model-path", help="folder or other source of the weights; default: the catalogue's")
    parser.add_argument("--revision", help="of the weights, where their folder does not tell it")
    parser.add_argument("--allow-downloads", action="store_true", help="let the worker fetch the weights from the hub")
    parser.add_argument("--allow-pickle", action="store_true", help="read weights in PyTorch's older format")
    parser.add_argument(
        "-f", "--file", action="append", default=[], metavar="FILE", help="your ModelCards and AcceleratorClasses"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where the profiles go (stdout)")
    parser.add_argument("--job", action="store_true", help="print a Job for kubectl instead of measuring here")
    parser.add_argument("--image", help="of the Job: the worker's image")
    parser.add_argument("--model-claim", help="of the Job: PersistentVolumeClaim with the weights, seen as /models")
    parser.add_argument("-n", "--namespace", default="default", help="of the Job (default)")


def run(args: argparse.Namespace) -> int:
    """0: a profile for every precision, accepted by the catalogue; 1: not so; 2: wrong input; 130: interrupted."""
    read = read_files(args.file)
    if read.troubles:
        raise BadInput("\n".join(map(str, read.troubles)))
    catalogue = _catalogue(read)
    wishes = _wishes(args, catalogue)
    for wish in wishes:
        _check(wish)
    if args.job:
        if len(wishes) > 1:
            paths = " and ".join(f"{','.join(wish.precisions)} ({wish.model_path})" for wish in wishes)
            raise BadInput(f"--job: these precisions have weights of their own: {paths}; print one Job for each")
        wish = wishes[0]
        manifest = job(
            wish.arguments(),
            name=f"calibrate-{wish.model.name}-{wish.accelerator_class}",
            accelerator=catalogue.accelerator_classes[wish.accelerator_class],
            image=args.image or "",
            model_claim=args.model_claim or "",
            model_path=wish.model_path,
            allow_downloads=args.allow_downloads,
            namespace=args.namespace,
        )
        _emit(yaml.safe_dump(manifest, sort_keys=False), args.output)
        return 0
    if importlib.util.find_spec("torch") is None:
        raise LowbeamError(
            "`lowbeam calibrate` needs the worker parts: pip install '.[worker]' in a clone of Lowbeam, or let a pod "
            "measure with --job"
        )
    _refuse_shared_class(wishes[0].accelerator_class, read)
    if args.output is not None:
        _emit("", args.output, append=True)  # an hour later would be late to find out
    codes: list[int] = []
    text = ""
    for wish in wishes:
        code, more = _measure(wish, args.output, append=bool(text))
        codes.append(code)
        text += more
        if code == INTERRUPTED:
            break
    if args.output is not None and not text:
        print(f"# nothing was measured; {args.output} is as it was", file=sys.stderr)
    refused = _objections(read, text)
    return max(codes) or int(refused)


def _refuse_shared_class(name: str, read: Manifests) -> None:
    """Counters of a CPU are the whole machine's, and the built-in class without boards is a share of one."""
    own = any(isinstance(it, AcceleratorClassObject) and it.metadata.name == name for it in read.objects)
    builtin = load_builtin().accelerator_classes.get(name)
    if builtin is not None and not builtin.product_labels and not own:
        raise BadInput(
            f"--class: {name} is a share of some server, and the energy counters here are those of the whole machine; "
            "describe this machine as an AcceleratorClass of its own, without productLabels, and name its file with -f"
        )


def _check(wish: Wish) -> None:
    """Wrong figures are found by the worker's own parser, now and not in a pod."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parse(wish.arguments()[1:])
    except SystemExit as error:
        raise BadInput(said.getvalue().rpartition("error: ")[2].strip().removeprefix("argument ")) from error


def _catalogue(read: Manifests) -> Catalogue:
    catalogue, problems = _overlaid(read, ())
    if problems:
        raise BadInput("\n".join(f"{it.kind}/{it.name}: {it.field}: {it.message}" for it in problems))
    return catalogue


def _overlaid(read: Manifests, profiles: Sequence[EnergyProfile]) -> tuple[Catalogue, tuple[CatalogueProblem, ...]]:
    return overlay(
        load_builtin(),
        [it for it in read.objects if isinstance(it, ModelCard)],
        [it for it in read.objects if isinstance(it, AcceleratorClassObject)],
        profiles,
    )


def _wishes(args: argparse.Namespace, catalogue: Catalogue) -> list[Wish]:
    """One for each place that weights are read from."""
    model = find_model(catalogue, args.model)
    if model is None:
        raise unknown("", args.model, catalogue.models)
    accelerator = catalogue.accelerator_classes.get(args.accelerator_class.lower())
    if accelerator is None:
        raise unknown("--class: ", args.accelerator_class, catalogue.accelerator_classes)
    task = _task(model, args.task and args.task.lower())
    facts = catalogue.tasks[task]
    flags = [
        *("--input-tokens", str(facts.default_input_tokens if args.input_tokens is None else args.input_tokens)),
        *("--output-tokens", str(facts.default_output_tokens if args.output_tokens is None else args.output_tokens)),
    ]
    for flag in ("batches", "windows", "window_seconds", "tolerance_percent", "revision"):
        if (value := getattr(args, flag)) is not None:
            flags.append(f"--{flag.replace('_', '-')}={value}")
    flags += [f"--{flag.replace('_', '-')}" for flag in ("allow_downloads", "allow_pickle") if getattr(args, flag)]
    places: dict[str, list[str]] = {}
    for precision in _precisions(model, accelerator, args.precisions):
        places.setdefault(args.model_path or model.path_for(precision), []).append(precision)
    return [
        Wish(model, task, accelerator.name, accelerator.product_labels, tuple(precisions), path, tuple(flags))
        for path, precisions in places.items()
    ]


def _task(model: Model, wish: str | None) -> str:
    can = [task for task in model.tasks if task in NATIVE.tasks - NOT_MEASURED]
    if wish in can:
        return str(wish)
    if wish is None and can:
        return can[0]
    what = f"--task: {wish} of {model.name}" if wish else f"no task of {model.name} ({', '.join(model.tasks)})"
    verb = "cannot be measured" if wish else "can be measured"
    raise BadInput(
        f"{what} {verb}; it could be: {', '.join(can) or 'none'}. "
        "Measure it under load with the engine that serves it, and write its EnergyProfile by hand (docs/catalogue.md)"
    )


def _precisions(model: Model, accelerator: AcceleratorClass, wish: str | None) -> list[str]:
    """What is wished, or all of them; a profile of any other would be refused by the catalogue, or be another's."""
    native = NATIVE.precisions if accelerator.product_labels else NATIVE.cpu_precisions or ()
    variants = [it.precision for it in model.variants if it.reasoning is Reasoning.OFF]
    known: tuple[tuple[Sequence[str], str], ...] = (
        (native, f"the native worker does not load it on {accelerator.name}: it loads"),
        (accelerator.precisions, f"{accelerator.name} does not run it: it runs"),
        (variants, f"{model.name} has no such variant: add it to its ModelCard; it has"),
    )
    if wish is None:
        found = [it for it in variants if all(it in names for names, _ in known)]
        if not found:
            raise BadInput(
                f"no precision of {model.name} ({', '.join(variants) or 'none without reasoning'}) can be measured on "
                f"{accelerator.name}; add a variant to its ModelCard (-f)"
            )
        return found
    wished = list(dict.fromkeys(it.strip().lower() for it in wish.split(",") if it.strip()))
    for precision in wished:
        for names, why in known:
            if precision not in names:
                raise BadInput(f"--precisions: {precision}: {why} {', '.join(names) or 'none'}")
    if not wished:
        raise BadInput("--precisions names nothing; for example --precisions bf16")
    return wished


# --- the worker ------------------------------------------------------------------------------------------------------


def worker_command() -> list[str]:
    """How the worker is started; its output is the profiles, its errors are for people."""
    return [sys.executable, "-m", "lowbeam_worker"]


def _measure(wish: Wish, output: str | None, *, append: bool) -> tuple[int, str]:
    """Exit code of the worker and what it wrote, which is in `output` as soon as it comes."""
    text: list[str] = []
    command = [*worker_command(), *wish.arguments()]
    with contextlib.ExitStack() as stack:
        # A process group of its own: a terminal would tell the worker of Ctrl-C too, and two of them end it at once.
        child = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0))
        stack.callback(child.terminate)  # where its words cannot be written; does nothing to one that has ended
        stack.enter_context(_told_on(child))
        assert child.stdout is not None  # noqa: S101 - a pipe, as asked for
        for line in child.stdout:
            _emit(line, output, append=append or bool(text))
            text.append(line)
        code = child.wait()
    if -code in _INTERRUPTING:
        return INTERRUPTED, "".join(text)
    if code < 0:
        raise Impossible(
            f"the worker was ended by {signal.Signals(-code).name}"
            + (", probably for want of memory: name smaller --batches" if -code == signal.SIGKILL else "")
            + "; profiles that it had finished are written"
        )
    return code, "".join(text)


@contextlib.contextmanager
def _told_on(child: subprocess.Popen[str]) -> Iterator[None]:
    """Ctrl-C and its like are the worker's: it writes what is complete, and then we end as well.

    A thread of their own hands them on, from the pipe that the interpreter writes each one to as it comes. A handler
    would wait for us to stop reading the worker's words, which a signal just before the read does not bring about.
    """
    come, write = os.pipe()
    os.set_blocking(write, False)

    def tell() -> None:
        while numbers := os.read(come, 1):
            if numbers[0] in _INTERRUPTING:
                child.send_signal(numbers[0])

    telling = threading.Thread(target=tell, name="signals to the worker", daemon=True)
    telling.start()
    elsewhere = signal.set_wakeup_fd(write)
    before = [(number, signal.signal(number, lambda *_: None)) for number in _INTERRUPTING]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        signal.set_wakeup_fd(elsewhere)
        os.close(write)
        telling.join()
        os.close(come)


def _emit(text: str, output: str | None, *, append: bool = False) -> None:
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        with Path(output).open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadInput(f"--output: {output}: {error.strerror}; name a file that can be written") from error


def _objections(read: Manifests, text: str) -> bool:
    """Tell what the catalogue thinks of the new profiles; True when it refuses one of them."""
    results = list(read_documents(text))
    profiles = [it.object for it in results if isinstance(it.object, EnergyProfile)]
    bad = [f"{problem.object}: {problem.field}: {problem.message}" for it in results for problem in it.problems]
    catalogue, problems = _overlaid(read, profiles)
    bad += [f"{it.kind}/{it.name}: {it.field}: {it.message}" for it in problems]
    names = {f"EnergyProfile/{profile.metadata.name}" for profile in profiles}
    found = [finding for finding in verify(catalogue) if finding.subject in names]
    bad += [f"{it.subject}: {it.field}: {it.message}" for it in found if it.severity is Severity.ERROR]
    odd = [f"{it.subject}: {it.field}: {it.message}" for it in found if it.severity is Severity.SUSPICIOUS]
    for title, lines in (("the catalogue refuses", bad), ("worth a look", odd)):
        for line in lines:
            print(wrapped(f"# {title}: {line}").replace("\n", "\n# "), file=sys.stderr)
    return bool(bad)
