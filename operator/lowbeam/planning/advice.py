"""Advice: what lost to the chosen option, what would let a workload run, and what would save energy.

Decides which three alternatives are worth showing and why each lost. Never changes an answer. Every figure is sized
with the workload alone on the whole inventory.

Explanations cost more than the plan itself, and most of them are the same in the next cycle: `Adviser` remembers each
as long as what it was asked about is the same in everything (wishes, demand, options, caps that bind). What is
remembered never changes an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

from lowbeam.api.v1alpha1 import reasons
from lowbeam.planning.plan_types import Alternative
from lowbeam.planning.words import rate, rating, share, watts
from lowbeam.sizing.options import Option
from lowbeam.sizing.relax import pair_of_relaxations, relaxations
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.savings import savings
from lowbeam.sizing.size import Sizer
from lowbeam.sizing.wishes import Advice
from lowbeam.sizing.words import centi

MAX_ALTERNATIVES = 3
_CACHE_LIMIT = 8192


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why not the others, and what to ask for instead."""

    alternatives: tuple[Alternative, ...]
    recommendations: tuple[Advice, ...]


@dataclass(frozen=True, slots=True)
class WaysOut:
    """What would let a workload run that has no option."""

    single: tuple[Advice, ...]
    """Each of them alone would do; the smallest change first."""
    pair: tuple[Advice, Advice] | None
    """Both together would do where no single one does."""


class Adviser:
    """Explanations for one sizer, remembered. `next_cycle` forgets what was not asked since the last call."""

    def __init__(self, sizer: Sizer) -> None:
        self._sizer = sizer
        self._known: dict[tuple[object, ...], Explanation | WaysOut] = {}
        self._older: dict[tuple[object, ...], Explanation | WaysOut] = {}

    def explain(self, needs: Requirements, *, option: Option | None, desired: Option | None, cap: str) -> Explanation:
        """Alternatives and recommendations for a workload that has options."""
        known = self.known(needs, option=option, desired=desired, cap=cap)
        if known is not None:
            return known
        base = desired or option
        advice = () if desired is None else savings(self._sizer, needs, desired)
        lost = () if base is None else _alternatives(self._sizer, needs, advice, base=base, option=option, cap=cap)
        answer = Explanation(lost, advice)
        self._remember((_anonymous(needs), option, desired, cap), answer)
        return answer

    def known(
        self, needs: Requirements, *, option: Option | None, desired: Option | None, cap: str
    ) -> Explanation | None:
        """What `explain` would answer, where that is remembered."""
        question = (_anonymous(needs), option, desired, cap)
        answer = self._known.get(question) or self._older.get(question)
        if not isinstance(answer, Explanation):
            return None
        self._remember(question, answer)
        return answer

    def ways_out(self, needs: Requirements) -> WaysOut:
        """The changes that would let a workload run that has no option."""
        question = (_anonymous(needs),)
        answer = self._known.get(question) or self._older.get(question)
        if not isinstance(answer, WaysOut):
            single = relaxations(self._sizer, needs)
            answer = WaysOut(single, None if single else pair_of_relaxations(self._sizer, needs))
        self._remember(question, answer)
        return answer

    def next_cycle(self) -> None:
        """Forget what was not asked since the last call: demand changes, and old questions never come back."""
        self._older, self._known = self._known, {}

    def _remember(self, question: tuple[object, ...], answer: Explanation | WaysOut) -> None:
        if len(self._known) >= _CACHE_LIMIT:
            self.next_cycle()
        self._known[question] = answer


def _anonymous(needs: Requirements) -> Requirements:
    return replace(needs, namespace="", name="", uid="", priority=0, notes=())


def _alternatives(
    sizer: Sizer, needs: Requirements, recommended: tuple[Advice, ...], *, base: Option, option: Option | None, cap: str
) -> tuple[Alternative, ...]:
    """What a person would ask about: the desired one, then the best of each other way, then what less quality buys."""
    dimmed = (Alternative(base, reasons.DIMMED, f'what it would run without "{cap}"'),) if cap else ()
    below = tuple(
        Alternative(advice.option, advice.reason, _too_little_quality(needs, advice))
        for advice in recommended
        if advice.field in ("spec.quality.floor", "spec.quality.target")
    )
    taken = {_way(it) for it in (base, option, *(lost.option for lost in below)) if it is not None}
    rivals = (rival for rival in sizer.best_of_each_profile(needs) if _way(rival) not in taken)
    most = MAX_ALTERNATIVES - len(dimmed) - len(below)
    return (*dimmed, *(_loser(needs, base, rival) for rival in islice(rivals, most)), *below)


def _way(option: Option) -> tuple[object, ...]:
    return (option.model, option.precision, option.reasoning, option.accelerator_class, option.accelerators_per_replica)


def _loser(needs: Requirements, base: Option, rival: Option) -> Alternative:
    """Why a way lost that keeps every limit."""
    more = rival.expected_milliwatts - base.expected_milliwatts
    costs = f"+{100 * more // max(1, base.expected_milliwatts)} %: {watts(more)} more" if more > 0 else ""
    if rival.unserved_millirps > base.unserved_millirps:
        why = "all that fit" if rival.replicas < needs.max_replicas else "spec.scaling.maxReplicas"
        pods = "1 replica" if rival.replicas == 1 else f"{rival.replicas} replicas"
        demand = needs.demand.requests_per_second_milli
        served = f"serves {share(rival.capacity_millirps, demand)} even with {pods} ({why})"
        return Alternative(rival, reasons.SERVES_LESS, served)
    if rival.quality_shortfall_centi > base.quality_shortfall_centi:
        lacking = f"{rating(needs, rival)} < {centi(needs.target_centi)} (target)"
        return Alternative(rival, reasons.BELOW_TARGET, f"{lacking}, {costs}" if costs else lacking)
    if costs:
        return Alternative(rival, reasons.MORE_ENERGY, costs)
    return Alternative(
        rival,
        reasons.LESS_HEADROOM,
        f"as many watts, and less room for a burst: {rate(rival.capacity_millirps)} at most",
    )


def _too_little_quality(needs: Requirements, advice: Advice) -> str:
    option = advice.option
    below = needs.floor_centi > 0 and (option.quality_centi or 0) < needs.floor_centi
    wish = f"{centi(needs.floor_centi)} (floor)" if below else f"{centi(needs.target_centi)} (target)"
    return f"{rating(needs, option)} < {wish}; it would save {advice.saved_percent} %"
