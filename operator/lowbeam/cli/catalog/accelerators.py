"""`lowbeam catalog accelerators`, and one class in full."""

from __future__ import annotations

import argparse

from lowbeam.catalog import Catalogue
from lowbeam.catalog.facts import AcceleratorClass
from lowbeam.cli.catalog.filters import like
from lowbeam.cli.catalog.wire import Json, accelerator_json
from lowbeam.cli.catalog.words import NONE, cited, table, unknown, wrapped


def data(catalogue: Catalogue, args: argparse.Namespace) -> list[Json]:
    """The classes that pass the filters."""
    return [accelerator_json(accelerator) for accelerator in _wanted(catalogue, args)]


def _wanted(catalogue: Catalogue, args: argparse.Namespace) -> list[AcceleratorClass]:
    classes = catalogue.accelerator_classes.values()
    precisions = sorted({precision for accelerator in classes for precision in accelerator.precisions})
    if args.precision is not None and args.precision.lower() not in precisions:
        raise unknown("--precision: ", args.precision, precisions)
    return [
        accelerator
        for accelerator in classes
        if like(accelerator.name, args.name)
        and (args.precision is None or args.precision.lower() in accelerator.precisions)
    ]


def text(catalogue: Catalogue, args: argparse.Namespace) -> str:
    """One line per class."""
    rows = [
        (
            accelerator.name,
            f"{accelerator.memory_mib / 1024:.1f}",
            f"{accelerator.idle_milliwatts / 1000:.0f}",
            f"{accelerator.max_milliwatts / 1000:.0f}",
            f"{accelerator.bandwidth_gb_s or NONE}",
            f"{accelerator.dense_tflops_bf16 or NONE}",
            _label(accelerator),
        )
        for accelerator in _wanted(catalogue, args)
    ]
    if not rows:
        return "no accelerator class matches"
    head = ("CLASS", "GIB", "IDLE W", "MAX W", "GB/S", "TFLOPS", "NODE LABEL")
    return f"{table(head, rows)}\n\nNODE LABEL: value of nvidia.com/gpu.product. TFLOPS: dense BF16."


def _label(accelerator: AcceleratorClass) -> str:
    if not accelerator.product_labels:
        return "(nodes labelled by hand)"
    more = len(accelerator.product_labels) - 1
    return accelerator.product_labels[0] + (f" (+{more})" if more else "")


def one(accelerator: AcceleratorClass) -> str:
    """Everything about a class."""
    lines = [accelerator.name]
    facts = accelerator_json(accelerator)
    for label, key in (
        ("node labels nvidia.com/gpu.product", "productLabels"),
        ("memory, MiB", "memoryMebibytes"),
        ("compute capability", "computeCapability"),
        ("precisions", "precisions"),
        ("watts idle with a model loaded", "idleWatts"),
        ("watts idle without", "bareIdleWatts"),
        ("lowest power limit, W", "minWatts"),
        ("highest power, W", "maxWatts"),
        ("memory bandwidth, GB/s", "memoryBandwidthGigabytesPerSecond"),
        ("dense BF16, TFLOP/s", "denseTeraflopsBf16"),
    ):
        value = facts[key]
        shown = ", ".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else value
        lines.append(wrapped(f"{label}: {NONE if shown in {None, ''} else shown}"))
    return "\n".join([*lines, wrapped(f"source: {cited(accelerator.source)}")])
