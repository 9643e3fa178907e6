"""The command line: `python -m tools.localcluster up|down|status|kubeconfig|logs|build|run`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from . import build, parts
from .cluster import SAMPLE_KWOK_NODES, Cluster, take_down
from .errors import LocalClusterError
from .state import ClusterSpec, State, names

_DEFAULT_NAME = "lowbeam"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments) or 0)
    except LocalClusterError as error:
        print(f"localcluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.localcluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=globals()[f"_{name}"])
        return sub

    def named(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("--name", default=_DEFAULT_NAME, help=f"name of the cluster (default: {_DEFAULT_NAME})")
        return sub

    up = named(command("up", "start a cluster and wait until it is ready"))
    up.add_argument("--nodes", type=int, default=0, help="real nodes (need root on Linux)")
    up.add_argument("--fake-gpus", type=int, default=0, metavar="N", help="nvidia.com/gpu on each real node")
    up.add_argument(
        "--kwok",
        type=Path,
        nargs="?",
        const=SAMPLE_KWOK_NODES,
        metavar="NODES.yaml",
        help=f"Nodes that KWOK plays (without a file: {SAMPLE_KWOK_NODES.name}, 12 GPU nodes of 3 classes)",
    )
    up.add_argument("--prometheus", action="store_true", help="also run Prometheus")
    down = named(command("down", "end every process of a cluster and undo what it took from the machine"))
    down.add_argument("--all", action="store_true", help="every cluster of this cache")
    command("status", "list clusters and their parts")
    named(command("kubeconfig", "print the path of the administrator's kubeconfig"))
    logs = named(command("logs", "print the log of a part"))
    logs.add_argument("part")
    make = command("build", "build parts into the cache")
    make.add_argument("parts", nargs="*", metavar="PART", help=f"default: {', '.join(parts.USUAL)}")
    run = named(command("run", "run a command with KUBECONFIG and PATH set"))
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")
    return parser


def _up(arguments: argparse.Namespace) -> None:
    spec = ClusterSpec(
        name=arguments.name,
        nodes=arguments.nodes,
        kwok_nodes=arguments.kwok,
        fake_gpus=arguments.fake_gpus,
        prometheus=arguments.prometheus,
    )
    cluster = Cluster.up(spec, keep=True)
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def _down(arguments: argparse.Namespace) -> int:
    if arguments.all:
        for name in names():
            take_down(name)
        return 0
    if take_down(arguments.name):
        return 0
    print(f"localcluster: no cluster {arguments.name!r}", file=sys.stderr)
    return 0


def _status(_: argparse.Namespace) -> None:
    for name in names():
        state = State.load(name)
        if state is None:
            continue
        dead = [part for part, running in state.processes.items() if not running.alive()]
        health = "up" if state.ready and not dead else "broken"
        print(f"{name}: {health}, KWOK pod range {state.network.kwok_cidr}, {state.home / 'kubeconfig'}")
        for part, running in state.processes.items():
            print(f"  {part:<20} {'dead' if part in dead else 'pid ' + str(running.pid)}")


def _kubeconfig(arguments: argparse.Namespace) -> None:
    print(Cluster.attach(arguments.name).kubeconfig)


def _logs(arguments: argparse.Namespace) -> None:
    with Cluster.attach(arguments.name).log(arguments.part).open() as log:
        shutil.copyfileobj(log, sys.stdout)


def _build(arguments: argparse.Namespace) -> None:
    build.ensure_all(arguments.parts or parts.USUAL)


def _run(arguments: argparse.Namespace) -> int:
    command = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not command:
        raise LocalClusterError("run: give a command after `--`")
    environment = Cluster.attach(arguments.name).environment()
    program = shutil.which(command[0], path=environment["PATH"])
    if program is None:
        raise LocalClusterError(f"run: no program {command[0]!r}")
    os.execve(program, command, environment)  # noqa: S606 - the user's own command
