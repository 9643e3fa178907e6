"""`lowbeam plan`: plan manifests without a cluster, with the same code as the operator."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import yaml

from lowbeam.catalog import largest_model
from lowbeam.cli.manifests import cluster_cap, parse_inventory, parse_watts, read_files, read_nodes, world_of
from lowbeam.errors import BadInput
from lowbeam.planning import Plan, Snapshot, WorkloadState, cap_table, plan, plan_data, plan_table
from lowbeam.planning.words import watts
from lowbeam.power.caps import CapTree
from lowbeam.runtime.world import World
from lowbeam.sizing import Requirements


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that `plan` and `explain` share, and the output form."""
    add_inputs(parser)
    parser.add_argument("-o", "--output", choices=["table", "json", "yaml"], default="table")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Where workloads, caps and nodes come from."""
    parser.add_argument("-f", "--file", action="append", default=[], metavar="FILE", help="manifest, folder or -")
    parser.add_argument("--inventory", metavar="CLASS=COUNT,...", help="accelerators, for example h100=16,l4=24")
    parser.add_argument("--nodes", metavar="FILE", help="nodes, as `kubectl get nodes -o json` prints them")
    parser.add_argument("--cap", metavar="WATTS", help="a cap over everything, for example 9kW")


def read_world(args: argparse.Namespace) -> World:
    """The World of the given files, nodes and cap; raises BadInput with what is missing."""
    if not args.file:
        raise BadInput("nothing to plan: give manifests with -f FILE")
    if not args.inventory and not args.nodes:
        raise BadInput("no accelerators: give --inventory h100=16,l4=24 or --nodes nodes.json")
    nodes = [*parse_inventory(args.inventory or ""), *(read_nodes(args.nodes) if args.nodes else [])]
    extra = [cluster_cap(parse_watts(args.cap))] if args.cap else []
    return world_of(read_files(args.file), nodes, extra, datetime.now(UTC).date())


def plan_world(world: World) -> Plan:
    """The plan of everything that could be understood."""
    states = tuple(WorkloadState(needs) for _, needs in sorted(world.requirements.items()))
    return plan(Snapshot(world.catalogue, world.caps, world.inventory, states))


def run(args: argparse.Namespace) -> int:
    """Print the plan; 1 when something cannot run or a cap cannot be kept."""
    world = read_world(args)
    answer = plan_world(world)
    refused = {"/".join(key): refusal.message for key, refusal in world.refusals.items()}
    if args.output == "table":
        print("\n".join(plan_table(answer)))
        if world.caps.caps:
            print()
            print("\n".join(cap_table(answer, world.caps)))
        print()
        print(comparison(world, answer))
    else:
        data: dict[str, Any] = {**plan_data(answer), "refused": refused}
        text = orjson.dumps(data, option=orjson.OPT_INDENT_2).decode()
        print(text if args.output == "json" else yaml.safe_dump(orjson.loads(text), sort_keys=False))
    for name, message in refused.items():
        print(f"{name}: {message}", file=sys.stderr)
    for problem in world.caps.problems:
        print(problem.message, file=sys.stderr)
    nothing = any(choice.option is None for choice in answer.choices)
    return 1 if refused or nothing or answer.unsatisfiable_caps or world.caps.problems else 0


def comparison(world: World, answer: Plan) -> str:
    """What the largest model of each task would draw for the same work, where it can be placed."""
    chosen = sum(c.option.expected_milliwatts for c in answer.choices if c.option)
    largest = largest_milliwatts(world, {c.key for c in answer.choices if c.option})
    known = [milliwatts for milliwatts in largest.values() if milliwatts is not None]
    unplaced = len(largest) - len(known)
    note = f" ({unplaced} would not even fit)" if unplaced else ""
    return f"the largest model for each task would draw {watts(sum(known))}{note}\nthis plan draws {watts(chosen)}"


def largest_milliwatts(world: World, keys: set[tuple[str, str]]) -> dict[tuple[str, str], int | None]:
    """Expected milliwatts of each workload with the largest model of its task that has a profile on its classes.

    Sized on its own, with latency and floor as asked for, and as many accelerators as there are; None: does not fit.
    """
    return {key: _largest(world, world.requirements[key]) for key in sorted(keys)}


def _largest(world: World, needs: Requirements) -> int | None:
    classes = needs.accelerator_classes or tuple(row.accelerator_class for row in world.inventory)
    model = largest_model(world.catalogue, needs.task, needs.reasoning, classes)
    if model is None:
        return None
    anything = replace(needs, own_engine=True, floor_centi=0, target_centi=0, model_names=(), max_replicas=1000)
    forced = replace(anything, pinned_model=model.name)
    answer = plan(Snapshot(world.catalogue, CapTree(), world.inventory, (WorkloadState(forced),)))
    option = answer.choices[0].option
    return None if option is None else option.expected_milliwatts
