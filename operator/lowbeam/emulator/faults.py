"""What can be wrong with an emulated worker or node agent, on demand of a test.

Decides how a fault changes an answer. Part of the emulator (tests and demos only).
"""

from __future__ import annotations

from enum import StrEnum

from lowbeam.api.wire import EnergyParts, WorkerTelemetry

UNIT_ERROR = 1000
"""Milliwatts reported as watts: the mistake that meters make in practice."""


class Fault(StrEnum):
    """One way in which a worker misbehaves; two of them are an agent's too."""

    SILENT = "Silent"
    """The connection is dropped without an answer."""
    WRONG_UNIT = "WrongUnit"
    """Watts and joules are 1000 times too high."""
    FROZEN = "Frozen"
    """Watts and joules stand still while the time stamps go on."""
    IGNORE_CONTROL = "IgnoreControl"
    """Changes are acknowledged and reported as done, and nothing changes. An agent's boards tell the truth."""


AGENT_FAULTS = frozenset({Fault.SILENT, Fault.IGNORE_CONTROL})


def in_wrong_unit(sample: WorkerTelemetry) -> WorkerTelemetry:
    """The sample as a meter in milliwatts would report it."""

    def scaled(value: float | None) -> float | None:
        return None if value is None else value * UNIT_ERROR

    parts = sample.energy_joules
    return sample.model_copy(
        update={
            "watts": scaled(sample.watts),
            "devices": tuple(
                d.model_copy(update={"watts": scaled(d.watts), "joules_total": scaled(d.joules_total)})
                for d in sample.devices
            ),
            "energy_joules": parts
            and EnergyParts(**{name: value * UNIT_ERROR for name, value in parts.model_dump().items()}),
        }
    )


def frozen_at(then: WorkerTelemetry, now: WorkerTelemetry) -> WorkerTelemetry:
    """`now` with the meter readings of `then`."""
    return now.model_copy(update={"watts": then.watts, "devices": then.devices, "energy_joules": then.energy_joules})
