from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from lowbeam.api.v1alpha1.inferenceworkload import InferenceWorkload
from lowbeam.api.wire import CONTROL_PORT, MeterMethod, ProfileChange, WorkerState, WorkerTelemetry
from lowbeam.catalog import load_builtin
from lowbeam.catalog.facts import EnergyProfile, Reasoning
from lowbeam.emulator import Emulator, FleetSettings, Pace
from lowbeam.kube.aio_transport import connect
from lowbeam.render import Placement, RenderSettings, control_token, deployment, labels, service
from lowbeam.runtime.clock import SystemClock
from lowbeam.sizing.options import Option
from tests.ports import free_port
from tools.localcluster.client import ClusterClient

CATALOGUE = load_builtin()
KEY = b"a key of the operator for tests"
CRDS = Path(__file__).parents[2] / "crds"
PACE = Pace(start_seconds=0.5, settle_seconds=0.5)
REPLICAS = 3
NOISE = 0.04


def a_profile() -> EnergyProfile:
    """A language model on one H100 whose draw depends visibly on the batch."""
    found = [
        p
        for p in CATALOGUE.profiles
        if p.task == "text-generation"
        and (p.accelerator_class, p.accelerators, p.reasoning) == ("h100", 1, Reasoning.OFF)
        and p.points[-1].milliwatts > p.points[0].milliwatts * 1.1
    ]
    return min(found, key=lambda p: p.name)


PROFILE = a_profile()
TOP = PROFILE.points[-1]


def manifest_of_workload(namespace: str, name: str = "assistant") -> dict[str, Any]:
    """As much load as keeps every replica at its top batch."""
    per_minute = REPLICAS * TOP.requests_per_second_milli * 60 // 1000 * 2
    return {
        "apiVersion": "lowbeam.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "task": PROFILE.task,
            "load": {
                "requestsPerMinute": per_minute,
                "inputTokens": PROFILE.input_tokens,
                "outputTokens": PROFILE.output_tokens,
            },
        },
    }


def an_option() -> Option:
    return Option(
        model=PROFILE.model,
        precision=PROFILE.precision,
        reasoning=PROFILE.reasoning,
        accelerator_class=PROFILE.accelerator_class,
        accelerators_per_replica=PROFILE.accelerators,
        batch_limit=TOP.batch,
        replicas=REPLICAS,
        pool="",
        engine=PROFILE.engine,
        expected_milliwatts=0,
        worst_case_milliwatts=0,
        capacity_millirps=0,
        unserved_millirps=0,
        quality_centi=None,
        quality_shortfall_centi=0,
        millijoules_per_request=0,
        latency_p95_ms=0,
        basis=PROFILE.basis,
    )


async def eventually(check: Callable[[], Awaitable[bool]], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not await check():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.1)


@dataclass
class Stage:
    """A workload with running KWOK pods, and an emulator that plays them."""

    cluster: ClusterClient
    namespace: str
    token: str
    http: httpx.AsyncClient
    admin: str

    def pods(self) -> list[dict[str, Any]]:
        found = json.loads(self.cluster.kubectl("get", "pods", "-n", self.namespace, "-o", "json"))["items"]
        return [pod for pod in found if pod["status"].get("podIP") and "deletionTimestamp" not in pod["metadata"]]

    async def call(self, method: str, address: str, path: str, **kwargs: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return await self.http.request(
            method, f"http://{address}:{CONTROL_PORT}{path}", **({"headers": headers} | kwargs)
        )

    async def telemetry(self, address: str) -> WorkerTelemetry:
        answer = await self.call("GET", address, "/telemetry")
        assert answer.status_code == 200, answer.text
        return WorkerTelemetry.model_validate_json(answer.content)

    async def set_batch(self, address: str, batch: int, generation: int) -> httpx.Response:
        change = ProfileChange(generation=generation, batch_limit=batch)
        return await self.call(
            "PATCH", address, "/control/profile", content=change.model_dump_json(by_alias=True).encode()
        )

    async def faults(self, *kinds: str, pod: str = "") -> httpx.Response:
        body = {"namespace": self.namespace, "pod": pod, "faults": list(kinds)}
        return await self.http.put(f"{self.admin}/faults", json=body)


@pytest.fixture
def workload(cluster: ClusterClient, namespace: str) -> InferenceWorkload:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest_of_workload(namespace)))
    raw = json.loads(cluster.kubectl("get", "iw", "-n", namespace, "assistant", "-o", "json"))
    return InferenceWorkload.from_cluster(raw)


@pytest.fixture
async def stage(cluster: ClusterClient, namespace: str, workload: InferenceWorkload) -> AsyncIterator[Stage]:
    rendered = deployment(
        workload,
        an_option(),
        model_path=PROFILE.model,
        weights_mib=1000,
        replicas=REPLICAS,
        accelerator=CATALOGUE.accelerator_classes["h100"],
        pool_selector={},
        settings=RenderSettings("example/worker:1", control_key=KEY),
    )
    for manifest in (rendered, service(workload)):
        cluster.kubectl("apply", "--server-side", "--field-manager=lowbeam", "-f", "-", stdin=json.dumps(manifest))
    cluster.kubectl("rollout", "status", "deployment", rendered["metadata"]["name"], "-n", namespace, "--timeout=60s")
    stop, admin_port = asyncio.Event(), free_port()
    async with await connect(str(cluster.kubeconfig)) as transport, httpx.AsyncClient(timeout=5) as http:
        emulator = Emulator(
            transport, CATALOGUE, SystemClock(), FleetSettings(pace=PACE), namespace=namespace, admin_port=admin_port
        )
        running = asyncio.create_task(emulator.run(stop))
        made = Stage(
            cluster,
            namespace,
            control_token(KEY, workload.metadata.uid),
            http,
            f"http://127.0.0.1:{admin_port}",
        )

        async def everybody_listens() -> bool:
            return len(emulator.ports.listening()) == REPLICAS

        await eventually(everybody_listens, f"{REPLICAS} emulated workers")
        await asyncio.sleep(PACE.start_seconds)
        yield made
        stop.set()
        await asyncio.wait_for(running, 10)


async def test_emulated_workers_answer_like_real_ones_and_follow_hot_changes(stage: Stage) -> None:
    pods = {pod["status"]["podIP"]: pod["metadata"]["name"] for pod in stage.pods()}
    assert len(pods) == REPLICAS

    # 1. Without the workload's token nobody gets in.
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        refused = await stage.call("GET", next(iter(pods)), "/telemetry", headers=headers)
        assert refused.status_code == 401

    # 2. Each pod answers for itself, at batch 1 until told otherwise.
    for address, name in pods.items():
        sample = await stage.telemetry(address)
        assert (sample.pod, sample.namespace, sample.method) == (name, stage.namespace, MeterMethod.EMULATED)
        assert sample.profile.model == PROFILE.model
        assert sample.profile.batch_limit == 1

    # 3. At the profile's top batch they draw what was published for it.
    for address in pods:
        assert (await stage.set_batch(address, TOP.batch, 1)).status_code == 200
    await asyncio.sleep(PACE.settle_seconds + 0.5)
    for address in pods:
        sample = await stage.telemetry(address)
        assert sample.state is WorkerState.READY
        assert sample.watts == pytest.approx(TOP.milliwatts / 1000, rel=NOISE)

    # 4. A smaller batch draws less; old generations are refused; the same one is answered again.
    address = next(iter(pods))
    small = PROFILE.points[0]
    first, again = [(await stage.set_batch(address, small.batch, 3)).json() for _ in range(2)]
    assert first["changed"] is True
    assert again == first
    assert (await stage.set_batch(address, TOP.batch, 2)).status_code == 409
    assert (await stage.call("PATCH", address, "/control/profile", content=b'{"batchLimit": 8}')).status_code == 422
    await asyncio.sleep(PACE.settle_seconds + 0.5)
    assert (await stage.telemetry(address)).watts == pytest.approx(small.milliwatts / 1000, rel=NOISE)
    profile = (await stage.call("GET", address, "/control/profile")).json()
    assert (profile["batchLimit"], profile["generation"]) == (small.batch, 3)

    # 5. A drained worker takes no load any more.
    assert (await stage.call("POST", address, "/control/drain")).status_code == 202
    await eventually(lambda: is_state(stage, address, WorkerState.DRAINING), "the worker drains")
    assert (await stage.telemetry(address)).requests_waiting >= 0

    # 6. A deleted pod stops answering and its successor starts at batch 1.
    stage.cluster.kubectl("delete", "pod", "-n", stage.namespace, pods[address], "--wait=true")

    async def replaced() -> bool:
        fresh = [p for p in stage.pods() if p["metadata"]["name"] not in pods.values()]
        try:
            return bool(fresh) and (await stage.telemetry(fresh[0]["status"]["podIP"])).profile.batch_limit == 1
        except httpx.TransportError:
            return False

    await eventually(replaced, "the new pod is played")


async def is_state(stage: Stage, address: str, state: WorkerState) -> bool:
    return (await stage.telemetry(address)).state is state


async def test_broken_workers_break_in_the_way_that_was_asked_for(stage: Stage) -> None:
    pod = stage.pods()[0]
    address, name = pod["status"]["podIP"], pod["metadata"]["name"]
    await stage.set_batch(address, TOP.batch, 1)
    await asyncio.sleep(PACE.settle_seconds + 0.5)
    sound = await stage.telemetry(address)
    assert sound.watts is not None

    assert (await stage.faults("WrongUnit", pod=name)).json() == {"matched": 1}
    assert (await stage.telemetry(address)).watts == pytest.approx(sound.watts * 1000, rel=2 * NOISE)

    await stage.faults("Frozen", pod=name)
    first = await stage.telemetry(address)
    await asyncio.sleep(1.0)
    second = await stage.telemetry(address)
    assert second.energy_joules == first.energy_joules
    assert second.sampled_at_seconds > first.sampled_at_seconds

    await stage.faults("IgnoreControl", pod=name)
    assert (await stage.set_batch(address, 1, 2)).status_code == 200
    await asyncio.sleep(PACE.settle_seconds + 0.5)
    assert (await stage.telemetry(address)).watts == pytest.approx(sound.watts, rel=2 * NOISE)

    await stage.faults("Silent", pod=name)
    with pytest.raises(httpx.TransportError):
        await stage.telemetry(address)
    others = [p["status"]["podIP"] for p in stage.pods() if p["metadata"]["name"] != name]
    assert (await stage.telemetry(others[0])).watts is not None

    assert (await stage.faults(pod=name)).status_code == 200
    assert (await stage.telemetry(address)).watts is not None
    assert (await stage.faults("Silent", pod="no-such-pod")).status_code == 404
    assert (await stage.faults("Cheerful", pod=name)).status_code == 422


async def test_the_load_can_be_moved_while_it_plays(stage: Stage) -> None:
    address = stage.pods()[0]["status"]["podIP"]
    await stage.set_batch(address, TOP.batch, 1)
    assert (await stage.http.put(f"{stage.admin}/load", json={"factor": 0})).status_code == 204
    idle = CATALOGUE.accelerator_classes["h100"].idle_milliwatts / 1000

    async def draws_idle_watts() -> bool:
        watts = (await stage.telemetry(address)).watts
        return watts is not None and watts == pytest.approx(idle, rel=NOISE)

    await eventually(draws_idle_watts, "idle watts without load", 120)
    rows = (await stage.http.get(f"{stage.admin}/replicas")).json()
    assert len(rows) == REPLICAS
    assert {row["offeredRequestsPerSecond"] for row in rows} == {0.0}
    assert (await stage.http.put(f"{stage.admin}/load", json={"factor": -1})).status_code == 422


async def test_five_hundred_pods_answer_soon_after_they_run(cluster: ClusterClient, namespace: str) -> None:
    count = 500
    template = {
        "metadata": {
            "labels": labels.worker_labels("many") | {labels.PLACEMENT: "0123456789"},
            "annotations": {labels.OPTION: Placement.of(an_option()).to_annotation()},
        },
        "spec": {
            "tolerations": [{"operator": "Exists"}],
            "nodeSelector": {"nvidia.com/gpu.present": "true"},
            "containers": [{"name": "worker", "image": "example/worker:1"}],
        },
    }
    many = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "many", "namespace": namespace},
        "spec": {
            "replicas": count,
            "selector": {"matchLabels": {labels.WORKLOAD: "many"}},
            "template": template,
        },
    }
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(many))
    stop = asyncio.Event()
    async with await connect(str(cluster.kubeconfig)) as transport:
        emulator = Emulator(transport, CATALOGUE, SystemClock(), FleetSettings(pace=PACE), namespace=namespace)
        running = asyncio.create_task(emulator.run(stop))

        async def all_listen() -> bool:
            return len(emulator.ports.listening()) == count

        await eventually(all_listen, f"{count} sockets", 120)
        async with httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=50)) as http:
            answers = await asyncio.gather(
                *(http.get(f"http://{a}:{CONTROL_PORT}/telemetry") for a in emulator.ports.listening())
            )
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["pod"] for answer in answers}) == count
        cluster.kubectl("delete", "deployment", "-n", namespace, "many", "--wait=false")

        async def nobody_listens() -> bool:
            return not emulator.ports.listening()

        await eventually(nobody_listens, "all sockets closed", 120)
        stop.set()
        await asyncio.wait_for(running, 10)
