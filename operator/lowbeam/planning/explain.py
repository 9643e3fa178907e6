"""Explain: a plan as text for a terminal, and as plain data for `-o json`.

Decides layout only: 80 columns, no colour, no terminal codes; the CLI adds those. Reads a Plan and nothing else.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from lowbeam.planning.plan_types import Alternative, Choice, Plan
from lowbeam.planning.words import joules, option_text, watts
from lowbeam.power.caps import CapTree
from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.words import centi

WIDTH = 80
_LABEL = 9
"""Width of the first column of `explain`: chosen, lost, saves, basis."""


def explain_lines(needs: Requirements, choice: Choice) -> tuple[str, ...]:
    """One workload: what was asked, what was chosen and why, what lost, and what would save."""
    lines = [*_wrapped(f"{needs.namespace}/{needs.name}   ", wishes(needs)), ""]
    if choice.option is None:
        lines += _labelled("nothing", f"{choice.reason}: {choice.message}")
    elif not choice.binding_cap or choice.desired is None:
        lines += _labelled("chosen", choice.message)
    else:
        lines += _labelled("chosen", _figures(choice.option))
        lines += _labelled("", choice.message)
        lines += _labelled("desired", f'{_figures(choice.desired)}; PowerCap "{choice.binding_cap}" does not allow it')
    if choice.alternatives:
        lines.append("")
        for index, lost in enumerate(choice.alternatives):
            lines += _labelled("lost" if index == 0 else "", f"{_figures(lost.option)}: {lost.message} [{lost.reason}]")
    elif choice.option is None and choice.rejections:
        lines.append("")
        for index, rejected in enumerate(choice.rejections):
            text = f"{rejected.subject}: {rejected.message} [{rejected.reason}]"
            lines += _labelled("rejected" if index == 0 else "", text)
    if choice.recommendations:
        lines.append("")
        for index, advice in enumerate(choice.recommendations):
            lines += _labelled("saves" if index == 0 else "", advice)
    if choice.option is not None:
        lines += ["", *_labelled("basis", f"{choice.option.basis.value.lower()} profile")]
    return tuple(lines)


def wishes(needs: Requirements) -> str:
    """`text-generation · mmlu-pro >= 55 · first token 1000 ms, 50 ms/token (p95) · 10 req/s · priority 500`."""
    limits = []
    if needs.end_to_end_ms is not None:
        limits.append(f"{needs.end_to_end_ms} ms end to end")
    if needs.time_to_first_token_ms is not None:
        limits.append(f"first token {needs.time_to_first_token_ms} ms")
    if needs.inter_token_ms is not None:
        limits.append(f"{needs.inter_token_ms} ms/token")
    parts = [needs.task]
    if needs.floor_centi > 0:
        parts.append(f"{needs.benchmark} >= {centi(needs.floor_centi)}")
    if limits:
        parts.append(f"{', '.join(limits)} (p95)")
    parts.append(f"{needs.demand.requests_per_second_milli / 1000:.3g} req/s {needs.demand.basis.lower()}")
    parts.append(f"priority {needs.priority}")
    return " · ".join(parts)


def plan_table(plan: Plan) -> tuple[str, ...]:
    """One line per workload: what runs, watts, joules per request, and whether it is dimmed."""
    rows = [("WORKLOAD", "MODEL", "CLASS", "REPL", "WATTS", "J/REQ", "DIMMED")]
    for choice in plan.choices:
        name = f"{choice.namespace}/{choice.name}"
        option = choice.option
        if option is None:
            rows.append((name, f"({choice.reason})", "-", "0", "0", "-", choice.binding_cap))
            continue
        boards = f" x{option.accelerators_per_replica}" if option.accelerators_per_replica > 1 else ""
        rows.append(
            (
                name,
                f"{option.model} {option.precision}",
                f"{option.accelerator_class}{boards}",
                str(option.replicas),
                f"{option.expected_milliwatts / 1000:.0f}",
                joules(option).removesuffix(" J"),
                choice.binding_cap,
            )
        )
    return _aligned(rows, squeeze={1: 18, 6: 8, 0: 16})


def cap_table(plan: Plan, caps: CapTree) -> tuple[str, ...]:
    """One line per cap: usable and committed watts, price, and whether it can be met."""
    rows = [("CAP", "USABLE", "COMMITTED", "ROOM", "PRICE/W", "STATE")]
    for cap, usable in zip(caps.caps, caps.usable_milliwatts, strict=True):
        used = plan.cap_milliwatts.get(cap.name, 0)
        state = "unsatisfiable" if cap.name in plan.unsatisfiable_caps else "kept" if used <= usable else "over"
        rows.append(
            (
                cap.name,
                watts(usable),
                watts(used),
                watts(usable - used),
                f"{plan.cap_price.get(cap.name, 0.0):.3g}",
                state if cap.enforce else f"{state} (observed)",
            )
        )
    sentences = [line for text in plan.unsatisfiable_caps.values() for line in textwrap.wrap(text, WIDTH)]
    return (*_aligned(rows, squeeze={0: 12}), *sentences)


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-able data with units in the names; the same words as the text."""
    return {
        "workloads": [_choice_data(choice) for choice in plan.choices],
        "caps": {
            name: {
                "committedMilliwatts": used,
                "pricePerWatt": plan.cap_price.get(name, 0.0),
                "unsatisfiable": plan.unsatisfiable_caps.get(name, ""),
            }
            for name, used in sorted(plan.cap_milliwatts.items())
        },
    }


def _choice_data(choice: Choice) -> dict[str, Any]:
    return {
        "namespace": choice.namespace,
        "name": choice.name,
        "reason": str(choice.reason),
        "message": choice.message,
        "option": _option_data(choice.option),
        "desired": _option_data(choice.desired),
        "bindingCap": choice.binding_cap,
        "alternatives": [_alternative_data(lost) for lost in choice.alternatives],
        "rejections": [{"subject": r.subject, "reason": r.reason, "message": r.message} for r in choice.rejections],
        "recommendations": list(choice.recommendations),
    }


def _alternative_data(lost: Alternative) -> dict[str, Any]:
    return {"option": _option_data(lost.option), "reason": str(lost.reason), "message": lost.message}


def _option_data(option: Option | None) -> dict[str, Any] | None:
    if option is None:
        return None
    return {
        "id": option.id,
        "model": option.model,
        "precision": option.precision,
        "reasoning": option.reasoning.value,
        "acceleratorClass": option.accelerator_class,
        "acceleratorsPerReplica": option.accelerators_per_replica,
        "batchLimit": option.batch_limit,
        "replicas": option.replicas,
        "pool": option.pool,
        "engine": option.engine,
        "expectedMilliwatts": option.expected_milliwatts,
        "worstCaseMilliwatts": option.worst_case_milliwatts,
        "capacityMillirps": option.capacity_millirps,
        "unservedMillirps": option.unserved_millirps,
        "qualityCenti": option.quality_centi,
        "qualityShortfallCenti": option.quality_shortfall_centi,
        "millijoulesPerRequest": option.millijoules_per_request,
        "latencyP95Ms": option.latency_p95_ms,
        "basis": option.basis.value,
        "belowFloor": option.below_floor,
    }


def _figures(option: Option) -> str:
    quality = "" if option.quality_centi is None else f", quality {centi(option.quality_centi)}"
    return f"{option_text(option)}, {joules(option)}/req, {watts(option.expected_milliwatts)}{quality}"


def _labelled(label: str, text: str) -> list[str]:
    return _wrapped(label.ljust(_LABEL), text)


def _wrapped(head: str, text: str) -> list[str]:
    indent = " " * min(len(head), _LABEL)
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False) or [head]


def _aligned(rows: Sequence[Sequence[str]], squeeze: Mapping[int, int]) -> tuple[str, ...]:
    """Columns two spaces apart; when the table is wider than WIDTH, columns give way down to their `squeeze` size."""
    sizes = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for column, least in squeeze.items():
        excess = sum(sizes) + 2 * (len(sizes) - 1) - WIDTH
        sizes[column] -= max(0, min(excess, sizes[column] - least))
    return tuple(
        "  ".join(_cut(cell, size).ljust(size) for cell, size in zip(row, sizes, strict=True)).rstrip()[:WIDTH]
        for row in rows
    )


def _cut(text: str, size: int) -> str:
    """Cut in the middle: the end of a model's name says its size and precision."""
    if len(text) <= size:
        return text
    tail = (size - 1) * 3 // 5
    return f"{text[: size - 1 - tail]}…{text[len(text) - tail :]}"
