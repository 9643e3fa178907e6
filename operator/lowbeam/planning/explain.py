"""Explain: a plan as text for a terminal, and as plain data for `-o json`.

Decides layout only: 80 columns, no colour, no terminal codes; the CLI adds those. Reads a Plan and nothing else.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog.facts import Basis
from lowbeam.planning.plan_types import Choice, Plan
from lowbeam.planning.words import joules, milliseconds, money, option_text, rate, rating, star_text, watts
from lowbeam.power.caps import CapTree
from lowbeam.sizing.cost import Cost, Prices, cost_of
from lowbeam.sizing.options import Option
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.wishes import Advice
from lowbeam.sizing.words import centi, variant_name

WIDTH = 80
_PRICE = (
    "PRICE/W: what one more watt would give, in requests/s served or points of quality gained for a workload of "
    "priority 1000 (half as much at 500)."
)
_REJECTED = 8
"""Rejections shown where there is nothing else to show; the JSON has all."""
_LABEL = 9
"""Width of the first column of `explain`: chosen, lost, saves, basis."""


Asked = Mapping[tuple[str, str], Requirements]
"""What each workload of a plan asked for."""


def explain_lines(needs: Requirements, choice: Choice, prices: Prices | None = None) -> tuple[str, ...]:
    """One workload: what was asked, what was chosen and why, what lost, and what would save."""
    lines = [*_wrapped(f"{needs.namespace}/{needs.name}   ", wishes(needs)), ""]
    option, dimmed = choice.option, bool(choice.binding_cap and choice.desired is not None)
    if option is None:
        lines += labelled("nothing", f"{choice.reason}: {choice.message}")
    else:
        lines += [*labelled("chosen", option_text(option)), *labelled("", _figures(needs, option, None))]
        _, _, why = choice.message.partition("; ")
        lines += labelled("", why if choice.reason == reasons.SELECTED and why else choice.message)
    if dimmed and choice.desired is not None:
        lines += [
            "",
            *labelled("without", option_text(choice.desired)),
            *labelled("", _figures(needs, choice.desired, prices)),
        ]
        lines += labelled("", f'what it would run without PowerCap "{choice.binding_cap}"')
    lost = [it for it in choice.alternatives if it.reason != reasons.DIMMED]
    lines += [""] if lost else []
    for index, rival in enumerate(lost):
        lines += labelled(("lost" if option else "would") if index == 0 else "", option_text(rival.option))
        lines += labelled("", _figures(needs, rival.option, prices))
        lines += labelled("", rival.message)
    if option is None and not choice.alternatives and choice.rejections:
        lines.append("")
        for index, rejected in enumerate(choice.rejections[:_REJECTED]):
            lines += labelled("rejected" if index == 0 else "", f"{rejected.subject}: {rejected.message}")
        more = len(choice.rejections) - _REJECTED
        lines += labelled("", f"and {more} more: -o json lists them") if more > 0 else []
    for index, note in enumerate(needs.notes):
        lines += [*([""] if index == 0 else []), *labelled("note" if index == 0 else "", note)]
    lines += [""] if choice.recommendations else []
    for index, advice in enumerate(choice.recommendations):
        lines += _saving_lines("saves" if index == 0 else "", advice)
    cost = None if option is None or prices is None else cost_of(option, needs.demand, prices)
    lines += ["", *labelled("costs", _cost_text(cost))] if cost is not None else []
    if option is not None:
        lines += ["", *labelled("basis", _basis(option))]
    return tuple(lines)


def _saving_lines(label: str, advice: Advice) -> list[str]:
    head = f"{label.ljust(_LABEL)}-{advice.saved_percent} %".ljust(_LABEL + 7)
    figures = f"{joules(advice.option)} per request with {variant_name(advice.option)}"
    return [*_hanging(head, advice.change), *_hanging(" " * len(head), figures)]


def _basis(option: Option) -> str:
    error = f", +-{option.uncertainty_percent} %" if option.uncertainty_percent else ""
    if option.board_limit_watts:
        return f"worked out for {option.board_limit_watts} W a board{error}, from a profile of boards without a limit"
    return {
        Basis.MEASURED: "measured here",
        Basis.PUBLISHED: "published measurements of this model on this class (`lowbeam catalog profiles` names them)",
        Basis.MODELLED: f"modelled{error}: nobody measured this model on this class; `lowbeam calibrate` does",
    }[option.basis]


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
        wanted = f", {centi(needs.target_centi)} wanted" if needs.target_centi > needs.floor_centi else ""
        parts.append(f"{needs.benchmark} >= {centi(needs.floor_centi)}{wanted}")
    if limits:
        parts.append(f"{', '.join(limits)} (p95)")
    parts.append(f"{rate(needs.demand.requests_per_second_milli)} {needs.demand.basis.lower()}")
    parts.append(f"priority {needs.priority}")
    return " · ".join(parts)


def cost_table(plan: Plan, asked: Asked, prices: Prices) -> tuple[str, ...]:
    """What each workload costs per hour, per 1,000 requests and per million tokens, and all of them per hour."""
    rows: list[tuple[str, ...]] = [("COST", "PER HOUR", "PER 1,000 REQUESTS", "PER MILLION TOKENS")]
    total, missing = Decimal(0), set[str]()
    for choice in plan.choices:
        cost = None if choice.option is None else cost_of(choice.option, asked[choice.key].demand, prices)
        if cost is not None:
            total += cost.hour
            missing |= {cost.without} if cost.without else set()
            figures = (cost.hour, cost.thousand_requests, cost.million_tokens)
            rows.append((f"{choice.namespace}/{choice.name}", *("-" if it is None else money(it) for it in figures)))
        elif choice.option is not None:
            missing.add(f"no price of {choice.option.accelerator_class}")
    rows.append(("all together", money(total), "", ""))
    return (*_aligned(rows, squeeze={0: 16}), *(_wrapped("left out: ", ", ".join(sorted(missing))) if missing else ()))


def plan_table(plan: Plan, asked: Asked) -> tuple[str, ...]:
    """One line per workload: what runs, watts, joules per request, stars, and which cap dims it."""
    dims = any(choice.binding_cap for choice in plan.choices)
    rows = [("WORKLOAD", "MODEL", "CLASS", "REPL", "WATTS", "J/REQ", "STARS", *(("DIMMED",) if dims else ()))]
    for choice in plan.choices:
        name = f"{choice.namespace}/{choice.name}"
        option, cap = choice.option, ((choice.binding_cap,) if dims else ())
        if option is None:
            rows.append((name, "(nothing)", "-", "0", "0", "-", "-", *cap))
            continue
        boards = f" x{option.accelerators_per_replica}" if option.accelerators_per_replica > 1 else ""
        boards += f" {option.board_limit_watts} W" if option.board_limit_watts else ""
        rows.append(
            (
                name,
                variant_name(option),
                f"{option.accelerator_class}{boards}",
                str(option.replicas),
                f"{option.expected_milliwatts / 1000:.0f}",
                joules(option).removesuffix(" J") if option.millijoules_per_request < 1_000_000 else _whole(option),
                star_text(asked[choice.key].task, option) or "-",
                *cap,
            )
        )
    return _aligned(rows, squeeze={1: 14, **({7: 6} if dims else {}), 0: 16})


def _whole(option: Option) -> str:
    return f"{option.millijoules_per_request / 1000:.0f}"


def trouble_lines(plan: Plan) -> tuple[str, ...]:
    """A sentence for each workload that gets less than it asks for: what, why, and what would change that."""
    lines: list[str] = []
    for choice in plan.choices:
        lacks = choice.option is None or choice.binding_cap or choice.option.unserved_millirps
        if lacks and choice.reason != reasons.SCALED_TO_ZERO:
            lines += _wrapped(f"{choice.namespace}/{choice.name}: ", choice.message)
    return tuple(lines)


def cap_table(plan: Plan, caps: CapTree) -> tuple[str, ...]:
    """One line per cap: usable and committed watts, price, and whether it can be met."""
    rows = [("CAP", "WATTS", "USABLE", "COMMITTED", "ROOM", "PRICE/W", "STATE")]
    for cap, usable in zip(caps.caps, caps.planned_milliwatts, strict=True):
        used = plan.cap_milliwatts.get(cap.name, 0)
        state = "unsatisfiable" if cap.name in plan.unsatisfiable_caps else "kept" if used <= usable else "over"
        rows.append(
            (
                cap.name,
                watts(cap.watts_to_plan_with * 1000),
                watts(usable),
                watts(used),
                watts(usable - used),
                f"{plan.cap_price.get(cap.name, 0.0):.3g}",
                state if cap.enforce else f"{state} (observed)",
            )
        )
    sentences = [line for text in plan.unsatisfiable_caps.values() for line in textwrap.wrap(text, WIDTH)]
    priced = any(plan.cap_price.get(cap.name, 0.0) > 0 for cap in caps.caps)
    notes = textwrap.wrap(_PRICE, WIDTH) if priced else []
    return (*_aligned(rows, squeeze={0: 12}), *notes, *sentences)


def doubt_lines(plan: Plan) -> tuple[str, ...]:
    """What is to be said of a plan that may not be the best one; nothing of one that is."""
    if plan.proven:
        return ()
    why = "a limit of nodes ended the search"
    if plan.passes_given_up:
        why = f"steps of the optimiser that a limit ended or left out were given up: {plan.passes_given_up}"
    return tuple(textwrap.wrap(f"not proven to be the best plan ({why}); caps and floors are kept all the same", WIDTH))


def plan_data(plan: Plan, asked: Asked, caps: CapTree, prices: Prices | None = None) -> dict[str, Any]:
    """The plan as JSON-able data with units in the names; the same words as the text."""
    return {
        "proven": plan.proven,
        "passesGivenUp": plan.passes_given_up,
        "workloads": [explain_data(asked[choice.key], choice, prices) for choice in plan.choices],
        "caps": [
            {
                "name": cap.name,
                "milliwatts": cap.watts_to_plan_with * 1000,
                "usableMilliwatts": usable,
                "committedMilliwatts": plan.cap_milliwatts.get(cap.name, 0),
                "enforced": cap.enforce,
                "pricePerWatt": plan.cap_price.get(cap.name, 0.0),
                "unsatisfiable": plan.unsatisfiable_caps.get(cap.name, ""),
            }
            for cap, usable in zip(caps.caps, caps.planned_milliwatts, strict=True)
        ],
    }


def explain_data(needs: Requirements, choice: Choice, prices: Prices | None = None) -> dict[str, Any]:
    """One workload: what was asked, what was decided, what lost and what would save."""

    def shown(option: Option | None) -> dict[str, Any] | None:
        return None if option is None else _option_data(needs, option, prices)

    return {
        "namespace": choice.namespace,
        "name": choice.name,
        "asked": _asked_data(needs),
        "reason": str(choice.reason),
        "message": choice.message,
        "option": shown(choice.option),
        "desired": shown(choice.desired),
        "bindingCap": choice.binding_cap,
        "alternatives": [
            {"option": shown(lost.option), "reason": str(lost.reason), "message": lost.message}
            for lost in choice.alternatives
        ],
        "notes": list(needs.notes),
        "rejections": [{"subject": r.subject, "reason": r.reason, "message": r.message} for r in choice.rejections],
        "recommendations": [
            {
                "field": advice.field,
                "change": advice.change,
                "savedPercent": advice.saved_percent,
                "option": shown(advice.option),
            }
            for advice in choice.recommendations
        ],
    }


def _asked_data(needs: Requirements) -> dict[str, Any]:
    return {
        "task": needs.task,
        "requestsPerSecondMilli": needs.demand.requests_per_second_milli,
        "inputTokens": needs.demand.input_tokens,
        "outputTokens": needs.demand.output_tokens,
        "demandBasis": needs.demand.basis,
        "benchmark": needs.benchmark,
        "floorCenti": needs.floor_centi,
        "targetCenti": needs.target_centi,
        "endToEndMs": needs.end_to_end_ms,
        "timeToFirstTokenMs": needs.time_to_first_token_ms,
        "interTokenMs": needs.inter_token_ms,
        "reasoning": needs.reasoning.value,
        "priority": needs.priority,
    }


def _option_data(needs: Requirements, option: Option, prices: Prices | None) -> dict[str, Any]:
    cost = None if prices is None else cost_of(option, needs.demand, prices)
    return {
        "id": option.id,
        "model": option.model,
        "precision": option.precision,
        "reasoning": option.reasoning.value,
        "acceleratorClass": option.accelerator_class,
        "acceleratorsPerReplica": option.accelerators_per_replica,
        "batchLimit": option.batch_limit,
        "boardLimitWatts": option.board_limit_watts,
        "replicas": option.replicas,
        "pool": option.pool,
        "engine": option.engine,
        "expectedMilliwatts": option.expected_milliwatts,
        "worstCaseMilliwatts": option.worst_case_milliwatts,
        "capacityRequestsPerSecondMilli": option.capacity_millirps,
        "unservedRequestsPerSecondMilli": option.unserved_millirps,
        "qualityCenti": option.quality_centi,
        "qualityShortfallCenti": option.quality_shortfall_centi,
        "millijoulesPerRequest": option.millijoules_per_request,
        "latencyP95Ms": option.latency_p95_ms,
        "stars": option.rating(needs.task),
        "basis": option.basis.value,
        "uncertaintyPercent": option.uncertainty_percent,
        "belowFloor": option.below_floor,
        "cost": None if cost is None else _cost_data(cost),
    }


def _cost_data(cost: Cost) -> dict[str, Any]:
    thousand, million = cost.thousand_requests, cost.million_tokens
    return {
        "perHour": money(cost.hour),
        "perThousandRequests": None if thousand is None else money(thousand),
        "perMillionTokens": None if million is None else money(million),
        "without": cost.without,
    }


def _cost_text(cost: Cost) -> str:
    parts = [f"{money(cost.hour)} per hour"]
    if cost.thousand_requests is not None and cost.million_tokens is not None:
        parts.append(f"{money(cost.thousand_requests)} per 1,000 requests")
        parts.append(f"{money(cost.million_tokens)} per million tokens")
    return ", ".join(parts) + (f" ({cost.without})" if cost.without else "")


def _figures(needs: Requirements, option: Option, prices: Prices | None) -> str:
    """`125 J/req  ***  3.76 kW  mmlu-pro 77.7  p95 820 ms`."""
    parts = [f"{joules(option)}/req", star_text(needs.task, option), watts(option.expected_milliwatts)]
    parts += [rating(needs, option), f"p95 {milliseconds(option.latency_p95_ms)}"]
    cost = None if prices is None else cost_of(option, needs.demand, prices)
    if cost is not None and cost.thousand_requests is not None:
        parts.append(f"{money(cost.thousand_requests)} per 1,000")
    return "  ".join(part for part in parts if part)


def labelled(label: str, text: str) -> list[str]:
    """Lines of one entry under its label."""
    return _wrapped(label.ljust(_LABEL), text)


def _wrapped(head: str, text: str) -> list[str]:
    return _hanging(head, text, min(len(head), _LABEL))


def _hanging(head: str, text: str, indent: int | None = None) -> list[str]:
    further = " " * (len(head) if indent is None else indent)
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=further, break_on_hyphens=False) or [head]


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
