"""`lowbeam emulate`: play the workers and node agents of KWOK pods, for tests and demos. It reports no measurements."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from lowbeam.catalog import load_builtin
from lowbeam.cli.flags import port
from lowbeam.emulator import Emulator, FleetSettings, LoadTrace, Pace
from lowbeam.kube.aio_transport import connect
from lowbeam.runtime.clock import SystemClock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the emulator."""
    pace = Pace()
    parser.description = (
        "A test and demo part: answers telemetry and control requests on the addresses of worker pods and node agents "
        "that run on KWOK nodes, with watts computed from the catalogue's energy profiles. Its figures are marked as "
        "emulated."
    )
    parser.add_argument("--kubeconfig", help="path; default: the user's kubeconfig")
    parser.add_argument("--namespace", help="play the workers of this namespace only (default: of all)")
    parser.add_argument("--load-factor", type=_factor, default=1.0, help="times every workload's spec.load (default 1)")
    parser.add_argument(
        "--load-trace", type=Path, metavar="CSV", help="lines of seconds,factor: a second factor over time"
    )
    parser.add_argument("--start-seconds", type=_factor, default=pace.start_seconds, help="a worker loads so long")
    parser.add_argument(
        "--settle-seconds", type=_factor, default=pace.settle_seconds, help="a batch change takes so long"
    )
    parser.add_argument(
        "--agent-token-file",
        type=Path,
        metavar="FILE",
        help="token that the node agents' power limits ask for (default: they set none)",
    )
    parser.add_argument(
        "--admin-port", type=port, help="port on 127.0.0.1 for tests: replicas, load, faults (default: none)"
    )


def run(args: argparse.Namespace) -> int:
    """Play until SIGTERM or SIGINT."""
    settings = FleetSettings(
        load_factor=args.load_factor,
        trace=LoadTrace.read(args.load_trace) if args.load_trace else LoadTrace(),
        pace=Pace(args.start_seconds, args.settle_seconds),
    )
    asyncio.run(_play(args, settings))
    return 0


async def _play(args: argparse.Namespace, settings: FleetSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await connect(args.kubeconfig) as transport:
        emulator = Emulator(
            transport,
            load_builtin(),
            SystemClock(),
            settings,
            namespace=args.namespace,
            admin_port=args.admin_port,
            agent_token_file=args.agent_token_file,
        )
        await emulator.run(stop)


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f'"{text}" is not a number of at least 0')
    return value
