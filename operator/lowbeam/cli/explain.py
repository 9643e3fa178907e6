"""`lowbeam explain iw/NAME`: why this model, why not the others; live, or offline with -f."""

from __future__ import annotations

import argparse
import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson

from lowbeam.cli.plan import add_inputs, plan_world, read_world
from lowbeam.errors import BadInput, Impossible
from lowbeam.planning import explain_lines, plan_data
from lowbeam.runtime.world import Objects, Parser, World, build_world


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which workload, and where from."""
    parser.add_argument("workload", help="iw/NAME or NAME")
    parser.add_argument("-n", "--namespace", default="default")
    parser.add_argument("--kubeconfig", help="cluster to ask when no -f is given")
    add_inputs(parser)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")


def run(args: argparse.Namespace) -> int:
    """Print the explanation; 1 when nothing can run it."""
    kind, _, name = args.workload.rpartition("/")
    if kind not in ("", "iw", "inferenceworkload", "inferenceworkloads"):
        raise BadInput(f'"{args.workload}" is no InferenceWorkload: use iw/NAME')
    world = read_world(args) if args.file else asyncio.run(_live_world(args.kubeconfig))
    key = _find(world, args.namespace, name, exact=not args.file)
    if (refusal := world.refusals.get(key)) is not None:
        raise Impossible(f"{'/'.join(key)}: {refusal.message}")
    choice = plan_world(world).choice(*key)
    if choice is None:
        raise Impossible(f"{'/'.join(key)}: not planned")
    if args.output == "json":
        data = next(w for w in plan_data(plan_world(world))["workloads"] if (w["namespace"], w["name"]) == key)
        print(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
    else:
        print("\n".join(explain_lines(world.requirements[key], choice)))
    return 0 if choice.option else 1


def _find(world: World, namespace: str, name: str, *, exact: bool) -> tuple[str, str]:
    """The workload's key; from files the name alone is enough when it is unique."""
    known = sorted({*world.requirements, *world.refusals})
    matches = [key for key in known if key[1] == name and (key[0] == namespace or not exact)]
    if (namespace, name) in matches:
        return (namespace, name)
    if len(matches) == 1:
        return matches[0]
    here = ", ".join("/".join(key) for key in known[:8]) or "none"
    raise BadInput(f"no InferenceWorkload {namespace}/{name}; there are: {here} (choose with -n NAMESPACE)")


async def _live_world(kubeconfig: str | None) -> World:
    """Workloads, caps, catalogue objects and nodes of the cluster, read once."""
    from lowbeam.kube import (
        ACCELERATOR_CLASSES,
        ENERGY_PROFILES,
        INFERENCE_WORKLOADS,
        MODEL_CARDS,
        NAMESPACES,
        NODES,
        POWER_CAPS,
        Resource,
        connect,
    )

    async with await connect(kubeconfig) as transport:

        async def listed(resource: Resource) -> tuple[dict[str, Any], ...]:
            return tuple([item async for page in transport.list_pages(resource) for item in page.items])

        objects = Objects(
            workloads=await listed(INFERENCE_WORKLOADS),
            power_caps=await listed(POWER_CAPS),
            model_cards=await listed(MODEL_CARDS),
            accelerator_classes=await listed(ACCELERATOR_CLASSES),
            energy_profiles=await listed(ENERGY_PROFILES),
            namespaces=await listed(NAMESPACES),
            nodes=await listed(NODES),
        )
    return build_world(objects, datetime.now(UTC).date(), Parser())
