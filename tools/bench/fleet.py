"""What an operator costs as its fleet grows: memory, CPU, writes, time to Ready, length of its cycles, a successor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from . import instances
from .figures import Section, Table, number
from .playground import Playground, playground
from .processes import Metrics
from .reference import kernel_cpu_seconds
from .watching import Watching, seconds_until, watching

_CAP_WATTS = 2_000_000
_READY_SECONDS = 600.0
_CALM_SECONDS = 45.0
"""Three planner cycles, in which the last statuses are written."""
_STEADY_SECONDS = 30.0
_PLANNER = "lowbeam_planner_cycle_seconds"
_GUARD = "lowbeam_guard_tick_seconds"
_LAG = "lowbeam_event_loop_lag_seconds"
_TAKEN_OVER_SECONDS = 120.0

Figures = dict[str, str]


def measure(say: Callable[[str], None], counts: Sequence[int]) -> Section:
    """One cluster per size."""
    kernel = kernel_cpu_seconds()
    columns = [_one_fleet(count, say) for count in counts]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return Section(
        title="Fleet",
        about=(
            "One operator on KWOK nodes, workers played by the emulator, a cap over the cluster and one over each "
            "pool, none of them binding. Operator, emulator, API server and etcd share this machine, so times to Ready "
            "are those of all of them together. Writes are as the operator counts them (`lowbeam_api_calls_total`). "
            f"One kernel (`tools/bench/reference.py`) took {kernel * 1000:.0f} ms of CPU in this run."
        ),
        tables=[Table(("", *(f"{count} workloads" for count in counts)), rows)],
    )


def _one_fleet(count: int, say: Callable[[str], None]) -> Figures:
    with playground(f"fleet-{count}", instances.nodes(count)) as ground:
        return asyncio.run(_grow(ground, count, say))


async def _grow(ground: Playground, count: int, say: Callable[[str], None]) -> Figures:
    workloads = instances.workloads(count)
    spaces = sorted({raw["metadata"]["namespace"] for raw in workloads})
    ground.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}} for space in spaces)
    ground.apply(instances.power_caps(count, _CAP_WATTS))
    async with watching(str(ground.cluster.kubeconfig)) as seen:
        # 1. From nothing to all Ready.
        idle, cpu_before = Metrics.read(ground.metrics_port), ground.operator.cpu_seconds()
        started = time.monotonic()
        await asyncio.to_thread(ground.apply, workloads)
        applied = time.monotonic() - started
        say(f"{count} workloads applied after {applied:.0f} s")
        progress = asyncio.create_task(_tell(seen, count, say))
        ready = await seconds_until(
            lambda: len(seen.settled()) == count, started=started, within=_READY_SECONDS, check=ground.check
        )
        progress.cancel()
        rollout_cpu = ground.operator.cpu_seconds() - cpu_before
        say(f"{len(seen.settled())} of {count} ready after {time.monotonic() - started:.0f} s")
        grown = Metrics.read(ground.metrics_port)
        # 2. Nothing happens any more.
        await asyncio.sleep(_CALM_SECONDS)
        ground.check()
        calm, cpu_before, emulator_before = _now(ground)
        await asyncio.sleep(_STEADY_SECONDS)
        steady, cpu_after, emulator_after = _now(ground)
        now_mib, peak_mib = ground.operator.memory_mib()
        # 3. Another takes over.
        say("killed, and started again")
        successor = await _succeed(ground, seen)
        children = sum(raw.get("status", {}).get("readyReplicas", 0) for raw in seen.workloads())
        return {
            "replicas": str(children),
            "KWOK nodes": str(len(instances.nodes(count))),
            "kubectl apply, s": number(applied),
            "apply -> all Ready, s": number(float("inf") if ready is None else ready),
            "operator CPU until then, s": number(rollout_cpu),
            "operator CPU, steady, % of a core": number((cpu_after - cpu_before) / _STEADY_SECONDS * 100),
            "emulator CPU, steady, % of a core": number((emulator_after - emulator_before) / _STEADY_SECONDS * 100),
            "operator RSS, MiB (highest)": f"{now_mib:.0f} ({peak_mib:.0f})",
            **_writes("writes per workload until Ready", idle, grown, count),
            **_writes(f"writes in {_STEADY_SECONDS:.0f} s, steady", calm, steady),
            **_cycles("planner cycle until Ready", _PLANNER, idle, grown),
            **_cycles("guard tick until Ready", _GUARD, idle, grown),
            **_cycles("planner cycle, steady", _PLANNER, calm, steady),
            **_cycles("guard tick, steady", _GUARD, calm, steady),
            **_lateness("until Ready", idle, grown),
            **_lateness("while steady", calm, steady),
            **successor,
        }


async def _succeed(ground: Playground, seen: Watching) -> Figures:
    """The operator is killed; the next one waits for the Lease, reads back what runs, and plans."""
    seen.acts.clear()
    killed = time.monotonic()
    ground.operator.kill_and_start_again()
    found: Metrics | None = None
    while found is None or not found.total(f"{_PLANNER}_count"):
        await asyncio.sleep(1)  # a look costs the operator a page of all its series
        ground.check()
        if time.monotonic() - killed > _TAKEN_OVER_SECONDS:
            raise RuntimeError(f"no plan {_TAKEN_OVER_SECONDS:.0f} s after a kill; log: {ground.operator.log}")
        with suppress(OSError):
            found = Metrics.read(ground.metrics_port)
    planned = time.monotonic() - killed
    await asyncio.sleep(_CALM_SECONDS)
    changed = sum(what.startswith("Deployment") for _, what in seen.acts)
    return {
        "killed -> successor has planned, s": number(planned),
        "Deployments that it changed": str(changed),
        **_lateness("in the successor", None, Metrics.read(ground.metrics_port)),
    }


async def _tell(seen: Watching, count: int, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(20)
        say(f"{len(seen.settled())} of {count} are ready")


def _now(ground: Playground) -> tuple[Metrics, float, float]:
    return Metrics.read(ground.metrics_port), ground.operator.cpu_seconds(), ground.emulator.cpu_seconds()


def _writes(title: str, before: Metrics, after: Metrics, share: int = 1) -> Figures:
    """Without the Lease and with it apart: it is renewed whatever happens."""
    old, new = before.writes(), after.writes()
    grown = {kind: new[kind] - old.get(kind, 0.0) for kind in new}
    leases = grown.pop("leases", 0.0)
    others = ", ".join(f"{_short(kind)} {number(value / share)}" for kind, value in sorted(grown.items()) if value > 0)
    total = number(sum(grown.values()) / share)
    shown: Mapping[str, Any] = {title: f"{total} ({others})" if others else total}
    return {**shown, f"{title}: Lease": number(leases, 0)} if share == 1 else dict(shown)


def _short(kind: str) -> str:
    return {"inferenceworkloads/status": "status", "powercaps/status": "cap status"}.get(kind, kind)


def _cycles(title: str, histogram: str, before: Metrics, after: Metrics) -> Figures:
    count, mean, highest = after.duration(histogram, before)
    return {f"{title}, s (mean; p99 at most)": f"{number(mean, 3)}; {number(highest, 3)} (n={count})"}


def _lateness(title: str, before: Metrics | None, after: Metrics) -> Figures:
    count, mean, highest = after.duration(_LAG, before, quantile=1.0)
    return {f"event loop late {title}, s (mean; at most)": f"{number(mean, 3)}; {number(highest, 3)} (n={count})"}
