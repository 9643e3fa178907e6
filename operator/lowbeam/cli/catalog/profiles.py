"""`lowbeam catalog profiles`, and one profile in full."""

from __future__ import annotations

import argparse

from lowbeam.catalog import Catalogue
from lowbeam.catalog.comparison import least_millijoules, millijoules_per_request
from lowbeam.catalog.facts import EnergyProfile
from lowbeam.cli.catalog.filters import check, find_model, like, wanted_profiles
from lowbeam.cli.catalog.wire import Json, profile_json
from lowbeam.cli.catalog.words import (
    NONE,
    Row,
    basis,
    batches,
    cited,
    joules,
    profile_label,
    rating_of,
    star_text,
    table,
    unknown,
    unrated_because,
    wrapped,
)
from lowbeam.sizing.words import figure


def data(catalogue: Catalogue, args: argparse.Namespace) -> list[Json]:
    """The profiles that pass the filters."""
    planned, references = (_wanted(catalogue, args, references=which) for which in (False, True))
    return [*(profile_json(p, planned=True) for p in planned), *(profile_json(p, planned=False) for p in references)]


def _wanted(catalogue: Catalogue, args: argparse.Namespace, *, references: bool) -> list[EnergyProfile]:
    check(catalogue, args)
    model = None if args.model is None else find_model(catalogue, args.model)
    if args.model is not None and model is None:
        raise unknown("--model: ", args.model, catalogue.models)
    return [
        profile
        for profile in wanted_profiles(catalogue, args, references=references)
        if (model is None or profile.model == model.name) and like(profile.name, args.name)
    ]


def text(catalogue: Catalogue, args: argparse.Namespace) -> str:
    """One table per class and number of accelerators; figures that are never planned with come last."""
    blocks = [
        *_tables(_wanted(catalogue, args, references=False), ""),
        *_tables(_wanted(catalogue, args, references=True), ": shown for reference, never planned with"),
    ]
    return "\n\n".join(blocks) or "no profile matches"


def _tables(profiles: list[EnergyProfile], remark: str) -> list[str]:
    groups: dict[tuple[str, int], list[Row]] = {}
    for profile in profiles:
        watts = [point.milliwatts // 1000 for point in profile.points]
        least = least_millijoules(profile)
        row = (
            profile_label(profile),
            batches(profile),
            f"{min(watts)}-{max(watts)}",
            NONE if least is None else joules(least),
            basis(profile),
            profile.task,
        )
        groups.setdefault((profile.accelerator_class, profile.accelerators), []).append(row)
    head = ("MODEL", "BATCH", "WATTS", "J/REQ", "BASIS", "TASK")
    return [f"{name} x{count}{remark}\n{table(head, rows)}" for (name, count), rows in sorted(groups.items())]


def one(profile: EnergyProfile, *, planned: bool) -> str:
    """All points of a profile, with the source."""
    rows = [
        (
            str(p.batch),
            f"{p.milliwatts / 1000:.0f}",
            figure(p.requests_per_second_milli / 1000),
            joules(millijoules_per_request(p)),
            star_text(rating_of(profile, millijoules_per_request(p))),
            str(p.latency_p50_ms),
            str(p.latency_p95_ms),
            NONE if p.inter_token_p95_us is None else f"{p.inter_token_p95_us / 1000:.1f}",
        )
        for p in profile.points
    ]
    tokens = f"{profile.input_tokens} tokens in, {profile.output_tokens} out"
    lines = [
        profile.name,
        f"{profile_label(profile)} on {profile.accelerator_class} x{profile.accelerators}",
        wrapped(f"{profile.task}, {tokens}; {profile.engine}"),
        wrapped(f"{basis(profile)}: {cited(profile.source)}"),
        "",
        table(("BATCH", "WATTS", "REQ/S", "J/REQ", "STARS", "P50 MS", "P95 MS", "MS/TOKEN P95"), rows),
    ]
    remarks = [f"Unrated: {unrated}."] if (unrated := unrated_because(profile)) else []
    if not planned:
        remarks.append(wrapped(f"Figures of series {profile.series}: shown for reference, never planned with."))
    return "\n".join([*lines, "", *remarks] if remarks else lines)
