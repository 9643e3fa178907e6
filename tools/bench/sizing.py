"""CPU time of sizing alone, against the plain reference that it must equal.

A *way* is one (profile, batch limit, replicas) with all its figures: watts, joules, capacity, p95. An *option* is a way
in a pool that was worth offering, as an object. The step from requirements to options is measured as a whole: filters,
ways, pruning, objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lowbeam.planning import Inventory
from lowbeam.sizing import Requirements, Sizer
from lowbeam.sizing.ways import Ways

from . import instances
from .figures import Section, Table, number
from .reference import cpu_seconds, kernel_cpu_seconds
from .sizing_reference import WayFigures, reference_ways

WORKLOADS = 10_000
_ONE_IN = 5
"""Of the workloads, where each has its own shape and nothing is shared."""
_COMPARED = 60
_ROUNDS = 3
_POOLS = ("pool-a", "pool-b")
_BOARDS = 4000
_COLUMNS = ("profile", "batch", "replicas", "expected", "worst", "capacity", "unserved", "millijoules", "latency")

_HEADER = ("workloads", "ways", "options", "ways: us/way", "whole step: us/way", "whole step: us/option", "kernels")


class DifferenceError(Exception):
    """The vectorised step and the reference disagree."""


def measure(say: Callable[[str], None]) -> Section:
    """CPU per way and per option, and the reference beside it."""
    kernel = kernel_cpu_seconds()
    declared = instances.requirements(WORKLOADS)
    rows = []
    for name, needs in (
        ("4 shapes (declared loads)", declared),
        ("each its own lengths and burstiness", _observed(declared[::_ONE_IN])),
    ):
        for engine, own in (("native worker", False), ("any engine", True)):
            say(f"{name}, {engine}: {len(needs)} workloads")
            asked = [replace(it, own_engine=own) for it in needs]
            rows.append(_row(f"{len(needs)}, {name}; {engine}", asked, kernel))
    say(f"reference: {_COMPARED} workloads")
    plain = [replace(it, own_engine=True) for it in _observed(declared)[:: WORKLOADS // _COMPARED]]
    seconds, ways = _compare(plain)
    rows.append(
        ["plain Python, one way after the other", str(ways), "-", number(seconds / ways * 1e6, 1), "-", "-", "-"]
    )
    return Section(
        title="Sizing",
        about=(
            f"Workloads over 4 tasks with the built-in catalogue, {len(_POOLS)} pools with every accelerator class. A "
            "way is one (profile, batch limit, replicas) with watts, joules, capacity and p95; an option is a way in a "
            "pool that was worth offering, as an object. *Ways* is the filters and all figures of all ways; *whole "
            f"step* adds pruning and objects. Figures are the least of {_ROUNDS} rounds, each with nothing remembered. "
            f"One kernel (`tools/bench/reference.py`) took {kernel * 1000:.0f} ms of CPU in this run."
        ),
        tables=[
            Table(_HEADER, rows),
        ],
        remarks=[f"{ways} ways of {_COMPARED} workloads equal those of the plain reference, value for value"],
    )


def _row(name: str, needs: Sequence[Requirements], kernel: float) -> list[str]:
    ways_s, ways = min(cpu_seconds(lambda: _count_ways(_sizer(), needs)) for _ in range(_ROUNDS))
    whole_s, options = min(cpu_seconds(lambda: _count_options(_sizer(), needs)) for _ in range(_ROUNDS))
    return [
        name,
        str(ways),
        str(options),
        number(ways_s / ways * 1e6, 2),
        number(whole_s / ways * 1e6, 2),
        number(whole_s / options * 1e6, 2),
        number(whole_s / kernel, 0),
    ]


def _sizer() -> Sizer:
    catalogue = instances.fresh_catalogue()
    shelves = [Inventory(pool, name, _BOARDS, 8) for pool in _POOLS for name in catalogue.accelerator_classes]
    return Sizer(catalogue, shelves)


def _count_ways(sizer: Sizer, needs: Sequence[Requirements]) -> int:
    return sum(ways.profile.size for _, _, ways in sizer.ways_for_all(needs))


def _count_options(sizer: Sizer, needs: Sequence[Requirements]) -> int:
    return sum(len(found.options) for found in sizer.options_for_all([(it, None) for it in needs]))


def _observed(needs: Sequence[Requirements]) -> list[Requirements]:
    """As if every workload's load had been seen: lengths of its own, and a burstiness of 1 to 4."""
    return [
        replace(
            it,
            demand=replace(
                it.demand,
                input_tokens=it.demand.input_tokens + index % 97,
                output_tokens=it.demand.output_tokens + (index % 89 if it.demand.output_tokens > 1 else 0),
                arrival_cv_percent=100 + index * 7 % 300,
            ),
        )
        for index, it in enumerate(needs)
    ]


def _compare(needs: Sequence[Requirements]) -> tuple[float, int]:
    """CPU seconds of the reference and how many ways it made. Raises DifferenceError."""
    sizer, seconds, count = _sizer(), 0.0, 0
    for place, sifted, ways in sizer.ways_for_all(needs):
        it = needs[place]
        spent, plain = cpu_seconds(lambda it=it, sifted=sifted: reference_ways(it, sifted))  # type: ignore[misc]
        if _rows(ways) != sorted(plain):
            raise DifferenceError(f"{it.namespace}/{it.name}: the two ways to size disagree")
        seconds, count = seconds + spent, count + len(plain)
    return seconds, count


def _rows(ways: Ways) -> list[WayFigures]:
    return sorted(zip(*(getattr(ways, name).tolist() for name in _COLUMNS), strict=True))
