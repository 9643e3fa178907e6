"""`lowbeam-agent`: reads all GPUs of its node, says who holds them, and sets power limits under leases where it may.

Without `--limit-token-file` it changes nothing on a board and needs no privileges. With it, the limits that it set are
given back at SIGTERM, after the last request was answered.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from lowbeam.api.wire import AGENT_PORT
from lowbeam_agent.app import agent_app
from lowbeam_agent.boardlimits import NvmlLimits
from lowbeam_agent.holders import Holders
from lowbeam_agent.leases import Leases
from lowbeam_agent.podresources import Kubelet
from lowbeam_agent.record import RecordFile, TakenError
from lowbeam_agent.sampler import Sampler
from lowbeam_worker.energy.boards import Boards, NoMeterError
from lowbeam_worker.listening import listen

log = logging.getLogger(__name__)

NO_METER_EXIT_CODE = 3
KUBELET_SOCKET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
STATE_FOLDER = Path("/var/lib/lowbeam-agent")
GRACE_SECONDS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 0 after SIGTERM, 1 when port or state folder are taken, 3 when NVML is missing."""
    given = agent_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        boards = Boards(skip_lost=True)
    except NoMeterError as error:
        sys.stderr.write(f"lowbeam-agent: {error}\n")
        sys.exit(NO_METER_EXIT_CODE)
    record = RecordFile(given.state_folder)
    try:
        # Before the limits are touched: an agent that already has the port, or the record, may hold leases on them.
        listening = listen(given.port)
        if given.limit_token_file:
            record.claim()
    except (OSError, TakenError) as error:
        boards.close()
        where = f"port {given.port} cannot be opened: " if isinstance(error, OSError) else ""
        sys.stderr.write(f"lowbeam-agent: {where}{error}\n")
        sys.exit(1)
    for lost in boards.lost:
        log.warning("%s: it is left out; see dmesg, and restart the agent when the board is back", lost)
    limits, uuids = NvmlLimits(), [device.uuid for device in boards.read().devices]
    numbers = {uuid: limits.device_number(uuid) for uuid in uuids}
    holders = Holders(Kubelet(given.kubelet_socket), numbers, limits.parent)
    leases = Leases(limits, uuids, record) if given.limit_token_file else None
    sampler = Sampler(given.node, boards, limits, holders, leases)
    holders.start()
    sampler.start()
    log.info("lowbeam-agent reads %d boards of node %s", len(uuids), given.node)
    config = uvicorn.Config(
        agent_app(sampler, leases, given.limit_token_file),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    # uvicorn ends at the first signal, and then raises it again: that would end us with code 143.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        server.run(sockets=[listening])
    finally:
        sampler.stop()
        holders.stop()
        if leases is not None:
            leases.give_all_back()
        boards.close()
    sys.exit(0 if server.started else 1)


def agent_parser() -> argparse.ArgumentParser:
    """The flags of `lowbeam-agent`."""
    parser = argparse.ArgumentParser(prog="lowbeam-agent", description="Tell what the GPUs of this node draw.")
    parser.add_argument("--port", type=int, default=AGENT_PORT, help=f"default {AGENT_PORT}")
    parser.add_argument(
        "--node", default=os.environ.get("NODE_NAME") or socket.gethostname(), help="default: NODE_NAME"
    )
    parser.add_argument("--kubelet-socket", type=Path, default=KUBELET_SOCKET, help=f"default {KUBELET_SOCKET}")
    parser.add_argument(
        "--limit-token-file",
        type=Path,
        help="file with the bearer token of /limits; without it power limits are off (setting them needs root)",
    )
    parser.add_argument(
        "--state-folder", type=Path, default=STATE_FOLDER, help=f"where set limits are recorded; default {STATE_FOLDER}"
    )
    return parser


if __name__ == "__main__":
    main()
