"""From a workload's target to the writes that bring its Deployments there, one safe step at a time.

Decides the order: hot changes first (not here), make-before-break or break-before-make for another model or class.
Level-triggered: it looks at what exists and says the next writes; calling it again after any crash goes on from there.

Invariants: break-before-make never has pods of two placements at once; make-before-break removes the old placement only
when the new one has all its replicas ready; nothing is deleted without the uid that was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowbeam.runtime.replicas import Child, Replica

OLD_TO_END = "the old replicas to end"
ROLLOUT = "the rollout of its Deployment"


@dataclass(frozen=True, slots=True)
class Step:
    """What to write now for one workload."""

    apply_replicas: int | None
    """Apply the target's Deployment with so many replicas; None: not yet (or nothing wanted)."""
    delete: tuple[Child, ...] = ()
    waiting_for: str = ""
    """What the next step waits for, in words for the status; empty when this step is the last."""


def next_step(
    target_name: str | None,
    target_replicas: int,
    make_before_break: bool,
    children: Sequence[Child],
    replicas: Sequence[Replica],
) -> Step:
    """The next writes for one workload; `target_name` None: run nothing."""
    others = tuple(child for child in children if child.name != target_name)
    if target_name is None:
        return Step(None, others, "the replicas to end" if replicas else "")
    current = next((child for child in children if child.name == target_name), None)
    digest = target_name.rsplit("-", 1)[-1]
    old_pods = [replica for replica in replicas if replica.placement_digest != digest]
    if not others and not old_pods:
        return Step(target_replicas, waiting_for="" if current is None or current.rolled_out else ROLLOUT)
    if make_before_break:
        if current is None or current.ready_replicas < target_replicas:
            return Step(target_replicas, waiting_for="the new replicas to be ready")
        return Step(target_replicas, others, OLD_TO_END)
    # Break first: what already runs of the target may stay, but does not grow until the old pods are gone.
    kept = min(current.replicas, target_replicas) if current else None
    return Step(kept, others, OLD_TO_END)
