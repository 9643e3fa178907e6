"""Meter and ledger in every order of readings, steps, resets, gaps and phases: the books equal the counter, always."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lowbeam.api.wire import MeterMethod, MeterScope
from lowbeam_worker.energy.boards import NoMeterError, Reading
from lowbeam_worker.energy.ledger import Account, Ledger, Phase
from lowbeam_worker.energy.meter import Meter

SECONDS = st.floats(min_value=0.0, max_value=30, allow_nan=False)
JOULES_MJ = st.integers(0, 2_000_000)


@dataclass
class Device:
    """A counter with all the troubles of a real one; a `Source` of the meter."""

    now_s: float = 1000.0
    counter_mj: int = 7_000_000
    sensor_watts: float | None = 50.0
    readable: bool = True
    gone: bool = False
    method: MeterMethod = field(default=MeterMethod.NVML)
    scope: MeterScope = field(default=MeterScope.DEVICE)
    name: str = "a counter"

    def read(self) -> Reading:
        counter_mj = self.counter_mj if self.readable else None
        return Reading((), self.now_s, self.now_s, counter_mj, self.sensor_watts, self.sensor_watts)

    def why_unreadable(self) -> str | None:
        return None if self.readable else "GPU is lost"

    def close(self) -> None:
        self.readable = True


class LedgerMachine(RuleBasedStateMachine):
    """The model keeps its own sum of what the meter may have accepted."""

    @initialize()
    def start(self) -> None:
        self.device = Device()
        self.ledger = Ledger()
        self.meter = Meter(self.device, self.ledger, self.reopen)
        self.ledger.settle = self.meter.settle
        self.accounts: list[Account] = [self.ledger.open_account(self.device.now_s) for _ in range(3)]
        self.in_step = False
        self.most_mj = 0
        self.meter.settle()

    def reopen(self) -> Device:
        if self.device.gone:
            raise NoMeterError("still gone")
        return self.device

    @rule(seconds=SECONDS, millijoules=JOULES_MJ)
    def time_passes(self, seconds: float, millijoules: int) -> None:
        self.device.now_s += seconds
        self.device.counter_mj += millijoules
        self.most_mj += millijoules

    @rule()
    def reads(self) -> None:
        self.meter.sample()

    @rule()
    def settles(self) -> None:
        self.meter.settle()

    @precondition(lambda self: not self.in_step)
    @rule(who=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1e6)), min_size=1, max_size=4))
    def step_begins(self, who: list[tuple[int, float]]) -> None:
        self.ledger.begin_step(self.device.now_s, [(self.accounts[index], weight) for index, weight in who], 1.0)
        self.in_step = True

    @rule()
    def step_ends(self) -> None:
        self.ledger.end_step(self.device.now_s, 2.0)
        self.in_step = False

    @rule(phase=st.sampled_from(Phase), seconds=SECONDS, millijoules=JOULES_MJ)
    def phase_passes(self, phase: Phase, seconds: float, millijoules: int) -> None:
        with self.ledger.phase(phase):
            self.time_passes(seconds, millijoules)

    @rule(value=st.integers(0, 1_000_000))
    def counter_runs_backwards(self, value: int) -> None:
        self.device.counter_mj = min(value, self.device.counter_mj)

    @rule(readable=st.booleans(), gone=st.booleans())
    def board_is_lost_or_back(self, readable: bool, gone: bool) -> None:
        self.device.readable, self.device.gone = readable, gone

    @rule(watts=st.one_of(st.none(), st.floats(0, 700)))
    def sensor_says(self, watts: float | None) -> None:
        self.device.sensor_watts = watts

    @rule()
    def request_comes(self) -> None:
        self.accounts.append(self.ledger.open_account(self.device.now_s))

    @invariant()
    def the_books_equal_the_counter(self) -> None:
        parts = self.ledger.parts()
        assert self.meter.error_joules() == 0
        assert parts.active_mj + parts.idle_mj + parts.load_mj + parts.reconfigure_mj == parts.counter_mj
        assert 0 <= parts.counter_mj <= self.most_mj
        assert min(parts.active_mj, parts.idle_mj, parts.load_mj, parts.reconfigure_mj) >= 0
        assert sum(account.charged_mj for account in self.accounts) == parts.active_mj

    @invariant()
    def what_is_not_known_is_not_said(self) -> None:
        for account in self.accounts:
            charge = self.ledger.charge(account, self.device.now_s)
            assert charge.cpu_s >= 0
            if not self.meter.counts_energy:
                assert charge.joules is charge.idle_joules is charge.unsettled_joules is charge.window_s is None
                assert self.meter.method is MeterMethod.UNAVAILABLE
            elif charge.joules is not None:
                unsettled, idle = charge.unsettled_joules, charge.idle_joules
                assert unsettled is not None
                assert idle is not None
                assert min(unsettled, idle) >= 0
                assert charge.joules - unsettled == pytest.approx(account.charged_mj / 1000, abs=2e-6)


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLedger = LedgerMachine.TestCase
