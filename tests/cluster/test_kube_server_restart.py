"""The API server restarts and etcd has forgotten: no ghosts, no help from outside. In a cluster of its own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import aiohttp
import pytest

from lowbeam.kube import AioTransport, Change, Gone, Informer, InformerState, connect
from tests.kube_harness import CONFIG_MAPS, config_map, monotonic_ms
from tools.localcluster import Cluster, ClusterSpec


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    if os.environ.get("CLUSTER") == "kind":
        pytest.skip("stops and starts the API server, which a kind cluster does not offer")
    with Cluster.up(ClusterSpec(name=f"restart-{os.getpid()}")) as cluster:
        yield cluster


async def compact_etcd(cluster: Cluster) -> None:
    """Through etcd's own HTTP gateway: forget everything before now."""
    url = f"http://127.0.0.1:{cluster.state.ports['etcd']}/v3"
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/maintenance/status", json={}) as answer:
            revision = (await answer.json())["header"]["revision"]
        async with session.post(f"{url}/kv/compaction", json={"revision": revision, "physical": True}) as answer:
            assert answer.status == 200, await answer.text()


async def test_what_was_deleted_while_the_mirror_could_not_see_it_is_gone_after_restart_and_compaction(
    own_cluster: Cluster,
) -> None:
    async with (
        await connect(str(own_cluster.kubeconfig)) as transport,
        await connect(str(own_cluster.kubeconfig)) as other,
    ):
        made = [await other.apply(CONFIG_MAPS, config_map("default", f"c{number}")) for number in range(25)]
        mirror = _mirror(transport)
        reported: list[tuple[Change, str]] = []
        mirror.on_change(lambda _, change, old, new: reported.append((change, (new or old or {})["metadata"]["uid"])))
        task = asyncio.create_task(mirror.run())
        await asyncio.wait_for(mirror.wait_synced(), 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        reported.clear()
        for obj in made[:20]:
            await other.delete(CONFIG_MAPS, obj["metadata"]["name"], "default", uid=obj["metadata"]["uid"])
        remade = await other.apply(CONFIG_MAPS, config_map("default", "c0"))
        await compact_etcd(own_cluster)
        await asyncio.to_thread(own_cluster.stop_part, "apiserver")
        await asyncio.to_thread(own_cluster.start_part, "apiserver")

        task = asyncio.create_task(mirror.run())  # goes on from the version that it remembers
        async with asyncio.timeout(30):
            while len(reported) < 21:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        gone = {uid for change, uid in reported if change is Change.DELETED}
        assert gone == {obj["metadata"]["uid"] for obj in made[:20]}
        assert (Change.ADDED, remade["metadata"]["uid"]) in reported
        assert {o["metadata"]["name"] for o in mirror.objects()} >= {"c0", *(f"c{n}" for n in range(20, 25))}
        assert transport.calls[("watch", "configmaps")] >= 3, "first list, refused resume, second list"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(Gone):
            async for _ in transport.watch(CONFIG_MAPS, resource_version="1", timeout_seconds=5):
                pass


async def test_a_server_that_is_away_for_a_while_is_found_again_by_itself(own_cluster: Cluster) -> None:
    async with await connect(str(own_cluster.kubeconfig)) as transport:
        mirror = _mirror(transport)
        task = asyncio.create_task(mirror.run())
        await asyncio.wait_for(mirror.wait_synced(), 20)
        await asyncio.to_thread(own_cluster.stop_part, "apiserver")
        async with asyncio.timeout(20):
            while mirror.state is not InformerState.UNREACHABLE:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert "the API server is up and reachable" in mirror.message
        assert mirror.objects(), "the last known objects stay"
        await asyncio.sleep(8)
        age_ms = mirror.last_sync_age_ms()
        assert age_ms is not None
        assert age_ms >= 8_000
        await asyncio.to_thread(own_cluster.start_part, "apiserver")
        await transport.apply(CONFIG_MAPS, config_map("default", "after"))
        back = time.monotonic()
        async with asyncio.timeout(20):
            while mirror.get("default", "after") is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert time.monotonic() - back < 10
        assert mirror.message == ""
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _mirror(transport: AioTransport) -> Informer:
    return Informer(transport, CONFIG_MAPS, namespace="default", monotonic_ms=monotonic_ms)
