"""What answers state against what the counter says: the sum of many short answers, with a counter that moves in steps
and a sampler that comes late, as on a machine whose CPUs are taken."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lowbeam.api.wire import MeterMethod, MeterScope
from lowbeam_worker.energy.boards import Reading
from lowbeam_worker.energy.ledger import Account, Charge, Ledger, Phase
from lowbeam_worker.energy.meter import SAMPLE_SECONDS, Meter

IDLE_WATTS = 25.0
REFRESH_SECONDS = 0.1
CLIENTS = 4
WATTS = st.floats(30, 300)
LATE = st.floats(0, 0.3)
"""Seconds by which a reading is late, on average."""


@dataclass
class Board:
    """A device whose counter moves every `REFRESH_SECONDS`; a `Source` of the meter."""

    now_s: float = 1000.0
    joules: float = 0.0
    shown_mj: int = 0
    moves_at_s: float = 1000.0 + REFRESH_SECONDS
    method: MeterMethod = field(default=MeterMethod.NVML)
    scope: MeterScope = field(default=MeterScope.DEVICE)
    name: str = "a counter"

    def read(self) -> Reading:
        return Reading((), self.now_s, self.now_s, self.shown_mj, 50.0, 50.0)

    def why_unreadable(self) -> str | None:
        return None

    def close(self) -> None:
        pass

    def draw(self, seconds: float, watts: float) -> None:
        self.now_s += seconds
        self.joules += seconds * watts
        if self.now_s >= self.moves_at_s:
            self.shown_mj, self.moves_at_s = round(self.joules * 1000), self.now_s + REFRESH_SECONDS


class Serving:
    """A worker's engine, clock and sampler in one thread."""

    def __init__(self, late_s: float, seed: int) -> None:
        self.board, self.ledger, self.chance = Board(), Ledger(), random.Random(seed)
        self.meter = Meter(self.board, self.ledger)
        self.ledger.settle = self.meter.settle
        self.answers: list[tuple[Account, Charge]] = []
        self._late_s, self._reads_at_s = late_s, self.board.now_s + SAMPLE_SECONDS
        self._read_at_s, self.longest_wait_s = self.board.now_s, 0.0
        """Between two readings."""
        self.meter.settle()

    def passes(self, seconds: float, watts: float) -> None:
        until_s = self.board.now_s + seconds
        while self.board.now_s < until_s:
            self.board.draw(min(0.005, until_s - self.board.now_s), watts)
            if self.board.now_s >= self._reads_at_s:
                self.meter.sample()
                self.longest_wait_s = max(self.longest_wait_s, self.board.now_s - self._read_at_s)
                self._read_at_s = self.board.now_s
                late_s = self.chance.expovariate(1 / self._late_s) if self._late_s else 0.0
                self._reads_at_s = self.board.now_s + SAMPLE_SECONDS + late_s

    def step(self, members: list[Account], watts: float) -> None:
        self.ledger.begin_step(self.board.now_s, [(account, 1.0) for account in members])
        self.passes(self.chance.uniform(0.005, 0.02), watts)
        self.ledger.end_step(self.board.now_s)

    def start(self, watts: float) -> None:
        with self.ledger.phase(Phase.LOAD):
            self.passes(2.0, IDLE_WATTS)
            warm_up = self.ledger.open_account(self.board.now_s, own=True)
            for _ in range(20):
                self.step([warm_up], watts)
        self.passes(1.0, IDLE_WATTS)

    def serve(self, seconds: float, watts: float) -> None:
        """Clients that each ask for one to six steps, again and again; the last answers are waited for."""
        until_s, inside = self.board.now_s + seconds, dict[Account, int]()
        while inside or self.board.now_s < until_s:
            while len(inside) < CLIENTS and self.board.now_s < until_s:
                inside[self.ledger.open_account(self.board.now_s)] = self.chance.randint(1, 6)
            self.step(list(inside), watts)
            self.passes(0.002, IDLE_WATTS)
            for account in list(inside):
                inside[account] -= 1
                if not inside[account]:
                    del inside[account]
                    self.answers.append((account, self.ledger.charge(account, self.board.now_s)))

    def rest(self) -> None:
        self.passes(1.0, IDLE_WATTS)
        self.meter.settle()

    @property
    def stated_joules(self) -> float:
        return sum(charge.joules or 0.0 for _, charge in self.answers)

    @property
    def unsettled_joules(self) -> float:
        return sum(charge.unsettled_joules or 0.0 for _, charge in self.answers)


@settings(max_examples=25, deadline=None)
@given(warm_up=WATTS, served=st.lists(WATTS, min_size=1, max_size=3), late_s=LATE, seed=st.integers(0, 9999))
def test_nothing_settled_is_taken_back_and_the_rest_is_settled_to_the_millijoule(
    warm_up: float, served: list[float], late_s: float, seed: int
) -> None:
    worker = Serving(late_s, seed)
    worker.start(warm_up)
    for watts in served:
        worker.serve(1.0, watts)
    worker.rest()
    for account, charge in worker.answers:
        assert charge.joules is not None
        assert charge.unsettled_joules is not None
        settled_later = account.charged_mj / 1000 - (charge.joules - charge.unsettled_joules)
        assert settled_later >= -1e-5  # both are rounded
    parts = worker.ledger.parts()
    assert sum(account.charged_mj for account, _ in worker.answers) == parts.active_mj
    assert parts.active_mj + parts.idle_mj + parts.load_mj + parts.reconfigure_mj == worker.board.shown_mj


@settings(max_examples=25, deadline=None)
@example(warm_up=30.0, watts=300.0, late_s=0.3, seed=3970)  # one reading comes two seconds late
@given(warm_up=WATTS, watts=WATTS, late_s=LATE, seed=st.integers(0, 9999))
def test_the_sum_of_short_answers_misses_the_counter_by_less_than_a_second_of_steps_and_the_longest_wait(
    warm_up: float, watts: float, late_s: float, seed: int
) -> None:
    worker = Serving(late_s, seed)
    worker.start(warm_up)
    missed = []
    for _ in range(2):
        worker.serve(4.0, watts)
        worker.rest()
        missed.append(worker.stated_joules - worker.ledger.parts().active_mj / 1000)
    # Until a reading comes, answers are valued at the watts before it.
    most, late_joules = max(warm_up, watts), worker.longest_wait_s * max(warm_up, watts)
    assert max(map(abs, missed)) < 1.0 * most + late_joules
    assert abs(missed[1] - missed[0]) < 0.5 * most + late_joules  # another four seconds do not add as much again


@pytest.mark.parametrize(("warm_up", "watts"), [(72.0, 40.0), (30.0, 70.0), (60.0, 60.0)])
@pytest.mark.parametrize("late_s", [0.0, 0.15])
def test_two_seconds_of_short_answers_after_the_warm_up_are_within_a_quarter(
    warm_up: float, watts: float, late_s: float
) -> None:
    for seed in range(5):
        worker = Serving(late_s, seed)
        worker.start(warm_up)
        worker.serve(2.0, watts)
        worker.rest()
        assert len(worker.answers) > 50
        assert worker.stated_joules == pytest.approx(worker.ledger.parts().active_mj / 1000, rel=0.25)
        assert worker.unsettled_joules > 0.5 * worker.stated_joules  # and they said so
