"""`lowbeam plan`: plan manifests without a cluster, with the same code as the operator."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import yaml

from lowbeam.api.v1alpha1.inferenceworkload import Engine
from lowbeam.catalog import largest_model
from lowbeam.cli import manifests
from lowbeam.cli.cuts import cut_lines, cuts_data
from lowbeam.cli.flags import moment
from lowbeam.cli.prices import add_arguments as add_price_arguments
from lowbeam.cli.prices import read_prices
from lowbeam.errors import BadInput
from lowbeam.planning import (
    Inventory,
    Plan,
    Snapshot,
    WorkloadState,
    cap_table,
    cost_table,
    doubt_lines,
    plan,
    plan_data,
    plan_table,
    trouble_lines,
)
from lowbeam.planning.plan import sizer_for
from lowbeam.planning.words import watts
from lowbeam.runtime.clock import timestamp
from lowbeam.runtime.world import World
from lowbeam.sizing import Option
from lowbeam.sizing.cost import Prices


@dataclass(frozen=True, slots=True)
class Input:
    """What was asked: the world of the files, what is wrong with them, and what is odd without being wrong."""

    world: World
    troubles: tuple[manifests.Trouble, ...]
    notes: tuple[str, ...]
    prices: Prices | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that `plan` and `explain` share, and the output form."""
    add_inputs(parser)
    parser.add_argument("-o", "--output", choices=["table", "json", "yaml"], default="table", help="(table)")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Where workloads, caps and nodes come from."""
    parser.add_argument("-f", "--file", action="append", default=[], metavar="FILE", help="manifest, folder or -")
    parser.add_argument("--inventory", metavar="CLASS=COUNT,...", help="accelerators, for example h100=16,l4=24")
    parser.add_argument("--nodes", metavar="FILE", help="nodes, as `kubectl get nodes -o json` prints them")
    parser.add_argument(
        "--board-limits", action="store_true", help="node agents may set power limits of all accelerators (no)"
    )
    parser.add_argument("--cap", metavar="WATTS", help="a cap over everything, for example 9kW")
    parser.add_argument(
        "--at",
        metavar="TIME",
        type=moment,
        help="what caps with a schedule or events allow at that time, for example 2026-12-01T18:00+01:00 (now)",
    )
    add_price_arguments(parser)


def read_input(args: argparse.Namespace) -> Input:
    """The world of the given files, nodes and cap. BadInput: wrong flags, or nothing that could be planned."""
    if not args.file:
        raise BadInput("nothing to plan: give manifests with -f FILE (or a folder, or - for standard input)")
    counts = manifests.parse_inventory(args.inventory or "")
    cap_watts = manifests.parse_watts(args.cap) if args.cap is not None else None
    prices = read_prices(args)
    read = manifests.read_files(args.file)
    if args.nodes:
        manifests.read_nodes(args.nodes, read)
    nodes = [*manifests.made_up_nodes(counts), *read.nodes]
    if not nodes and not counts:
        without = "no accelerators: give --inventory h100=16,l4=24 or --nodes nodes.json"
        raise BadInput("\n".join([*map(str, read.troubles), without]))
    extra = [] if cap_watts is None else [manifests.cluster_cap(cap_watts, read)]
    world, troubles = manifests.world_of(read, nodes, extra, time_asked(args))
    world = with_board_limits(world) if args.board_limits else world
    wrong = [
        *manifests.unknown_classes("--inventory", counts, world.catalogue),
        *manifests.unknown_classes("--price", prices.accelerator_hour if prices else (), world.catalogue),
    ]
    if wrong:
        raise BadInput("\n".join([*map(str, troubles), *wrong]))
    if not world.requirements and (troubles or not world.raw_workloads):
        what = [str(it) for it in troubles] or [f"no InferenceWorkload in {', '.join(args.file)}"]
        raise BadInput("\n".join([*what, f"{_problems(troubles)}nothing planned"]))
    notes = (*manifests.nodes_without_class(nodes, world), *_empty_pools(world), *_of_workloads(world))
    return Input(world, troubles, notes, prices)


def with_board_limits(world: World) -> World:
    """The same nodes, with agents on all of them that set power limits."""

    def limited(rows: Iterable[Inventory]) -> tuple[Inventory, ...]:
        return tuple(replace(row, board_limits=True) for row in rows)

    requirements = {
        key: needs if needs.reachable is None else replace(needs, reachable=limited(needs.reachable))
        for key, needs in world.requirements.items()
    }
    return replace(world, inventory=limited(world.inventory), requirements=requirements)


def time_asked(args: argparse.Namespace) -> datetime:
    """What `--at` says, else now."""
    at: datetime | None = args.at
    return at or datetime.now(UTC)


def snapshot_of(world: World) -> Snapshot:
    """What Lowbeam would act on, as if nothing ran yet."""
    states = tuple(WorkloadState(world.requirements[key]) for key in world.enforced())
    return Snapshot(world.catalogue, world.caps, world.inventory, states)


def plan_with_advice(world: World, snapshot: Snapshot) -> Plan:
    """The plan of what is acted on, and beside it a choice for each workload that only wants advice."""
    answer = plan(snapshot)
    advised = (plan(world.alone(key)).choices[0] for key in world.advised())
    return replace(answer, choices=tuple(sorted((*answer.choices, *advised), key=lambda choice: choice.key)))


def run(args: argparse.Namespace) -> int:
    """Print the plan. 2: something in the input is wrong; 1: something cannot run or a cap cannot be kept."""
    given = read_input(args)
    snapshot = snapshot_of(given.world)
    answer = plan_with_advice(given.world, snapshot)
    if args.output == "table":
        print("\n".join(_page(given, snapshot, answer)))
    else:
        print_data(
            {
                **plan_data(answer, given.world.requirements, given.world.caps, given.prices),
                **_rest(given, snapshot, answer),
            },
            args.output,
        )
    for note in given.notes:
        print(note, file=sys.stderr)
    complain(given)
    if given.troubles:
        return 2
    nothing = any(choice.option is None for choice in answer.choices)
    return 1 if nothing or answer.unsatisfiable_caps else 0


def print_data(data: dict[str, Any], output: str) -> None:
    """As JSON or YAML, keys in the order of docs/reference/json.md."""
    text = orjson.dumps(data, option=orjson.OPT_INDENT_2).decode()
    print(text if output == "json" else yaml.safe_dump(orjson.loads(text), sort_keys=False).rstrip())


def complain(given: Input) -> None:
    """What is wrong, on standard error: the plan itself stays clean for a pipe."""
    for trouble in given.troubles:
        print(trouble, file=sys.stderr)
    if given.troubles:
        print(f"{_problems(given.troubles)}the rest was planned", file=sys.stderr)


def _problems(troubles: Sequence[manifests.Trouble]) -> str:
    return "" if not troubles else f"{len(troubles)} problem{'s' if len(troubles) > 1 else ''}, "


def _page(given: Input, snapshot: Snapshot, answer: Plan) -> list[str]:
    asked = given.world.requirements
    lines = [*plan_table(answer, asked), ""]
    if sentences := trouble_lines(answer):
        lines += [*sentences, ""]
    if snapshot.caps.caps:
        lines += [*cap_table(answer, snapshot.caps), *cut_lines(given.world), ""]
    if given.prices is not None:
        lines += [*cost_table(answer, asked, given.prices), ""]
    if doubts := doubt_lines(answer):
        lines += [*doubts, ""]
    drawn = _chosen_milliwatts(given.world, answer)
    if not drawn:
        return [*lines, "nothing runs"]
    largest, unplaced = _yardstick(given.world, snapshot, answer)
    note = f" ({unplaced} would not even fit)" if unplaced else ""
    lines.append(f"the largest model for each task would draw {watts(largest)}{note}")
    lines.append(f"this plan draws {watts(drawn)}")
    return lines


def _rest(given: Input, snapshot: Snapshot, answer: Plan) -> dict[str, Any]:
    largest, unplaced = _yardstick(given.world, snapshot, answer)
    return {
        "expectedMilliwatts": _chosen_milliwatts(given.world, answer),
        "largestModels": {"expectedMilliwatts": largest, "unplaced": unplaced},
        "at": timestamp(given.world.outlook.at),
        "schedules": cuts_data(given.world),
        "notes": list(given.notes),
        "problems": [
            {"file": it.file, "object": it.object, "field": it.field, "message": it.message} for it in given.troubles
        ],
    }


def _chosen(world: World, answer: Plan) -> dict[tuple[str, str], Option]:
    """What runs: advice is not carried out."""
    acted_on = set(world.enforced())
    return {it.key: it.option for it in answer.choices if it.option is not None and it.key in acted_on}


def _chosen_milliwatts(world: World, answer: Plan) -> int:
    return sum(option.expected_milliwatts for option in _chosen(world, answer).values())


def _yardstick(world: World, snapshot: Snapshot, answer: Plan) -> tuple[int, int]:
    """What the largest model of each task would draw for what runs, and how many of those would not fit."""
    found = largest_milliwatts(world, snapshot, _chosen(world, answer).keys())
    known = [milliwatts for milliwatts in found.values() if milliwatts is not None]
    return sum(known), len(found) - len(known)


def largest_milliwatts(
    world: World, snapshot: Snapshot, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], int | None]:
    """Expected milliwatts of each workload with the largest model of its task that has a profile on its classes.

    Sized on its own, with latency as asked for and as many accelerators as there are; None: does not fit.
    """
    sizer, found = sizer_for(snapshot), dict[tuple[str, str], int | None]()
    for key in sorted(keys):
        needs = world.requirements[key]
        classes = needs.accelerator_classes or tuple(row.accelerator_class for row in world.inventory)
        model = largest_model(world.catalogue, needs.task, needs.reasoning, classes)
        anything = replace(needs, floor_centi=0, target_centi=0, model_names=(), max_replicas=1000)
        anything = replace(anything, engine=Engine.NATIVE, own_engine=True)
        option = None if model is None else sizer.cheapest(replace(anything, pinned_model=model.name))
        found[key] = None if option is None else option.expected_milliwatts
    return found


ADVICE_ONLY = "spec.mode is Advise: planned as if it were alone and without caps; nothing of it runs"


def _of_workloads(world: World) -> tuple[str, ...]:
    """What a spec asks for and does not get for reasons of its own."""
    notes = {key: world.requirements[key].notes for key in sorted(world.requirements)}
    for key in world.advised():
        notes[key] = (*notes[key], ADVICE_ONLY)
    return tuple(f"{'/'.join(key)}: {note}" for key, all_of_it in notes.items() for note in all_of_it)


def _empty_pools(world: World) -> tuple[str, ...]:
    """Caps over a pool that none of the nodes is in: they limit nothing here."""
    pools = set(world.node_pools.values())
    return tuple(
        f'PowerCap "{cap.name}" limits nothing here: no node carries {_labels(world.pool_selectors[cap.pool])}; '
        "give --nodes with nodes that do"
        for cap in world.caps.caps
        if cap.pool is not None and cap.pool in world.pool_selectors and cap.pool not in pools
    )


def _labels(selector: Any) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
