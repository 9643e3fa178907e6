"""What `lowbeam top` shows of each object: one row per PowerCap and per InferenceWorkload, and the same as JSON.

Decides which fields count, in which order rows come, and what is worth a note. Pure. Reads raw objects and not the API
models: an object that a newer operator wrote is shown as far as it is understood, and 2,000 of them cost nothing.

Invariant: `None` is unknown and stays unknown: no figure here is estimated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.inferenceworkload import WorkloadMode
from lowbeam.api.v1alpha1.powercap import CapMode, CapState
from lowbeam.api.v1alpha1.provenance import Basis

SORTS = ("watts", "joules", "name")
QUIET = frozenset({CapState.WITHIN_CAP.value, CapState.RESTORING.value})
"""States of a cap that need no words."""

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CapRow:
    """One PowerCap. Watts are whole, as its status has them."""

    name: str
    parent: str
    state: str
    """What it does now; empty before the operator looked at it."""
    enforced: bool
    spec_watts: int | None
    effective_watts: int | None
    usable_watts: int | None
    measured_watts: int | None
    committed_watts: int | None
    coverage_percent: int | None
    note: str
    """What a reader should know besides the figures; empty where all is well."""

    @property
    def cap_watts(self) -> int | None:
        """What is in force: less than the spec says where a cap above is lower."""
        return self.spec_watts if self.effective_watts is None else self.effective_watts

    @property
    def urgency(self) -> int:
        """The higher, the later it is left out where not all fit: 2 = acts or cannot act, 1 = has a note, 0 = calm."""
        return 2 if self.state and self.state not in QUIET else 1 if self.note else 0


@dataclass(frozen=True, slots=True)
class Decision:
    """The newest entry of a workload's history."""

    time: datetime | None
    action: str
    message: str


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """One InferenceWorkload."""

    namespace: str
    name: str
    enforced: bool
    """False: spec.mode is Advise, so that nothing runs for it."""
    model: str
    precision: str
    replicas: int | None
    """Pods that were decided."""
    ready_replicas: int | None
    measured_watts: int | None
    committed_watts: int | None
    joules_per_request: Decimal | None
    basis: str
    stars: int | None
    """None: unrated."""
    lever: str
    """What a cap took; empty = nothing."""
    power_cap: str
    decision: Decision | None
    trouble: str
    """Why it cannot go on until somebody changes something; empty when it can."""
    waiting: str
    """Why it is not served (yet), where nothing was decided."""

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


def cap_rows(objects: Iterable[Raw]) -> tuple[CapRow, ...]:
    """The caps, each below its parent."""
    rows = sorted((_cap_row(obj) for obj in objects), key=lambda row: row.name)
    names, below = {row.name for row in rows}, dict[str, list[CapRow]]()
    for row in rows:
        below.setdefault(row.parent if row.parent in names else "", []).append(row)
    ordered, waiting = list[CapRow](), list(reversed(below.get("", [])))
    while waiting:
        ordered.append(row := waiting.pop())
        waiting += reversed(below.get(row.name, []))
    shown = {row.name for row in ordered}
    return (*ordered, *(row for row in rows if row.name not in shown))  # the rest: circles of parents


def depths(rows: Sequence[CapRow]) -> dict[str, int]:
    """How many caps are above each; rows come as `cap_rows` orders them."""
    found: dict[str, int] = {}
    for row in rows:
        found[row.name] = found[row.parent] + 1 if row.parent in found else 0
    return found


def workload_rows(objects: Iterable[Raw], sort: str = "watts") -> tuple[WorkloadRow, ...]:
    """The workloads: most watts first, or most joules per request, or by name; what is unknown comes last."""
    rows = sorted((_workload_row(obj) for obj in objects), key=lambda row: (row.namespace, row.name))
    if sort == "watts":
        rows.sort(key=lambda row: (_or_less(row.measured_watts), _or_less(row.committed_watts)), reverse=True)
    elif sort == "joules":
        rows.sort(key=lambda row: _or_less(row.joules_per_request), reverse=True)
    return tuple(rows)


def cap_data(row: CapRow) -> dict[str, Any]:
    """As docs/reference/json.md has it."""
    return {
        "name": row.name,
        "parent": row.parent or None,
        "state": row.state or None,
        "enforced": row.enforced,
        "watts": row.spec_watts,
        "effectiveWatts": row.effective_watts,
        "usableWatts": row.usable_watts,
        "measuredWatts": row.measured_watts,
        "committedWatts": row.committed_watts,
        "coveragePercent": row.coverage_percent,
        "note": row.note,
    }


def workload_data(row: WorkloadRow) -> dict[str, Any]:
    """As docs/reference/json.md has it."""
    joules, decision = row.joules_per_request, row.decision
    return {
        "namespace": row.namespace,
        "name": row.name,
        "enforced": row.enforced,
        "model": row.model or None,
        "precision": row.precision or None,
        "replicas": row.replicas,
        "readyReplicas": row.ready_replicas,
        "measuredWatts": row.measured_watts,
        "committedWatts": row.committed_watts,
        "millijoulesPerRequest": None if joules is None else round(joules * 1000),
        "basis": row.basis or None,
        "stars": row.stars,
        "dimmed": row.lever or None,
        "powerCap": row.power_cap or None,
        "decisionTime": None if decision is None or decision.time is None else f"{decision.time:%Y-%m-%dT%H:%M:%SZ}",
        "decision": None if decision is None else decision.action,
        "decisionMessage": None if decision is None else decision.message,
        "trouble": row.trouble or row.waiting,
    }


def _or_less(value: int | Decimal | None) -> int | Decimal:
    return -1 if value is None else value


def _cap_row(obj: Raw) -> CapRow:
    spec, status = _part(obj, "spec"), _part(obj, "status")
    return CapRow(
        name=_text(_part(obj, "metadata"), "name"),
        parent=_text(spec, "parent"),
        state=_text(status, "state"),
        enforced=_text(spec, "mode") != CapMode.OBSERVE,
        spec_watts=_whole(spec, "watts"),
        effective_watts=_whole(status, "effectiveWatts"),
        usable_watts=_whole(status, "usableWatts"),
        measured_watts=_whole(status, "measuredWatts"),
        committed_watts=_whole(status, "committedWatts"),
        coverage_percent=_whole(status, "coveragePercent"),
        note=_cap_note(obj, spec, status),
    )


def _cap_note(obj: Raw, spec: Raw, status: Raw) -> str:
    """What is wrong first, then what is unusual; the operator's own words where it has some."""
    conditions = _conditions(status)
    if not status:
        return "no status yet: no operator has looked at it"
    notes = []
    for kind, wrong in (
        (reasons.READY, "False"),
        (reasons.SATISFIABLE_CONDITION, "False"),
        (reasons.SHEDDING_CONDITION, "True"),
        (reasons.WITHIN_CAP_CONDITION, "False"),
        (reasons.TELEMETRY_HEALTHY_CONDITION, "False"),
    ):
        row = conditions.get(kind, {})
        if _text(row, "status") == wrong:
            said = _text(row, "message") or _text(row, "reason")
            notes.append(said.removeprefix(f'PowerCap "{_text(_part(obj, "metadata"), "name")}": ').rstrip("."))
    if _text(spec, "mode") == CapMode.OBSERVE:
        notes.append("observes only: dims nothing")
    effective, asked, source = _whole(status, "effectiveWatts"), _whole(spec, "watts"), _text(status, "limitedBy")
    if _behind(obj, status):
        notes.append("changed, and the operator has not answered yet")
    elif effective is not None and effective != asked and source:
        notes.append(f'{effective} W of its {asked} W are in force, by "{source}"')
    return "; ".join(dict.fromkeys(note for note in notes if note))


def _workload_row(obj: Raw) -> WorkloadRow:
    metadata, status = _part(obj, "metadata"), _part(obj, "status")
    selected, energy, dimming = _part(status, "selected"), _part(status, "energy"), _part(status, "dimming")
    conditions = _conditions(status)
    stalled, ready = conditions.get(reasons.STALLED, {}), conditions.get(reasons.READY, {})
    waiting = "" if _text(ready, "status") == "True" else _sentence(ready)
    return WorkloadRow(
        namespace=_text(metadata, "namespace"),
        name=_text(metadata, "name"),
        enforced=_text(_part(obj, "spec"), "mode") != WorkloadMode.ADVISE,
        model=_text(selected, "model"),
        precision=_text(selected, "precision"),
        replicas=_whole(selected, "replicas"),
        ready_replicas=_whole(status, "readyReplicas"),
        measured_watts=_whole(energy, "measuredWatts"),
        committed_watts=_whole(energy, "committedWatts"),
        joules_per_request=_decimal(_text(energy, "joulesPerRequest")),
        basis=_text(energy, "basis"),
        stars=_text(energy, "stars").count("*") or None,
        lever=_text(dimming, "lever"),
        power_cap=_text(dimming, "powerCap"),
        decision=_decision(status),
        trouble=_sentence(stalled) if _text(stalled, "status") == "True" else "",
        waiting=waiting if status else "no status yet: no operator has looked at it",
    )


def modelled(row: WorkloadRow) -> bool:
    """Whether its joules were computed from figures of other hardware or models."""
    return row.basis == Basis.MODELLED


def _decision(status: Raw) -> Decision | None:
    history = status.get("history")
    if not isinstance(history, Sequence) or not history or not isinstance(newest := history[0], Mapping):
        return None
    return Decision(_moment(_text(newest, "time")), _text(newest, "action"), _text(newest, "message"))


def _behind(obj: Raw, status: Raw) -> bool:
    generation, observed = _whole(_part(obj, "metadata"), "generation"), _whole(status, "observedGeneration")
    return generation is not None and observed is not None and observed < generation


def _sentence(condition: Raw) -> str:
    return ": ".join(part for part in (_text(condition, "reason"), _text(condition, "message")) if part)


def _conditions(status: Raw) -> dict[str, Raw]:
    rows = status.get("conditions")
    known = rows if isinstance(rows, Sequence) else ()
    return {_text(row, "type"): row for row in known if isinstance(row, Mapping)}


def _part(obj: Raw, name: str) -> Raw:
    found = obj.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(obj: Raw, name: str) -> str:
    found = obj.get(name)
    return found if isinstance(found, str) else ""


def _whole(obj: Raw, name: str) -> int | None:
    found = obj.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _decimal(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):  # no date, or one at the end of the calendar
        return None
