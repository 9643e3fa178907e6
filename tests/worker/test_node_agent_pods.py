"""Which container holds which board, asked over gRPC of a kubelet that comes, goes and lies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from lowbeam_agent.holders import Holders, board_of
from lowbeam_agent.podresources import MESSAGES, Kubelet, PodListError

BOARDS = {"GPU-aaaa": 0, "GPU-bbbb": 1, "GPU-dddd": None}


class FakeKubelet:
    """Answers List with what it is given; None: it fails."""

    def __init__(self, socket: Path) -> None:
        self.socket, self.pods = socket, dict[tuple[str, str, str], Sequence[str]]()
        self.fails: grpc.StatusCode | None = None
        self._server: Any = None

    def start(self) -> None:
        handler = grpc.unary_unary_rpc_method_handler(
            self._list,
            request_deserializer=MESSAGES["ListPodResourcesRequest"].FromString,
            response_serializer=MESSAGES["ListPodResourcesResponse"].SerializeToString,
        )
        self._server = grpc.server(ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler}),)
        )
        self._server.add_insecure_port(f"unix://{self.socket}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def _list(self, _: Any, context: Any) -> Any:
        if self.fails is not None:
            context.abort(self.fails, "no list today")
        answer = MESSAGES["ListPodResourcesResponse"]()
        for (namespace, name, container), devices in self.pods.items():
            pod = answer.pod_resources.add(namespace=namespace, name=name)
            pod.containers.add(name=container).devices.add(resource_name="nvidia.com/gpu", device_ids=devices)
        return answer


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakeKubelet]:
    made = FakeKubelet(tmp_path / "kubelet.sock")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def holders(kubelet: FakeKubelet) -> Iterator[Holders]:
    client = Kubelet(kubelet.socket)
    yield Holders(client, BOARDS, {"MIG-1": "GPU-bbbb"}.get)
    client.close()


def held(holders: Holders) -> dict[str, list[str]]:
    assert holders.last is not None
    return {
        board: [f"{h.namespace}/{h.pod}/{h.container}" for h in who] for board, who in holders.last.by_board.items()
    }


def test_boards_are_mapped_to_the_containers_that_hold_them(kubelet: FakeKubelet, holders: Holders) -> None:
    kubelet.pods = {
        ("shop", "search-0", "worker"): ["GPU-aaaa"],
        ("shop", "mig-0", "worker"): ["MIG-1", "MIG-unknown"],
        ("shop", "mig-1", "worker"): ["MIG-1"],
        ("kube-system", "nic", "main"): ["0000:3b:00.0"],
    }
    holders.refresh()
    assert held(holders) == {
        "GPU-aaaa": ["shop/search-0/worker"],
        "GPU-bbbb": ["shop/mig-0/worker", "shop/mig-1/worker"],
    }


@pytest.mark.parametrize(
    ("device", "board"),
    [
        ("GPU-bbbb", "GPU-bbbb"),
        ("GPU-bbbb::3", "GPU-bbbb"),
        ("MIG-1", "GPU-bbbb"),
        ("MIG-1::0", "GPU-bbbb"),
        ("MIG-2", None),
        ("nvidia0", "GPU-aaaa"),
        ("nvidia1/gi4", "GPU-bbbb"),
        ("nvidia2", None),
        ("nvidiactl", None),
        ("GPU-cccc", None),
    ],
)
def test_every_way_in_which_device_plugins_name_a_board_is_understood(device: str, board: str | None) -> None:
    assert board_of(device, BOARDS, {"MIG-1": "GPU-bbbb"}.get) == board


def test_a_container_with_several_parts_of_one_board_is_named_once(kubelet: FakeKubelet, holders: Holders) -> None:
    kubelet.pods = {("a", "b", "c"): ["GPU-aaaa::0", "GPU-aaaa::1"]}
    holders.refresh()
    assert held(holders) == {"GPU-aaaa": ["a/b/c"]}


def test_a_pod_that_has_ended_and_is_still_listed_shares_no_board_with_its_successor(
    kubelet: FakeKubelet, holders: Holders
) -> None:
    ended, other = ("shop", "evicted", "worker"), ("shop", "sliced", "worker")
    kubelet.pods = {ended: ["GPU-aaaa", "GPU-dddd"], other: ["GPU-bbbb::0"]}
    holders.refresh()
    kubelet.pods = {("shop", "new", "worker"): ["GPU-aaaa", "GPU-bbbb::1"], **kubelet.pods}
    for _ in range(2):
        holders.refresh()
        assert held(holders) == {
            "GPU-aaaa": ["shop/new/worker"],
            "GPU-bbbb": ["shop/new/worker", "shop/sliced/worker"],
            "GPU-dddd": ["shop/evicted/worker"],
        }


def test_a_failed_list_keeps_the_last_one_and_its_time_while_an_empty_one_counts(
    kubelet: FakeKubelet, holders: Holders, caplog: pytest.LogCaptureFixture
) -> None:
    kubelet.pods = {("a", "b", "c"): ["GPU-aaaa"]}
    holders.refresh()
    before = holders.last
    assert before is not None
    kubelet.fails = grpc.StatusCode.RESOURCE_EXHAUSTED
    holders.refresh()
    holders.refresh()
    assert holders.last == before
    assert [r.message for r in caplog.records if "RESOURCE_EXHAUSTED" in r.message and "no list today" in r.message]
    assert len(caplog.records) == 1, "an outage is said once"
    kubelet.fails, kubelet.pods = None, {}
    holders.refresh()
    assert held(holders) == {}
    assert holders.last is not None
    assert holders.last.at_unix_s > before.at_unix_s


def test_a_kubelet_that_restarts_is_found_again(kubelet: FakeKubelet, holders: Holders) -> None:
    kubelet.pods = {("a", "b", "c"): ["GPU-aaaa"]}
    holders.refresh()
    kubelet.stop()
    holders.refresh()
    assert held(holders) == {"GPU-aaaa": ["a/b/c"]}
    kubelet.socket.unlink(missing_ok=True)
    kubelet.start()
    kubelet.pods = {("a", "new", "c"): ["GPU-aaaa"]}
    deadline = time.monotonic() + 20
    while held(holders) != {"GPU-aaaa": ["a/new/c"]}:
        assert time.monotonic() < deadline
        holders.refresh()
        time.sleep(0.05)


def test_without_a_kubelet_nothing_is_known_and_the_socket_is_named(tmp_path: Path) -> None:
    client = Kubelet(tmp_path / "absent.sock")
    with pytest.raises(PodListError, match=r"absent\.sock: UNAVAILABLE"):
        client.devices(2)
    client.close()


def test_fields_that_the_agent_does_not_know_are_skipped() -> None:
    # PodResources{name: "b", namespace: "a", 15: "new"} as a newer kubelet might send it.
    raw = b"\x0a\x0b" + b"\x0a\x01b" + b"\x12\x01a" + b"\x7a\x03new"
    (pod,) = MESSAGES["ListPodResourcesResponse"].FromString(raw).pod_resources
    assert (pod.namespace, pod.name) == ("a", "b")
