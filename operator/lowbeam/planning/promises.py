"""What carried-out steps promise: watts that must have gone once they have settled (`power.progress`).

Decides nothing about moves. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lowbeam.planning.committed import Order
from lowbeam.planning.transition import Step
from lowbeam.power.progress import Place, Promise
from lowbeam.sizing.options import Option


def promises_of(steps: Iterable[Step], drawn: Mapping[Place, int], now_ms: int) -> tuple[Promise, ...]:
    """What the steps are expected to free where they leave, for `power.progress`.

    `drawn` is `ledger.measured_by_workload`. A step to another pool frees all that it drew in the old one.
    """
    promises = []
    for step in steps:
        if step.before is None or step.order is Order.ROLLING:  # nothing waits for the watts of that, and it takes long
            continue
        pool, stays = step.before.pool, step.after is not None and step.after.pool == step.before.pool
        after = step.after.expected_milliwatts if step.after is not None and stays else 0
        baseline = drawn.get((step.namespace, step.name, pool), 0)
        predicted = min(baseline, step.before.expected_milliwatts - after)
        if predicted > 0:
            promises.append(Promise(step.namespace, step.name, pool, baseline, predicted, now_ms, step.move.settle_ms))
    return tuple(promises)


def taken_back_by(steps: Iterable[Step]) -> frozenset[Place]:
    """Where the steps let a workload draw more than before: what an earlier move promised there will not come.

    Judged by worst cases, which do not change with the load. A step to another pool still empties the old one, so what
    was promised there stands.
    """
    return frozenset(
        (step.namespace, step.name, step.after.pool)
        for step in steps
        if step.after is not None
        and (step.before is None or step.before.pool != step.after.pool or _worst(step.after) > _worst(step.before))
    )


def _worst(option: Option | None) -> int:
    return 0 if option is None else option.worst_case_milliwatts
