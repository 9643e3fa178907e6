"""`lowbeam top`: caps as bars and workloads by watts, live; or once, as text or JSON.

Decides which of the three is wanted. It needs the right to list and watch InferenceWorkloads; PowerCaps and the
operator's Lease are shown where they may be read.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
from datetime import datetime
from typing import Any

import orjson
import structlog
from rich.console import Console

from lowbeam.cli.top.reading import Live, Question, read_once
from lowbeam.cli.top.rows import SORTS, cap_data, workload_data
from lowbeam.cli.top.screen import Screen, rendered
from lowbeam.cli.top.view import Frame, Picture, lines
from lowbeam.kube import KubeTransport, connect, namespace_of
from lowbeam.runtime.clock import Clock, SystemClock, timestamp
from lowbeam.runtime.settings import LEASE_NAMESPACE

REFRESH_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is shown, where from, and in which form."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-n", "--namespace", help="workloads of this namespace (the context's)")
    where.add_argument("-A", "--all-namespaces", action="store_true", help="workloads of all namespaces")
    parser.add_argument("--sort", choices=SORTS, default="watts", help="most watts or joules per request first (watts)")
    parser.add_argument("--limit", type=_count, metavar="N", help="at most so many workloads (what fits, or all)")
    parser.add_argument("--once", action="store_true", help="print it once; so it is without a terminal, too")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="json: once (text)")
    parser.add_argument("--kubeconfig", help="path; default: service account in a pod, else the user's kubeconfig")
    parser.add_argument("--context", help="context of the kubeconfig (the current one)")
    parser.add_argument(
        "--operator-namespace", default=LEASE_NAMESPACE, help=f"where the operator runs ({LEASE_NAMESPACE})"
    )


def run(args: argparse.Namespace) -> int:
    """0; 1 where a right is missing; 3 where the cluster cannot be reached; 128 and the number of a signal."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # the picture says it
    named = args.namespace or namespace_of(args.kubeconfig, context=args.context)
    question = Question(None if args.all_namespaces else named, args.operator_namespace, args.sort)
    console = Console(highlight=False)
    # Not console.is_terminal: FORCE_COLOR makes that true for a pipe.
    live = args.output == "text" and not args.once and sys.stdout.isatty() and not console.is_dumb_terminal
    return asyncio.run(_show(args, question, console, live=live))


async def _show(args: argparse.Namespace, question: Question, console: Console, *, live: bool) -> int:
    clock = SystemClock()
    async with await connect(args.kubeconfig, context=args.context) as transport:
        if live:
            return await _live(transport, question, clock, console, args.limit)
        picture = await read_once(transport, question, clock)
    if args.output == "json":
        print(orjson.dumps(top_data(picture, clock.now(), args.limit), option=orjson.OPT_INDENT_2).decode())
        return 0
    width = shutil.get_terminal_size((80, 24)).columns
    frame = Frame(clock.now(), width, limit=args.limit, unicode=_unicode(console))
    print("\n".join(rendered(console, line) for line in lines(picture, frame)))
    return 0


async def _live(transport: KubeTransport, question: Question, clock: Clock, console: Console, limit: int | None) -> int:
    async with Live(transport, question, clock) as seen:
        with Screen(console) as screen:
            while screen.exit_code is None:
                screen.wake.clear()
                width, height = screen.size
                frame = Frame(clock.now(), width, height, limit, _unicode(console), screen.hint)
                screen.draw(lines(seen.picture(), frame))
                try:
                    async with asyncio.timeout(REFRESH_SECONDS):
                        await screen.wake.wait()
                except TimeoutError:
                    continue
            return screen.exit_code


def top_data(picture: Picture, now: datetime, limit: int | None = None) -> dict[str, Any]:
    """As docs/reference/json.md has it."""
    shown = picture.workloads[:limit]
    return {
        "time": timestamp(now),
        "namespace": picture.namespace,
        "warning": picture.warning,
        "capsProblem": picture.caps_problem,
        "caps": [cap_data(row) for row in picture.caps],
        "workloads": [workload_data(row) for row in shown],
        "notShown": len(picture.workloads) - len(shown),
    }


def _unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number of workloads (0 or more)')
    return int(text)
