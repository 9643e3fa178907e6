"""The figures of boards under a lowered limit, for docs/catalogue-physics.md."""

from __future__ import annotations

from collections.abc import Sequence

from lowbeam.catalog.board_limits import LEAST_RATIO_PERCENT, STEPS_PERCENT, limited, limits_of, responses_of
from lowbeam.catalog.facts import Catalogue, EnergyProfile, ProfilePoint
from tools.catalog.board_limits import (
    FittedResponse,
    LeftOut,
    board_limits,
    fitted_responses,
    modelled_rate,
    p90_percent,
    sweeps,
)

EXAMPLES = ("llama-3.1-8b-instruct-bf16-h100-x1", "qwen3-32b-bf16-h100-x1")


def board_limit_figures(catalogue: Catalogue) -> str:
    """The response, its errors on boards that the fit has not seen, the limits on offer, and two examples."""
    responses = tuple(fitted_responses().values())
    return "\n\n".join([_responses(responses), _errors(responses), _offered(catalogue), _examples(catalogue)])


def _responses(responses: Sequence[FittedResponse]) -> str:
    at = " / ".join(map(str, STEPS_PERCENT))
    lines = [
        "Boards under a lowered limit, at shares of what they would draw:",
        "",
        f"| work | loss | throughput at {at} % | joules at {at} % | sweeps, boards "
        "| 90 % are within: throughput, joules | uncertainty |",
        "|---|---|---|---|---|---|---|",
    ]
    for it in responses:
        rates = [modelled_rate(it.loss, percent / 100) for percent in STEPS_PERCENT]
        joules = [percent / 100 / rate for percent, rate in zip(STEPS_PERCENT, rates, strict=True)]
        runs = sum(kind == it.kind for kind, _, _ in sweeps())
        errors = (p90_percent([found.rate for found in it.boards]), p90_percent([found.joules for found in it.boards]))
        lines.append(
            f"| {it.kind} | {it.loss:.3f} | {_shares(rates)} | {_shares(joules)} | {runs}, {len(it.boards)} "
            f"| {errors[0]:.1f} %, {errors[1]:.1f} % | {it.uncertainty_percent} % |"
        )
    return "\n".join(lines)


def _errors(responses: Sequence[FittedResponse]) -> str:
    lines = [
        f"Errors on each board, predicted from the other boards (below: under {LEAST_RATIO_PERCENT} % of the draw, "
        "where nothing is offered):",
        "",
        "| work | board | points | throughput: median, 90 %, bias | joules: median, 90 %, bias "
        "| below: throughput 90 % |",
        "|---|---|---|---|---|---|",
    ]
    for it in responses:
        below = {found.board: f"{found.rate.p90_percent:.1f} %" for found in it.below}
        lines += [_error_row(it.kind, found, below.get(found.board, "-")) for found in it.boards]
    return "\n".join(lines)


def _error_row(kind: str, found: LeftOut, below: str) -> str:
    cells = " | ".join(
        f"{e.median_percent:.1f} %, {e.p90_percent:.1f} %, {e.bias_percent:+.1f} %" for e in (found.rate, found.joules)
    )
    return f"| {kind} | {found.board} | {len(found.rate.relative)} | {cells} | {below} |"


def _offered(catalogue: Catalogue) -> str:
    limits = {name: limits_of(it) for name, it in catalogue.accelerator_classes.items()}
    cells = [f"{name} {' / '.join(map(str, found))} W" for name, found in limits.items() if found]
    none = [name for name, found in limits.items() if not found]
    return f"Limits on offer: {'; '.join(cells)}. None for {', '.join(none)}."


def _examples(catalogue: Catalogue) -> str:
    lines = [
        "Two published profiles at their largest batch, as the boards are and limited:",
        "",
        "| profile | batch | limit W | watts | requests/s | p95 latency s | joules per request |",
        "|---|---|---|---|---|---|---|",
    ]
    responses = responses_of(board_limits())
    for profile in catalogue.profiles:
        if profile.name in EXAMPLES:
            accelerator = catalogue.accelerator_classes[profile.accelerator_class]
            under = (limited(profile, accelerator, watts, responses) for watts in limits_of(accelerator))
            lines += [_example(it) for it in (profile, *under) if it is not None]
    return "\n".join(lines)


def _example(profile: EnergyProfile) -> str:
    point = profile.points[-1]
    return (
        f"| {profile.name} | {point.batch} | {profile.board_limit_watts or '-'} | {point.milliwatts / 1000:.0f} "
        f"| {point.requests_per_second_milli / 1000:.2f} | {point.latency_p95_ms / 1000:.1f} | {_joules(point):.1f} |"
    )


def _joules(point: ProfilePoint) -> float:
    return point.milliwatts / point.requests_per_second_milli


def _shares(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)
