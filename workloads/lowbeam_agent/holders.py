"""Which container holds which board.

Decides how a device id of the kubelet names a board, and what is known after a failed list: the last answer stays, with
its own time, because "the kubelet does not answer" must never read as "nobody uses the GPUs". An empty answer is one.

Device ids that are understood: the board's UUID (NVIDIA's device plugin), the same with `::N` behind it (time-slicing,
MPS), `MIG-...` (the board it was cut from) and `nvidiaN`, `nvidiaN/giM` (GKE: its file in /dev). Devices given by
Dynamic Resource Allocation have no such id and are not seen.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lowbeam.api.wire import DeviceHolder
from lowbeam_agent.podresources import Kubelet, PodListError

log = logging.getLogger(__name__)

LIST_SECONDS = 2.0
LIST_TIMEOUT_SECONDS = 2.0
_BY_NUMBER = re.compile(r"nvidia(\d{1,9})(/.*)?")

ParentOf = Callable[[str], str | None]
"""UUID of a MIG instance -> UUID of its board; None where NVML does not know it."""


@dataclass(frozen=True, slots=True)
class PodList:
    """One answer of the kubelet."""

    at_unix_s: float
    by_board: Mapping[str, tuple[DeviceHolder, ...]]
    """UUID -> who holds the board or a part of it; a board that nobody holds is left out."""


def board_of(device: str, boards: Mapping[str, int | None], parent_of: ParentOf) -> str | None:
    """The UUID of the board behind a device id of the kubelet; None: some other device, or a board not seen here.

    `boards`: UUID -> N of /dev/nvidiaN. Not the index: it moves when another board is lost.
    """
    name = device.split("::", 1)[0]
    if name in boards:
        return name
    if name.startswith("MIG-"):
        return parent_of(name)
    if match := _BY_NUMBER.fullmatch(name):
        return next((uuid for uuid, number in boards.items() if number == int(match[1])), None)
    return None


def by_board(
    devices: Iterable[tuple[str, str, str, str]], boards: Mapping[str, int | None], parent_of: ParentOf
) -> dict[str, tuple[DeviceHolder, ...]]:
    """Holders of each board; a container that holds several parts of one board is named once."""
    found: dict[str, dict[DeviceHolder, None]] = {}
    for device, namespace, pod, container in devices:
        if (board := board_of(device, boards, parent_of)) is not None:
            found.setdefault(board, {})[DeviceHolder(namespace=namespace, pod=pod, container=container)] = None
    return {board: tuple(holders) for board, holders in found.items()}


class Holders:
    """Asks the kubelet in a thread of its own: a kubelet that hangs must not hold up the meters."""

    def __init__(self, kubelet: Kubelet, boards: Mapping[str, int | None], parent_of: ParentOf) -> None:
        self._kubelet = kubelet
        self._boards = boards
        self._parent_of = parent_of
        self._parents: dict[str, str | None] = {}
        self._lists = 0
        self._since: dict[tuple[str, str, str], int] = {}
        """(device id, namespace, pod) -> number of the list that named it first."""
        self._last: PodList | None = None
        self._problem: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="holders", daemon=True)

    @property
    def last(self) -> PodList | None:
        """The newest answer of the kubelet; None: it never answered."""
        return self._last

    def refresh(self) -> None:
        """Ask once."""
        try:
            devices = self._kubelet.devices(LIST_TIMEOUT_SECONDS)
        except PodListError as error:
            if self._problem is None:  # once per outage
                log.warning("the kubelet's pods are not known (%s); the last answer stays, with its age", error)
            self._problem = str(error)
            return
        self._last = PodList(time.time(), by_board(self._without_ended(devices), self._boards, self._parent))
        if self._problem is not None:
            log.info("the kubelet answers again")
        self._problem = None

    def start(self) -> None:
        """Ask every `LIST_SECONDS`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking and close the connection."""
        self._stopping.set()
        self._thread.join(timeout=LIST_TIMEOUT_SECONDS + 1)
        self._kubelet.close()

    def _without_ended(self, devices: list[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
        """A kubelet may list pods that have ended (kubernetes/kubernetes#119423): their device is given to another one,
        and the later of the two holds it. Of two that were there at the first list nobody knows, and both stay."""
        self._lists += 1
        self._since = {held[:3]: self._since.get(held[:3], self._lists) for held in devices}
        newest: dict[str, int] = {}
        for (device, _, _), since in self._since.items():
            newest[device] = max(since, newest.get(device, 0))
        return [held for held in devices if self._since[held[:3]] == newest[held[0]]]

    def _parent(self, mig_uuid: str) -> str | None:
        """Remembered: NVML takes up to 100 ms for a question about MIG, and an instance never moves."""
        if self._parents.get(mig_uuid) is None:
            self._parents[mig_uuid] = self._parent_of(mig_uuid)
        return self._parents[mig_uuid]

    def _run(self) -> None:
        self.refresh()
        while not self._stopping.wait(LIST_SECONDS):
            self.refresh()
