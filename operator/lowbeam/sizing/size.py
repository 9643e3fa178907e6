"""Sizing: all options of one workload, from the catalogue's profiles and the inventory.

Decides which (variant x class x accelerators x batch x replicas x pool) can serve a workload and what each costs; says
for everything else why not. Never looks at caps or at other workloads.

The steps: filters on models, variants and profiles (`sieve`), what each profile can do within the latency targets
(`shelf`), every useful count of replicas as one table (`ways`), the rows worth offering (`pruning`), and those as
options.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import fields
from operator import attrgetter

import numpy as np

from lowbeam.api.v1alpha1 import reasons
from lowbeam.catalog.facts import Catalogue, EnergyProfile
from lowbeam.sizing.batches import Answer, Question, answers_of
from lowbeam.sizing.feasibility import is_cut
from lowbeam.sizing.inventory import Inventory
from lowbeam.sizing.loads import spread_cv
from lowbeam.sizing.operating_point import OperatingPoint, at_lengths, measured_curve, operating_point
from lowbeam.sizing.options import Option, OptionSet, Rejection
from lowbeam.sizing.pruning import select
from lowbeam.sizing.requirements import Requirements
from lowbeam.sizing.sieve import Passed, Sieve, Sifted, Stock, Stocks
from lowbeam.sizing.ways import Ints, Ways

_SHOWN = (
    "profile",
    "batch",
    "replicas",
    "expected",
    "worst",
    "capacity",
    "unserved",
    "shortfall",
    "millijoules",
    "latency",
)
"""Columns of `Ways` that an option shows."""
_CACHE_LIMIT = 8192
"""Answers per generation, about 15 kB each; `next_cycle` keeps it far below in a running operator."""
_UNASKED = frozenset({"namespace", "name", "uid", "priority", "notes"})
_asked = attrgetter(*(field.name for field in fields(Requirements) if field.name not in _UNASKED))
"""What an answer depends on."""


class Sizer:
    """Options for one catalogue and one inventory. Pure: the same question gets the same answer, remembered."""

    inventory: tuple[Inventory, ...]
    _stock: Stock
    _sieve: Sieve
    _answers: dict[object, OptionSet]
    _older: dict[object, OptionSet]

    def __init__(self, catalogue: Catalogue, inventory: Sequence[Inventory]) -> None:
        self.catalogue = catalogue
        self._stocks = Stocks(catalogue)
        self._use(inventory)

    def with_inventory(self, inventory: Sequence[Inventory]) -> Sizer:
        """The same catalogue with other nodes, for what-if questions; shares what does not depend on nodes."""
        other = copy(self)
        other._use(inventory)
        return other

    def options_for(self, needs: Requirements, running: Option | None = None) -> OptionSet:
        """Every useful way to run the workload. `running` is kept among them while it is allowed, at today's demand."""
        return self.options_for_all([(needs, running)])[0]

    def options_for_all(self, asked: Sequence[tuple[Requirements, Option | None]]) -> list[OptionSet]:
        """`options_for` of each (workload, what runs), in order; far cheaper than one after the other."""
        keys = [(_asked(needs), None if running is None else running.setting) for needs, running in asked]
        remembered = {key: self._answers.get(key) or self._older.get(key) for key in keys}
        new = {key: it for key, it in zip(keys, asked, strict=True) if remembered[key] is None}
        known = {key: answer for key, answer in remembered.items() if answer is not None}
        known.update(zip(new, self._size(list(new.values())), strict=True))
        for key, answer in known.items():
            if len(self._answers) >= _CACHE_LIMIT:
                self.next_cycle()
            self._answers[key] = answer
        return [known[key] for key in keys]

    def next_cycle(self) -> None:
        """Forget what was not asked since the last call: demand changes, and old questions never come back."""
        self._older, self._answers = self._answers, {}

    def ways(self, needs: Requirements) -> tuple[Sifted, Ways]:
        """Every way of every profile that passes the filters, unpruned; none for a workload that is scaled to zero."""
        return next(self.ways_for_all([needs]))[1:]

    def ways_for_all(self, needs: Sequence[Requirements]) -> Iterator[tuple[int, Sifted, Ways]]:
        """(number, `ways`) of each workload, in no particular order."""
        questions = [Question(it, self._sieve.sift(it)) for it in needs]
        for answer in answers_of(self._stock.shelves, questions):
            yield answer.number, questions[answer.number].sifted, answer.ways

    def cheapest(
        self, needs: Requirements, *, most_unserved_millirps: int | None = None, most_shortfall_centi: int | None = None
    ) -> Option | None:
        """The way of least expected watts among those that serve the most, or at least as much and as well as given.

        Never one below the floor. None: nothing can run it so. For what-if questions: far cheaper than `options_for`.
        """
        sifted, ways = self.ways(needs)
        fits = ways.below_floor == 0
        if most_unserved_millirps is not None:
            fits &= ways.unserved <= most_unserved_millirps
        if most_shortfall_centi is not None:
            fits &= ways.shortfall <= most_shortfall_centi
        rows = np.flatnonzero(fits)
        if not rows.size:
            return None
        unserved = ways.unserved * (most_unserved_millirps is None)
        row = int(rows[_least_first(sifted, ways, rows, unserved)[0]])
        pool = sifted.passed[int(ways.profile[row])].best_pool
        return _options(needs, sifted.passed, ways, [(row, pool)])[0]

    def best_of_each_profile(self, needs: Requirements) -> tuple[Option, ...]:
        """Per profile, power limits aside, the way that serves the most with the least expected watts, never below the
        floor; best first."""
        sifted, ways = self.ways(needs)
        rows = np.flatnonzero(ways.below_floor == 0)
        rows = rows[_least_first(sifted, ways, rows, ways.unserved)]
        _, first = np.unique(sifted.placement.family[ways.profile[rows]], return_index=True)
        best = rows[np.sort(first)].tolist()
        pools = [sifted.passed[number].best_pool for number in ways.profile[best].tolist()]
        return tuple(_options(needs, sifted.passed, ways, list(zip(best, pools, strict=True))))

    def operating_point(self, needs: Requirements, option: Option) -> OperatingPoint | None:
        """One replica of an option at the workload's demand, with all quantiles; None when the option is not allowed.

        Its p95 from arrival to answer is the option's.
        """
        sifted = self._sieve.sift(needs).passed
        passed = next((it for it in sifted if _is_of(needs, it.profile, option, option.board_limit_watts)), None)
        if passed is None or passed.candidate.accelerator is None:
            return None
        facts = (passed.profile, passed.candidate.model, passed.candidate.accelerator)
        demand = needs.demand
        curve = at_lengths(
            measured_curve(facts[0], facts[2]),
            *facts,
            input_tokens=demand.input_tokens,
            output_tokens=demand.output_tokens,
            cut=is_cut(needs),
        )
        rate = min(demand.requests_per_second_milli, option.capacity_millirps) / 1000 / option.replicas
        cv = spread_cv(demand.arrival_cv_percent / 100, option.replicas)
        return operating_point(curve, option.batch_limit, rate, cv)

    def _use(self, inventory: Sequence[Inventory]) -> None:
        self.inventory = tuple(sorted(inventory, key=lambda row: (row.pool, row.accelerator_class)))
        self._stock = self._stocks.of(self.inventory)
        self._sieve = Sieve(self._stock, self.inventory)
        self._answers, self._older = {}, {}

    def _size(self, asked: Sequence[tuple[Requirements, Option | None]]) -> list[OptionSet]:
        """The options of each (workload, what runs), in order."""
        questions = [self._question(*it) for it in asked]
        found = dict[int, OptionSet]()
        for answer in answers_of(self._stock.shelves, questions):
            found[answer.number] = self._chosen(questions[answer.number], answer, asked[answer.number][1])
        return [found[number] for number in range(len(asked))]

    def _question(self, needs: Requirements, running: Option | None) -> Question:
        sifted = self._sieve.sift(needs)
        if running is None:
            return Question(needs, sifted)
        # Where its limit may not be set any more, the steps from the same profile without one are what it needs.
        limits = (running.board_limit_watts, 0)
        profiles = [it.profile for it in sifted.passed]
        now = next((i for w in limits for i, it in enumerate(profiles) if _is_of(needs, it, running, w)), None)
        return Question(needs, sifted, None if now is None else (now, running.replicas))

    def _chosen(self, question: Question, answer: Answer, running: Option | None) -> OptionSet:
        """The ways worth offering, as options."""
        needs, sifted = question.needs, question.sifted
        if needs.fixed_replicas == 0:
            message = "spec.replicas is 0: an autoscaler or `kubectl scale` asked for no replica; raise it to run"
            return OptionSet((), (Rejection("spec.replicas", reasons.SCALED_TO_ZERO, message),), relaxation=message)
        current = kept = None
        if running is not None and question.running is not None:
            current = (question.running[0], running.batch_limit, running.replicas, running.pool)
        chosen = select(answer.ways, sifted.placement, current)
        options = tuple(sorted(_options(needs, sifted.passed, answer.ways, chosen), key=_id))
        if running is not None:
            kept = next((o for o in options if o.setting == running.setting), None)
        # Of a profile that has a way under some power limit, or none under any, one sentence at most.
        family, limited = sifted.placement.family, sifted.placement.limited
        able = set(family[answer.ways.profile].tolist())
        late = (
            Rejection(sifted.passed[row].candidate.subject, miss.reason, miss.message)
            for row, miss in answer.misses(question).items()
            if not limited[row] and row not in able
        )
        return OptionSet(options, (*self._sieve.rejections(needs, sifted), *late), kept)


def options_for(
    needs: Requirements, catalogue: Catalogue, inventory: Sequence[Inventory], running: Option | None = None
) -> OptionSet:
    """Options of one workload; for many workloads keep one `Sizer`."""
    return Sizer(catalogue, inventory).options_for(needs, running)


def _is_of(needs: Requirements, profile: EnergyProfile, running: Option, limit_watts: int) -> bool:
    return (
        profile.model == running.model
        and profile.precision == running.precision
        and profile.reasoning is running.reasoning
        and profile.accelerator_class == running.accelerator_class
        and profile.accelerators == running.accelerators_per_replica
        and profile.board_limit_watts == limit_watts
        and running.engine == needs.engine
    )


def _least_first(sifted: Sifted, ways: Ways, rows: Ints, unserved: Ints) -> Ints:
    """Order of `rows`: least unserved, least expected watts, no power limit, least worst-case watts, the setting."""
    limited = sifted.placement.limited[ways.profile]
    columns = (ways.batch, ways.replicas, ways.profile, ways.worst, limited, ways.expected, unserved)
    order: Ints = np.lexsort([column[rows] for column in columns])
    return order


def _id(option: Option) -> str:
    return option.id


def _options(
    needs: Requirements, passed: Sequence[Passed], ways: Ways, chosen: Sequence[tuple[int, str]]
) -> list[Option]:
    """The chosen (way, pool) as options; columns become Python numbers once, not cell by cell."""
    rows = np.array([row for row, _ in chosen], dtype=np.int64)
    table = np.stack([getattr(ways, name)[rows] for name in _SHOWN], axis=1).tolist()
    made = []
    for (_, pool), figures in zip(chosen, table, strict=True):
        number, batch, replicas, expected, worst, capacity, unserved, shortfall, millijoules, latency = figures
        found = passed[number]
        profile = found.profile
        made.append(
            Option(
                model=profile.model,
                precision=profile.precision,
                reasoning=profile.reasoning,
                accelerator_class=profile.accelerator_class,
                accelerators_per_replica=profile.accelerators,
                batch_limit=batch,
                replicas=replicas,
                pool=pool,
                engine=needs.engine.value,
                expected_milliwatts=expected,
                worst_case_milliwatts=worst,
                capacity_millirps=capacity,
                unserved_millirps=unserved,
                quality_centi=found.quality_centi,
                quality_shortfall_centi=shortfall,
                millijoules_per_request=millijoules,
                latency_p95_ms=latency,
                basis=profile.basis,
                below_floor=found.below_floor,
                uncertainty_percent=profile.uncertainty_percent,
                board_limit_watts=profile.board_limit_watts,
                unlimited_basis=profile.unlimited_basis,
            )
        )
    return made
