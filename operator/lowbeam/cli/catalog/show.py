"""`lowbeam catalog show NAME`: whatever has that name."""

from __future__ import annotations

import argparse

from lowbeam.catalog import Catalogue
from lowbeam.catalog.facts import AcceleratorClass, EnergyProfile, Model, TaskFacts
from lowbeam.cli.catalog import accelerators, models, profiles, tasks
from lowbeam.cli.catalog.filters import find_model
from lowbeam.cli.catalog.wire import Json, accelerator_json, model_json, profile_json, task_json
from lowbeam.cli.catalog.words import unknown


def _named(catalogue: Catalogue, name: str) -> Model | EnergyProfile | AcceleratorClass | TaskFacts:
    found = (
        find_model(catalogue, name)
        or next((p for p in (*catalogue.profiles, *catalogue.reference_profiles) if p.name == name.lower()), None)
        or catalogue.accelerator_classes.get(name.lower())
        or catalogue.tasks.get(name.lower())
    )
    if found is None:
        profiles = (p.name for p in (*catalogue.profiles, *catalogue.reference_profiles))
        raise unknown("", name, [*catalogue.models, *profiles, *catalogue.accelerator_classes, *catalogue.tasks])
    return found


def data(catalogue: Catalogue, args: argparse.Namespace) -> Json:
    """The object, with its kind."""
    found = _named(catalogue, args.name)
    if isinstance(found, Model):
        return {"kind": "Model", **model_json(catalogue, found, list(found.variants))}
    if isinstance(found, EnergyProfile):
        return {"kind": "EnergyProfile", **profile_json(found, planned=found in catalogue.profiles)}
    if isinstance(found, AcceleratorClass):
        return {"kind": "AcceleratorClass", **accelerator_json(found)}
    return {"kind": "Task", **task_json(catalogue, found)}


def text(catalogue: Catalogue, args: argparse.Namespace) -> str:
    """The object in words."""
    found = _named(catalogue, args.name)
    if isinstance(found, Model):
        return models.one(catalogue, found)
    if isinstance(found, EnergyProfile):
        return profiles.one(found, planned=found in catalogue.profiles)
    if isinstance(found, AcceleratorClass):
        return accelerators.one(found)
    return tasks.one(catalogue, found)
