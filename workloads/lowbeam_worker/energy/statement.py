"""What an answer says about its energy: `usage.energy` and the `X-Energy-*` headers. Decides wording, not figures."""

from __future__ import annotations

from typing import Any

from lowbeam.api.wire import MeterMethod, MeterScope
from lowbeam_worker.energy.ledger import Charge
from lowbeam_worker.energy.meter import Meter

ATTRIBUTION = "step-time-by-measured-token-cost"
"""Name of the rule in ledger.py by which a request gets its joules."""


def energy_statement(charge: Charge, meter: Meter) -> dict[str, Any]:
    """`usage.energy`. Without a readable counter: `unavailable`, nulls, and CPU seconds."""
    metered = charge.joules is not None
    scope = meter.scope if metered else MeterScope.NONE
    return {
        "joules": charge.joules,
        "idle_joules": charge.idle_joules,
        "unsettled_joules": charge.unsettled_joules,
        "cpu_seconds": round(charge.cpu_s, 6),
        "method": str(meter.method if metered else MeterMethod.UNAVAILABLE),
        "source": meter.source if metered else None,
        "scope": str(scope),
        "estimate": scope is MeterScope.SHARED,
        "attribution": ATTRIBUTION if metered else None,
        "window_s": charge.window_s,
        "age_s": charge.age_s,
    }


def energy_headers(statement: dict[str, Any]) -> dict[str, str]:
    """`X-Energy-*`; a figure that is not known has no header."""
    named = {
        "X-Energy-Joules": statement["joules"],
        "X-Energy-Idle-Joules": statement["idle_joules"],
        "X-Energy-Unsettled-Joules": statement["unsettled_joules"],
    }
    return {
        "X-Energy-Method": statement["method"],
        "X-Energy-Scope": statement["scope"],
        "X-Energy-CPU-Seconds": f"{statement['cpu_seconds']:.6f}",
        **({"X-Energy-Estimate": "true"} if statement["estimate"] else {}),
        **{name: f"{joules:.6f}" for name, joules in named.items() if joules is not None},
    }
