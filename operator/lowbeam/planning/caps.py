"""What a cap may do to a workload: pressing caps, levers, and caps that are too small for their minimum.

Decides which columns of the problem are allowed. Never weighs workloads against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lowbeam.planning.moves import allowed_by, levers_between
from lowbeam.planning.problem import Flags, Ints, Problem
from lowbeam.planning.words import watts
from lowbeam.power.caps import Cap, CapTree
from lowbeam.sizing.options import Option


def pressing_caps(problem: Problem, wanted: Ints) -> tuple[Cap, ...]:
    """Caps that the wanted columns together would break."""
    over = problem.usage[:, wanted].sum(axis=1) > problem.rows.limits
    names = {name for i, name in enumerate(problem.rows.caps) if over[i]}
    return tuple(cap for cap in problem.rows.tree.caps if cap.name in names)


def capped_columns(
    problem: Problem, desired: Sequence[Option | None], pressing: Sequence[Cap], uncapped: Flags
) -> Flags:
    """Columns that may be used while `pressing` caps bind.

    A workload under a pressing cap may go wherever the levers of all pressing caps over it allow, counted from what it
    would run without caps; below the floor where its owner consented. The others keep to what needs no excuse.
    """
    allowed = uncapped.copy()
    for index, entry in enumerate(problem.entries):
        want = desired[index]
        if want is None:
            continue
        over = [cap for cap in pressing if cap.covers(entry.needs.namespace, want.pool)]
        span = problem.columns_of(index)
        for column in range(span.start, span.stop):
            option = problem.option[column]
            if option is not None and over:
                levers = levers_between(want, option)
                allowed[column] = all(allowed_by(levers, cap.levers) for cap in over)
    return allowed


def overtaken_caps(
    tree: CapTree, reserved_milliwatts: Mapping[str, int], kept_milliwatts: Mapping[str, int]
) -> dict[str, str]:
    """Caps below what keeps running without an option, each with a sentence: no choice for the others keeps them."""
    return {
        cap.name: f'PowerCap "{cap.name}" leaves {watts(usable)}, and {watts(reserved_milliwatts[cap.name])} are taken '
        "by workloads that keep running without an option, or are not planned. Raise spec.watts, or correct or delete "
        "the workloads that have no option."
        for cap, usable in tree.enforced()
        if kept_milliwatts.get(cap.name, 0) > 0 and reserved_milliwatts[cap.name] > usable
    }


def too_small_caps(problem: Problem, allowed: Flags) -> tuple[dict[str, str], Flags]:
    """Caps below the least that their workloads may run with, each with a sentence; and the columns that remain.

    Hold: everybody under such a cap goes to the least and stays there, as far as there is room. PauseLowest: the lowest
    priorities are paused, the others use what is left; the optimiser does that by itself: nothing is always a column.
    """
    sentences: dict[str, str] = {}
    remaining = allowed.copy()
    by_name = {cap.name: cap for cap in problem.rows.tree.caps}
    runs = allowed & np.array([o is not None for o in problem.option], dtype=np.bool_)
    rests = allowed & (problem.paused == 0)
    for row, name in enumerate(problem.rows.caps):
        least = np.full(len(problem.entries), np.iinfo(np.int64).max)
        np.minimum.at(least, problem.owner[rests], problem.usage[row, rests])
        must = np.where(least == np.iinfo(np.int64).max, 0, least)
        limit = int(problem.rows.limits[row])
        if int(must.sum()) <= limit:
            continue
        cap = by_name[name]
        count = int((must > 0).sum())
        if cap.pause_lowest:
            effect = "it is paused" if count == 1 else "the lowest priorities are paused"
        else:
            least_each = "all are held at their least, and the lowest priorities do not run"
            effect = "it does not run" if count == 1 else least_each
        who = "its workload needs" if count == 1 else f"its {count} workloads need"
        need = f"{who} at least {watts(int(must.sum()))}"
        sentences[name] = (
            f'PowerCap "{name}" leaves {watts(limit)}, {need}: {effect}. '
            "Raise spec.watts, lower a floor, or consent with belowFloor: WhenCapped."
        )
        if not cap.pause_lowest:
            use = problem.usage[row]
            some = np.full(len(problem.entries), np.iinfo(np.int64).max)
            np.minimum.at(some, problem.owner[rests & (use > 0)], use[rests & (use > 0)])
            # Whoever could go elsewhere needs nothing here, but may stay at its least: elsewhere there may be no room.
            may = np.where(must > 0, must, some)
            remaining &= ~(runs & (use > may[problem.owner]))
    return sentences, remaining
