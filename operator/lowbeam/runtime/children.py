"""From a workload's target to the writes that bring its Deployments there, one safe step at a time.

Decides the order: hot changes first (not here), then another model or class: make-before-break, share by share, or
break-before-make. Level-triggered: it looks at what exists and says the next writes; calling it again after any crash
goes on from there.

Invariants: break-before-make never has pods of two placements at once; make-before-break removes the old placement only
when the new one has all its replicas ready; share by share, old replicas go only when all new ones that they leave room
for are ready, and not before the new Deployment is there, which tells a successor how it goes; nothing is deleted
without the uid that was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lowbeam.planning.committed import Order
from lowbeam.planning.roll import Roll
from lowbeam.runtime.replicas import Child, Replica, unmade

OLD_TO_END = "the old replicas to end"
ROLLOUT = "the rollout of its Deployment"


@dataclass(frozen=True, slots=True)
class Step:
    """What to write now for one workload."""

    apply_replicas: int | None
    """Apply the target's Deployment with so many replicas; None: not yet (or nothing wanted)."""
    delete: tuple[Child, ...] = ()
    shrink: tuple[tuple[Child, int], ...] = ()
    """Old Deployments that keep so many replicas for now."""
    waiting_for: str = ""
    """What the next step waits for, in words for the status; empty when this step is the last."""


def next_step(
    target_name: str | None,
    target_replicas: int,
    children: Sequence[Child],
    replicas: Sequence[Replica],
    *,
    order: Order,
    roll: Roll | None = None,
) -> Step:
    """The next writes for one workload; `target_name` None: run nothing."""
    others = tuple(child for child in children if child.name != target_name)
    if target_name is None:
        return Step(None, others, waiting_for="the replicas to end" if replicas else "")
    current = next((child for child in children if child.name == target_name), None)
    digest = target_name.rsplit("-", 1)[-1]
    old_pods = [replica for replica in replicas if replica.placement_digest != digest]
    if not others and not old_pods:
        return Step(target_replicas, waiting_for="" if current is None or current.rolled_out else ROLLOUT)
    if order is Order.ROLLING:
        if roll is None:
            return Step(None, waiting_for="a plan")
        return _share(roll, target_replicas, current, others, old_pods)
    if order is Order.MAKE_BEFORE_BREAK:
        if current is None or current.ready_replicas < target_replicas:
            return Step(target_replicas, waiting_for="the new replicas to be ready")
        return Step(target_replicas, others, waiting_for=OLD_TO_END)
    # Break first: what already runs of the target may stay, but does not grow until the old pods are gone.
    kept = min(current.replicas, target_replicas) if current else None
    return Step(kept, others, waiting_for=OLD_TO_END)


def _share(
    roll: Roll, replicas: int, current: Child | None, others: Sequence[Child], old_pods: Sequence[Replica]
) -> Step:
    """As many new replicas as the old ones leave room for; the next old ones go when those are ready."""
    ready = current.ready_replicas if current else 0
    old_wanted = sum(child.replicas for child in others)
    allowed = roll.allowed(replicas, len(old_pods) + len(unmade(others, old_pods)))
    new = allowed
    if current is not None:
        # More may have been asked for, by somebody or when there was more room. Those that serve stay, and those that
        # an old one only leaves no room for while it drains.
        kept = max(ready, roll.allowed(replicas, old_wanted))
        new = max(allowed, min(current.replicas, kept, replicas))
    step = Step(new, waiting_for=f"its replicas to be replaced, {ready} of {replicas} are")
    if current is None or new > current.replicas or ready < allowed or len(old_pods) > old_wanted:
        return step
    left = roll.old_next(replicas, old_wanted, new)
    delete, shrink = [], []
    for child in others:
        stays = min(child.replicas, left)
        left -= stays
        if not stays:
            delete.append(child)
        elif stays < child.replicas:
            shrink.append((child, stays))
    return replace(step, delete=tuple(delete), shrink=tuple(shrink))
