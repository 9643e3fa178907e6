"""Which facts a view shows. A filter that names nothing known is an error with a suggestion, never an empty list."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase

from lowbeam.catalog import Catalogue
from lowbeam.catalog.facts import EnergyProfile, Model, Variant
from lowbeam.cli.catalog.words import unknown


def like(name: str, pattern: str | None) -> bool:
    """Whether a name matches a shell pattern; a pattern without * or ? may be any part of it."""
    if pattern is None:
        return True
    wanted = pattern.lower()
    return wanted in name.lower() if not set(wanted) & set("*?") else fnmatchcase(name.lower(), wanted)


def find_model(catalogue: Catalogue, name: str) -> Model | None:
    """By its name in the catalogue or its Hugging Face id."""
    by_path = {model.model_path.lower(): model for model in catalogue.models.values()}
    return catalogue.models.get(name.lower()) or by_path.get(name.lower())


def check(catalogue: Catalogue, args: argparse.Namespace) -> None:
    """Raise BadInput for a filter that nothing in the catalogue could ever match."""
    precisions = sorted({variant.precision for model in catalogue.models.values() for variant in model.variants})
    known = (
        ("--task", args.task, catalogue.tasks),
        ("--class", args.accelerator_class, catalogue.accelerator_classes),
        ("--licence", args.licence, sorted({model.licence for model in catalogue.models.values()})),
        ("--precision", args.precision, precisions),
    )
    for option, given, names in known:
        if given is not None and given.lower() not in {name.lower() for name in names}:
            raise unknown(f"{option}: ", given, names)


def wanted_profiles(
    catalogue: Catalogue, args: argparse.Namespace, *, references: bool = False
) -> tuple[EnergyProfile, ...]:
    """Profiles that pass the filters on figures (task, class, basis, precision, licence).

    Those that are planned with, or those of other series, which are never ranked with them.
    """
    profiles = catalogue.reference_profiles if references else catalogue.profiles
    return tuple(profile for profile in profiles if _wanted(catalogue.models[profile.model], profile, args))


def wanted_variants(model: Model, args: argparse.Namespace, profiles: tuple[EnergyProfile, ...]) -> list[Variant]:
    """Variants of a model to show: in the asked precision, and with a profile where a filter asks about profiles."""
    about_profiles = args.accelerator_class is not None or args.basis is not None
    profiled = {(profile.model, profile.precision, profile.reasoning) for profile in profiles}
    return [
        variant
        for variant in model.variants
        if _same(variant.precision, args.precision) and (not about_profiles or variant.key in profiled)
    ]


def wanted_model(model: Model, args: argparse.Namespace) -> bool:
    """Whether name, licence and task of a model pass."""
    return (
        (like(model.name, args.name) or like(model.model_path, args.name))
        and _same(model.licence, args.licence)
        and (args.task is None or args.task.lower() in model.tasks)
    )


def _wanted(model: Model, profile: EnergyProfile, args: argparse.Namespace) -> bool:
    return (
        _same(profile.task, args.task)
        and _same(profile.accelerator_class, args.accelerator_class)
        and _same(profile.basis.value, args.basis)
        and _same(profile.precision, args.precision)
        and _same(model.licence, args.licence)
    )


def _same(value: str, wanted: str | None) -> bool:
    return wanted is None or value.lower() == wanted.lower()
