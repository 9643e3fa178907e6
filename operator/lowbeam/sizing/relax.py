"""Which single change of a spec would let a workload run that has no option, and how small it can be.

Decides nothing: it answers people. Invariant: applying `Advice.changes` to the requirements, or adding the nodes that
it names, gives an option; the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from lowbeam.api.v1alpha1 import reasons
from lowbeam.sizing.inventory import Inventory
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.size import Sizer
from lowbeam.sizing.wishes import SWITCH, WISHES, Advice, Wish, changed

_PLENTY = 4096
"""Accelerators of each class, together on one node: what is tried to see whether nodes are what lacks."""


def relaxations(sizer: Sizer, needs: Requirements) -> tuple[Advice, ...]:
    """The single changes that give a workload without options one; the smallest share of a wish first."""
    found: list[tuple[float, int, Advice]] = []
    for number, wish in enumerate(WISHES):
        loosest = wish.loosest(needs)
        if loosest is None or sizer.cheapest(changed(needs, loosest)) is None:
            continue
        if (least := _advice(sizer, needs, wish)) is not None:
            found.append((least[0], number, least[1]))
    found += [(SWITCH, len(WISHES), it) for it in _more_nodes(sizer, needs)]
    return tuple(advice for _, _, advice in sorted(found, key=lambda it: it[:2]))


def pair_of_relaxations(sizer: Sizer, needs: Requirements) -> tuple[Advice, Advice] | None:
    """Two changes that give an option together where no single one does; None when even two do not.

    The option of the first is what would run after both.
    """
    asked = [(wish, loosest) for wish in WISHES if (loosest := wish.loosest(needs)) is not None]
    if sizer.cheapest(changed(needs, *(loosest for _, loosest in asked))) is None:
        return None
    for (first, loose_first), (second, loose_second) in combinations(asked, 2):
        if sizer.cheapest(changed(needs, loose_first, loose_second)) is None:
            continue
        nearer = _advice(sizer, changed(needs, loose_first), second)
        nearest = None if nearer is None else _advice(sizer, changed(needs, nearer[1].changes), first)
        if nearer is not None and nearest is not None:
            return nearest[1], nearer[1]
    return None


def _advice(sizer: Sizer, needs: Requirements, wish: Wish) -> tuple[float, Advice] | None:
    answer = wish.nearest(sizer, needs)
    if answer is None:
        return None
    changes, text, share = answer
    option = sizer.cheapest(changed(needs, changes))
    return None if option is None else (share, Advice(wish.field, text, wish.reason, option, changes))


def _more_nodes(sizer: Sizer, needs: Requirements) -> Iterator[Advice]:
    """The accelerators that one replica of the cheapest way lacks."""
    pool = sizer.inventory[0].pool if sizer.inventory else ""
    everything = tuple(Inventory(pool, name, _PLENTY, _PLENTY) for name in sorted(sizer.catalogue.accelerator_classes))
    wanted = sizer.with_inventory(everything).cheapest(needs)
    if wanted is None:
        return
    boards = max(1, wanted.accelerators_per_replica)
    node = Inventory(pool, wanted.accelerator_class, boards, boards)
    option = sizer.with_inventory((*sizer.inventory, node)).cheapest(needs)
    if option is not None:
        together = f"{boards} {wanted.accelerator_class} together" if boards > 1 else f"1 {wanted.accelerator_class}"
        yield Advice("nodes", f"a node with {together}", reasons.NO_INVENTORY, option)
