"""How fast a lower cap is obeyed: the samples on KWOK nodes with emulated workers, cut by 30 % again and again."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lowbeam.kube import DEPLOYMENTS
from tools.localcluster import SAMPLE_KWOK_NODES

from .figures import Section, Table, number, spread
from .playground import SAMPLES, Playground, playground
from .watching import Watching, is_settled, seconds_until, watching

_CAP = "cluster"
_CUT_PERCENT = 30
_WITHIN_SECONDS = 60.0
_RESTORED_WITHIN_SECONDS = 180.0
_CALM_SECONDS = 4.0
"""Before and after a run: two guard ticks in which nothing changes any more."""
_POLL_SECONDS = 0.1


@dataclass(slots=True)
class Run:
    """Seconds since the cap was lowered, and since it was raised again; None: not within the time."""

    first_act: float | None = None
    what: str = ""
    drawn: float | None = None
    """The emulated workers together draw no more than the cap lets them."""
    under: float | None = None
    """The cap's status says that measured and committed watts are under its usable watts."""
    restored: float | None = None
    dimmed: int = 0
    left: str = ""
    """What stood in the way, where it did not get under the cap or was not restored."""
    drawn_before: float = 0.0
    committed_before: int = 0


@dataclass(slots=True)
class Workers:
    """What the emulator says about the workers, polled."""

    url: str
    watts: float = float("inf")
    lowered_at: float | None = None
    """When a worker first ran a smaller batch than before."""
    _batches: dict[str, int] | None = None

    def restart(self) -> None:
        """Forget what was seen."""
        self.lowered_at, self._batches = None, None

    async def follow(self) -> None:
        """Poll until cancelled."""
        while True:
            rows = await asyncio.to_thread(self._rows)
            batches = {row["address"]: row["batchLimit"] for row in rows}
            before = self._batches or {}
            if self.lowered_at is None and any(limit < before.get(at, 0) for at, limit in batches.items()):
                self.lowered_at = time.monotonic()
            self._batches = batches
            self.watts = sum(row["watts"] or 0.0 for row in rows)
            await asyncio.sleep(_POLL_SECONDS)

    def _rows(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/replicas", timeout=10) as answer:  # noqa: S310 - our own URL
            rows: list[dict[str, Any]] = json.loads(answer.read())
        return rows


def measure(say: Callable[[str], None], runs: int) -> Section:
    """Cut and restore so many times."""
    with playground("cut", _nodes()) as ground:
        ground.cluster.kubectl("apply", "--server-side", "-f", str(SAMPLES / "namespaces.yaml"))
        found, watts = asyncio.run(_cut_often(ground, runs, say))
    names: tuple[tuple[str, Callable[[Run], float | None]], ...] = (
        ("cap lowered -> first action", lambda run: run.first_act),
        ("cap lowered -> workers draw less than usable", lambda run: run.drawn),
        ("cap lowered -> measured and committed under usable", lambda run: run.under),
        ("cap raised -> everything restored", lambda run: run.restored),
    )
    rows = [[name, *spread([pick(run) for run in found])] for name, pick in names]
    firsts = sorted({run.what for run in found if run.what})
    return Section(
        title="Power cut",
        about=(
            f"The {_workload_count()} samples on KWOK nodes, workers played by the emulator. The cap of the cluster "
            f"falls from {watts} W to {watts * (100 - _CUT_PERCENT) // 100} W ({_CUT_PERCENT} % less), {len(found)} "
            "times; each run begins with fresh objects that all run what they ask for. The samples' caps "
            "have short dwell times (15 s). "
            "Seconds are wall time, seen through watches and the emulator; a status is written with the guard's tick "
            "of 2 s. The emulator needs time to fall, like a GPU: see `--settle-seconds`."
        ),
        tables=[Table(("seconds", "p50", "p99", "max"), rows)],
        remarks=[
            f"before a cut {_range([run.drawn_before for run in found])} W were drawn and "
            f"{_range([run.committed_before for run in found])} W committed",
            f"workloads dimmed per cut: {_range([run.dimmed for run in found])}",
            f"first actions seen: {', '.join(firsts) or 'none'}",
            f"not under the cap within {_WITHIN_SECONDS:.0f} s: {sum(run.under is None for run in found)} of "
            f"{len(found)}; not restored within {_RESTORED_WITHIN_SECONDS:.0f} s: "
            f"{sum(run.restored is None for run in found)}",
        ],
    )


async def _cut_often(ground: Playground, runs: int, say: Callable[[str], None]) -> tuple[list[Run], int]:
    async with watching(str(ground.cluster.kubeconfig)) as seen:
        workers = Workers(ground.emulator_url)
        poll = asyncio.create_task(workers.follow())
        try:
            found = []
            for number_of_run in range(1, runs + 1):
                watts = await _begin(ground, seen)
                found.append(await _cut_once(seen, workers, watts))
                say(f"run {number_of_run}/{runs}: {_shown(found[-1])}")
                await _end(ground, seen)
            return found, watts
        finally:
            poll.cancel()


async def _begin(ground: Playground, seen: Watching) -> int:
    """Apply the samples and wait until they run what they ask for; the watts of the cap."""
    await asyncio.to_thread(ground.cluster.kubectl, "apply", "--server-side", "--force-conflicts", "-f", str(SAMPLES))
    ready = await seconds_until(
        lambda: len(seen.settled()) == _workload_count(),
        started=time.monotonic(),
        within=_RESTORED_WITHIN_SECONDS,
        check=ground.check,
    )
    if ready is None:
        states = {raw["metadata"]["name"]: raw.get("status", {}).get("conditions") for raw in seen.workloads()}
        raise RuntimeError(f"the samples did not get ready: {states}")
    await asyncio.sleep(_CALM_SECONDS)
    return int(seen.cap(_CAP)["spec"]["watts"])


async def _end(ground: Playground, seen: Watching) -> None:
    """Take the samples away: a workload that was dimmed and restored a few times is held as it is for minutes."""
    delete = ("delete", "inferenceworkloads,powercaps", "--all", "--all-namespaces", "--wait=true")
    await asyncio.to_thread(ground.cluster.kubectl, *delete)
    deployments = seen.informers[DEPLOYMENTS]
    gone = await seconds_until(
        lambda: not deployments.objects(), started=time.monotonic(), within=_RESTORED_WITHIN_SECONDS, check=ground.check
    )
    if gone is None:
        raise RuntimeError("Deployments are left after their workloads are gone")
    await asyncio.sleep(_CALM_SECONDS)


async def _cut_once(seen: Watching, workers: Workers, watts: int) -> Run:
    run = Run()
    seen.acts.clear()
    workers.restart()
    await asyncio.sleep(2 * _POLL_SECONDS)  # the batches before the cut are known
    run.drawn_before, run.committed_before = workers.watts, seen.cap(_CAP)["status"]["committedWatts"]
    started, generation = await seen.set_watts(_CAP, watts * (100 - _CUT_PERCENT) // 100)

    def is_under() -> bool:
        status = seen.cap(_CAP).get("status", {})
        if status.get("observedGeneration", 0) < generation:
            return False
        if run.drawn is None and workers.watts <= status["usableWatts"]:
            run.drawn = time.monotonic() - started
        return bool(max(status["measuredWatts"], status["committedWatts"]) <= status["usableWatts"])

    run.under = await seconds_until(is_under, started=started, within=_WITHIN_SECONDS)
    if run.under is None:
        status = seen.cap(_CAP)["status"]
        run.left = ", ".join(f"{name} {status[name]}" for name in ("usableWatts", "committedWatts", "measuredWatts"))
    usable = seen.cap(_CAP)["status"]["usableWatts"]
    if run.drawn is None:
        run.drawn = await seconds_until(lambda: workers.watts <= usable, started=started, within=_WITHIN_SECONDS)
    acts = [(at, what) for at, what in seen.acts if at >= started]
    if workers.lowered_at is not None:
        acts.append((workers.lowered_at, "batch limit"))
    if acts:
        at, run.what = min(acts)
        run.first_act = at - started
    await asyncio.sleep(_CALM_SECONDS)  # the statuses of the workloads follow within a few ticks
    run.dimmed = sum("dimming" in raw.get("status", {}) for raw in seen.workloads())
    raised, _ = await seen.set_watts(_CAP, watts)
    run.restored = await seconds_until(
        lambda: len(seen.settled()) == _workload_count(), started=raised, within=_RESTORED_WITHIN_SECONDS
    )
    if run.restored is None:
        run.left += "; ".join(_why_not(raw) for raw in seen.workloads() if not is_settled(raw))
    return run


def _why_not(raw: Mapping[str, Any]) -> str:
    said = [
        c["message"] for c in raw["status"].get("conditions", ()) if c["message"] and c["type"] in ("Ready", "Dimmed")
    ]
    return f"{raw['metadata']['name']}: {', '.join(said)}"


def _range(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(number(value, 0) for value in (min(values), max(values))))


def _shown(run: Run) -> str:
    figures = (run.first_act, run.drawn, run.under, run.restored)
    first, drawn, under, restored = (number(value) for value in figures)
    return (
        f"first action {first} s ({run.what or 'none'}), drawn {drawn} s, under {under} s, restored {restored} s, "
        f"{run.dimmed} dimmed{'; ' if run.left else ''}{run.left}"
    )


def _nodes() -> list[dict[str, Any]]:
    """The sample's GPU nodes, and a plain one for the workload that wants class `cpu`."""
    nodes = [raw for raw in yaml.safe_load_all(SAMPLE_KWOK_NODES.read_text()) if raw]
    room = {"cpu": "16", "memory": "64Gi", "pods": "110"}
    plain = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "plain-1",
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"kubernetes.io/hostname": "plain-1", "lowbeam.dev/accelerator-class": "cpu"},
        },
        "status": {"allocatable": room, "capacity": room},
    }
    return [*nodes, plain]


def _workload_count() -> int:
    texts = (file.read_text() for file in SAMPLES.glob("*.yaml"))
    return sum(raw["kind"] == "InferenceWorkload" for text in texts for raw in yaml.safe_load_all(text) if raw)
