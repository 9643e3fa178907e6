"""Operators of other namespaces: which of them are alive, and whether this one may lead beside them.

Decides from the Leases of one name in all namespaces; pure, time comes in. Never trusts another machine's clock: a
Lease is alive while its record was seen to change within `LEASE_SECONDS`, as in `lease`.

Invariants, with every candidate writing its own Lease before it looks for others (`lease` does):
- Of two that take their Leases at the same moment at least one sees the other; the one of the smaller namespace keeps
  its Lease, the other gives it back, and neither leads while it sees the other alive. So one of them ends up leading.
- Who leads keeps leading: whoever comes later finds its Lease alive.
- A Lease that was seen held counts for its whole duration after its last change, also when it was given back or deleted
  meanwhile: its holder may not have noticed yet, or be a pod that is replaced and comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from lowbeam.kube.transport import KubeObject

LEASE_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Sighting:
    """A held Lease of another namespace as it last changed, by our own clock."""

    holder: str
    version: str
    changed_at_ms: int


class Step(Enum):
    """What a process does about its own Lease."""

    LEAD = auto()
    KEEP = auto()
    """Hold the Lease without leading, until the others are gone."""
    STAND_BACK = auto()
    """Do not take the Lease; give it back if it was taken."""


def sight(
    seen: Mapping[str, Sighting], leases: Iterable[KubeObject], *, namespace: str, now_ms: int
) -> dict[str, Sighting]:
    """Namespace -> Lease of another operator, after one more list that was answered at `now_ms`; dead ones stay."""
    after = dict(seen)
    for lease in leases:
        metadata, holder = lease["metadata"], (lease.get("spec") or {}).get("holderIdentity")
        place, version = metadata["namespace"], metadata["resourceVersion"]
        if holder and place != namespace and (place not in seen or seen[place].version != version):
            after[place] = Sighting(holder, version, now_ms)
    return dict(sorted(after.items()))


def alive(seen: Mapping[str, Sighting], asked_ms: int) -> dict[str, Sighting]:
    """Those that may be renewed yet. `asked_ms`: before the last list was asked for, not when it was answered."""
    return {place: it for place, it in seen.items() if asked_ms - it.changed_at_ms < LEASE_SECONDS * 1000}


def decide(namespace: str, rivals: Mapping[str, Sighting], *, holds: bool) -> Step:
    """The step of a process that does not lead yet. `holds`: it had its own Lease before it looked for `rivals`."""
    if not rivals:
        return Step.LEAD
    return Step.KEEP if holds and namespace < min(rivals) else Step.STAND_BACK


def waiting_message(namespace: str, name: str, rivals: Mapping[str, Sighting]) -> str:
    """Why a process does not lead, and what to do; the first of the others is named."""
    place, rival = next(iter(rivals.items()))
    return (
        f'lease {place}/{name}: held by "{rival.holder}", an operator in another namespace. One operator plans for the '
        f"whole cluster: this one, in namespace {namespace}, waits and writes nothing. Uninstall one of the two; if no "
        f"operator runs in {place}, delete that Lease"
    )
