"""`lowbeam explain iw/NAME`: why this model, why not the others; live, or offline with -f.

Live it reads what the operator reads, once, says what runs now as the status has it, and plans again with the same code
from what runs: what it prints under `chosen` is what the operator would decide now. Who may read the workload and not
the whole cluster is told what the operator wrote into its status.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lowbeam.cli.plan import (
    ADVICE_ONLY,
    Input,
    add_inputs,
    complain,
    print_data,
    read_input,
    snapshot_of,
    time_asked,
    with_board_limits,
)
from lowbeam.cli.prices import read_prices
from lowbeam.errors import BadInput, Impossible
from lowbeam.planning import Snapshot, explain_data, explain_lines, labelled, plan
from lowbeam.planning.plan import sizer_for
from lowbeam.runtime.world import Objects, Parser, World, build_world
from lowbeam.sizing import Option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which workload, and where from."""
    parser.add_argument("workload", help="iw/NAME or NAME")
    parser.add_argument("-n", "--namespace", help="its namespace; default: the context's, from files the only one")
    parser.add_argument("--kubeconfig", help="cluster to ask when no -f is given")
    parser.add_argument("--context", help="context of the kubeconfig (the current one)")
    add_inputs(parser)
    parser.add_argument("-o", "--output", choices=["text", "json", "yaml"], default="text", help="(text)")


def run(args: argparse.Namespace) -> int:
    """Print the explanation; 1 when nothing can run it, 2 when something in the files is wrong."""
    kind, _, name = args.workload.rpartition("/")
    if kind not in ("", "iw", "inferenceworkload", "inferenceworkloads"):
        raise BadInput(f'"{args.workload}" is no InferenceWorkload: use iw/NAME')
    if args.file:
        return _explain(args, name, given := read_input(args), given.world)
    from lowbeam.kube import Forbidden  # needs the Kubernetes client, which planning offline does not

    try:
        world = asyncio.run(_live_world(args.kubeconfig, args.context, time_asked(args)))
        world = with_board_limits(world) if args.board_limits else world
    except Forbidden as error:
        return _explain_status(args, name, error.detail)
    return _explain(args, name, None, world)


def _explain(args: argparse.Namespace, name: str, given: Input | None, world: World) -> int:
    key = _find(world, args.namespace or (None if given is not None else _usual_namespace(args)), name)
    if (refusal := world.refusals.get(key)) is not None:
        raise (Impossible if given is None else BadInput)(f"{'/'.join(key)}: {refusal.message}")
    acted_on = key in world.enforced()
    everybody = snapshot_of if given is not None else _running
    choice = plan(everybody(world) if acted_on else world.alone(key)).choice(*key)
    if choice is None:
        raise Impossible(f"{'/'.join(key)}: not planned")
    prices = read_prices(args)
    needs, status = world.requirements[key], {} if given is not None else world.raw_workloads[key].get("status", {})
    if args.output == "text":
        advice = () if acted_on else ("", *labelled("note", ADVICE_ONLY))
        print("\n".join((*explain_lines(needs, choice, prices), *advice, *_now(status, choice.option))))
    else:
        data = explain_data(needs, choice, prices)
        data["notes"] += [] if acted_on else [ADVICE_ONLY]
        print_data({**data, **({"status": status} if given is None else {})}, args.output)
    if given is not None:
        complain(given)
    return 2 if given is not None and given.troubles else 0 if choice.option else 1


def _explain_status(args: argparse.Namespace, name: str, missing: str) -> int:
    """What the operator decided last, for who may not read what a plan needs. Raises Impossible where none of it is."""
    from lowbeam.kube import INFERENCE_WORKLOADS, Forbidden, NotFound, connect

    needed = f"a plan reads the whole cluster, and {missing}"
    if args.output != "text":
        raise Impossible(f"{needed}; without -o it says what the status tells")
    key = (args.namespace or _usual_namespace(args), name)

    async def read() -> Mapping[str, Any]:
        async with await connect(args.kubeconfig, context=args.context) as transport:
            return await transport.get(INFERENCE_WORKLOADS, name, key[0])

    try:
        raw = asyncio.run(read())
    except NotFound as error:
        raise BadInput(f"no InferenceWorkload {'/'.join(key)} (choose with -n NAMESPACE)") from error
    except Forbidden as error:
        wish = 'ask for a role with the verb "get" on "inferenceworkloads.lowbeam.dev"'
        raise Impossible(f"{error.detail}; {wish}") from error
    status = raw.get("status", {})
    print("\n".join((*_status_lines(key, raw["spec"], status), *_now(status, None), "", *labelled("note", needed))))
    return 0 if "selected" in status else 1


def _status_lines(key: tuple[str, str], spec: Mapping[str, Any], status: Mapping[str, Any]) -> list[str]:
    """As `explain_lines`, as far as the status has it."""
    lines = [f"{'/'.join(key)}   {spec['task']}, as its status says", ""]
    selected, energy = status.get("selected"), status.get("energy", {})
    if selected is None:
        why = next((row for row in status.get("conditions", ()) if row["type"] == "ModelSelected"), None)
        said = "the operator has not looked at it yet" if why is None else f"{why['reason']}: {why['message']}"
        lines += labelled("nothing", said)
    else:
        lines += labelled("chosen", _runs(selected))
        figures = [f"{energy['joulesPerRequest']} J/req"] if "joulesPerRequest" in energy else []
        figures += [energy["stars"]] if energy.get("stars", "").startswith("*") else []
        lines += labelled("", "  ".join(figures)) if figures else []
    for index, rival in enumerate(status.get("alternatives", ())):
        lines += [""] if index == 0 else []
        lines += labelled(("would" if selected is None else "lost") if index == 0 else "", _runs(rival))
        figures = [f"{rival[name]} {unit}" for name, unit in _FIGURES if name in rival]
        lines += labelled("", "  ".join(figures)) if figures else []
        lines += labelled("", rival["message"])
    for index, advice in enumerate(status.get("recommendations", ())):
        lines += [*([""] if index == 0 else []), *labelled("saves" if index == 0 else "", advice)]
    return lines


def _usual_namespace(args: argparse.Namespace) -> str:
    from lowbeam.kube import namespace_of

    return namespace_of(args.kubeconfig, context=args.context)


def _find(world: World, namespace: str | None, name: str) -> tuple[str, str]:
    """The workload's key; without a namespace that of `default`, or the only one with the name."""
    known = sorted({*world.requirements, *world.refusals})
    key = (namespace or "default", name)
    if key in known:
        return key
    elsewhere = [it for it in known if it[1] == name]
    if namespace is None and len(elsewhere) == 1:
        return elsewhere[0]
    if elsewhere:
        found = ", ".join(it[0] for it in elsewhere)
        choice = "-n NAMESPACE" if len(elsewhere) > 1 else f"-n {found}"
        missing = "" if namespace is None else f"no InferenceWorkload {namespace}/{name}; "
        raise BadInput(f"{missing}{name} is in {found}: choose {choice}")
    here = ", ".join("/".join(it) for it in known[:8]) or "none"
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    raise BadInput(f"no InferenceWorkload {'/'.join(key)}; there are: {here}{more} (choose with -n NAMESPACE)")


def _running(world: World) -> Snapshot:
    """What the operator would plan from: every workload with the option that runs, as status and Deployments say."""
    from lowbeam.runtime.recovery import recover_fleet  # needs the Kubernetes client, which planning offline does not

    snapshot = snapshot_of(world)
    running = recover_fleet(world, sizer_for(snapshot), datetime.now(UTC)).options()
    states = [replace(state, running=running.get(state.requirements.key)) for state in snapshot.workloads]
    return replace(snapshot, workloads=tuple(states), reserved_accelerators=world.held_unplanned())


def _now(status: Mapping[str, Any], option: Option | None) -> tuple[str, ...]:
    """What the status says, and whether the operator is about to change it; nothing offline."""
    if not status:
        return ()
    conditions = {row["type"]: row for row in status.get("conditions", ())}
    energy, selected = status.get("energy", {}), status.get("selected")
    lines = [""]
    ready = conditions.get("Ready")
    if ready is not None:
        lines += labelled("now", f"Ready {ready['status']}: {ready.get('message') or ready['reason']}")
    watts = [f"{energy[name]} W {said}" for name, said in _WATTS if name in energy]
    if watts:
        lines += labelled("", ", ".join(watts))
    for row in (conditions.get("Dimmed"), conditions.get("Stalled")):
        if row is not None and row["status"] == "True":
            lines += labelled("", f"{row['type']}: {row.get('message') or row['reason']}")
    if option is not None and selected is not None and not _is(selected, option):
        lines += labelled("", f"runs {_runs(selected)}; the next plan changes that to what is chosen above")
    return tuple(lines)


def _runs(chosen: Mapping[str, Any]) -> str:
    """A way to run, as the status has it, in the words of a plan."""
    runs = {"reasoning": "Off", "acceleratorsPerReplica": 1, **chosen}
    mode = "" if runs["reasoning"] == "Off" else f" ({runs['reasoning']})"
    boards = f" x{runs['acceleratorsPerReplica']}" if runs["acceleratorsPerReplica"] > 1 else ""
    boards += f" at {runs['boardLimitWatts']} W" if "boardLimitWatts" in runs else ""
    parts = [f"{runs['model']} {runs['precision']}{mode}", f"{runs['acceleratorClass']}{boards}"]
    if "batchLimit" in runs and "replicas" in runs:  # an alternative that nothing could run has none
        pods = "1 replica" if runs["replicas"] == 1 else f"{runs['replicas']} replicas"
        parts += [f"batch <= {runs['batchLimit']}", pods]
    return ", ".join(it for it in parts if it)


_FIGURES = (("joulesPerRequest", "J/req"), ("watts", "W"))
_WATTS = (("measuredWatts", "measured"), ("committedWatts", "committed"))


def _is(selected: Mapping[str, Any], option: Option) -> bool:
    runs = {"reasoning": "Off", "acceleratorsPerReplica": 1, "boardLimitWatts": 0, **selected}
    same = {
        "model": option.model,
        "precision": option.precision,
        "reasoning": option.reasoning.value,
        "acceleratorClass": option.accelerator_class,
        "acceleratorsPerReplica": option.accelerators_per_replica,
        "batchLimit": option.batch_limit,
        "boardLimitWatts": option.board_limit_watts,
        "replicas": option.replicas,
    }
    return all(runs[name] == value for name, value in same.items())


async def _live_world(kubeconfig: str | None, context: str | None, now: datetime) -> World:
    """What the operator reads, read once, with the caps of that time."""
    from lowbeam.kube import (
        ACCELERATOR_CLASSES,
        DEPLOYMENTS,
        ENERGY_PROFILES,
        INFERENCE_WORKLOADS,
        MODEL_CARDS,
        NAMESPACES,
        NODES,
        PODS,
        POWER_CAPS,
        Resource,
        connect,
    )
    from lowbeam.render import labels
    from lowbeam.runtime.board_limits import ALL_BOARDS, sets_limits
    from lowbeam.runtime.demand import written_observations
    from lowbeam.runtime.replicas import holds_accelerators

    async with await connect(kubeconfig, context=context) as transport:

        async def listed(
            resource: Resource, selector: str = "", wanted: Callable[[Mapping[str, Any]], bool] = lambda _: True
        ) -> tuple[dict[str, Any], ...]:
            pages = transport.list_pages(resource, label_selector=selector)
            return tuple([item async for page in pages for item in page.items if wanted(item)])

        objects = Objects(
            workloads=await listed(INFERENCE_WORKLOADS),
            power_caps=await listed(POWER_CAPS),
            model_cards=await listed(MODEL_CARDS),
            accelerator_classes=await listed(ACCELERATOR_CLASSES),
            energy_profiles=await listed(ENERGY_PROFILES),
            namespaces=await listed(NAMESPACES),
            nodes=await listed(NODES),
            deployments=await listed(DEPLOYMENTS, labels.WORKLOAD),
            pods=await listed(PODS, labels.WORKLOAD),
            other_pods=await listed(PODS, labels.OTHERS_SELECTOR, holds_accelerators),
        )
        agents = await listed(PODS, labels.AGENT_SELECTOR, sets_limits)
    limitable = {pod["spec"]["nodeName"]: ALL_BOARDS for pod in agents}
    return build_world(objects, now, Parser(), written_observations(objects.workloads), limitable)
