"""The ledger: parts add up to the counter, requests add up to the active part, whatever happens in which order."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam_worker.energy.ledger import Account, Ledger, Phase, apportion

SECONDS = st.floats(min_value=0.001, max_value=5, allow_nan=False)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), SECONDS),
        st.tuples(st.just("read"), st.integers(0, 500_000)),
        st.tuples(st.just("backwards"), st.just(0)),
        st.tuples(
            st.just("begin"), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 900)), min_size=1, max_size=4)
        ),
        st.tuples(st.just("end"), st.just(0)),
    ),
    max_size=60,
)


@dataclass
class Device:
    """A clock and a counter to drive a ledger with."""

    ledger: Ledger = field(default_factory=Ledger)
    now_s: float = 100.0
    counter_mj: int = 5_000_000

    def spend(self, seconds: float, watts: float) -> None:
        self.now_s += seconds
        self.counter_mj += round(seconds * watts * 1000)
        self.ledger.observe(self.now_s, self.counter_mj)

    def step(self, seconds: float, *shares: tuple[Account, int]) -> None:
        self.ledger.begin_step(self.now_s, shares)
        self.now_s += seconds
        self.ledger.end_step(self.now_s)


def device() -> Device:
    made = Device()
    made.ledger.observe(made.now_s, made.counter_mj)
    return made


@given(EVENTS)
def test_the_parts_add_up_to_the_counter_and_the_requests_to_the_active_part(events: list[tuple[str, object]]) -> None:
    ledger, now_s, counter_mj, accepted_mj, open_step = Ledger(), 0.0, 0, 0, False
    accounts = [ledger.open_account(0.0) for _ in range(4)]
    ledger.observe(now_s, counter_mj)
    for kind, value in events:
        now_s += 0.001
        if kind == "wait":
            now_s += float(value)  # type: ignore[arg-type]
        elif kind == "read":
            counter_mj += int(value)  # type: ignore[call-overload]
            accepted_mj += int(value)  # type: ignore[call-overload]
            ledger.observe(now_s, counter_mj)
        elif kind == "backwards" and counter_mj:
            counter_mj = 0
            ledger.observe(now_s, counter_mj)
        elif kind == "begin" and not open_step:
            ledger.begin_step(now_s, [(accounts[who], tokens) for who, tokens in value])  # type: ignore[attr-defined]
            open_step = True
        elif kind == "end":
            ledger.end_step(now_s)
            open_step = False
    parts = ledger.parts()
    assert parts.active_mj + parts.idle_mj + parts.load_mj + parts.reconfigure_mj == parts.counter_mj == accepted_mj
    assert sum(account.charged_mj for account in accounts) == parts.active_mj


@given(st.integers(0, 10**12), st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_an_integer_is_split_without_losing_or_gaining_a_millijoule(total: int, shares: list[float]) -> None:
    pieces = apportion(total, shares)
    assert sum(pieces) == total
    assert all(piece >= 0 for piece in pieces)


def test_a_request_pays_for_the_time_of_its_steps_and_not_for_its_tokens_alone() -> None:
    it = device()
    it.spend(1.0, 20)
    reader, writer = it.ledger.open_account(it.now_s), it.ledger.open_account(it.now_s)
    it.step(0.1, (reader, 1000))  # a long prompt, read at once
    for _ in range(9):
        it.step(0.1, (writer, 1))  # nine tokens, one after the other
    it.counter_mj += 100_000
    it.ledger.observe(it.now_s, it.counter_mj)
    assert it.ledger.charge(reader, it.now_s).joules == pytest.approx(10, rel=0.01)
    assert it.ledger.charge(writer, it.now_s).joules == pytest.approx(90, rel=0.01)


def test_a_phase_is_left_also_where_the_counter_cannot_be_read_at_its_end() -> None:
    it = device()

    def unreadable() -> None:
        raise OSError("GPU is lost")

    def change() -> None:
        with it.ledger.phase(Phase.RECONFIGURE):
            it.spend(1.0, 20)
            it.ledger.settle = unreadable

    with pytest.raises(OSError, match="GPU is lost"):
        change()
    it.spend(1.0, 30)
    parts = it.ledger.parts()
    assert (parts.reconfigure_mj, parts.idle_mj) == (20_000, 30_000)


def test_time_between_steps_is_idle_at_the_idle_watts() -> None:
    it = device()
    it.spend(1.0, 20)
    account = it.ledger.open_account(it.now_s)
    it.step(0.25, (account, 1))
    it.now_s += 0.75
    it.counter_mj += 40_000  # 20 W x 0.75 s idle, the other 25 J in a quarter of a second
    it.ledger.observe(it.now_s, it.counter_mj)
    parts = it.ledger.parts()
    assert parts.idle_mj == 20_000 + 15_000
    assert parts.active_mj == 25_000


def test_a_request_that_ends_inside_a_window_is_valued_at_the_last_busy_watts() -> None:
    it = device()
    first = it.ledger.open_account(it.now_s)
    it.step(1.0, (first, 1))
    it.counter_mj += 60_000
    it.ledger.observe(it.now_s, it.counter_mj)
    second = it.ledger.open_account(it.now_s)
    it.step(0.05, (second, 1))  # the counter has not moved yet
    charge = it.ledger.charge(second, it.now_s)
    assert charge.joules == charge.unsettled_joules == pytest.approx(60 * 0.05)
    assert charge.window_s == pytest.approx(1.0)


def test_an_answer_tells_how_much_of_its_joules_the_counter_has_not_told_yet() -> None:
    it = device()
    account = it.ledger.open_account(it.now_s)
    it.step(1.0, (account, 1))
    it.counter_mj += 60_000
    it.ledger.observe(it.now_s, it.counter_mj)
    assert it.ledger.charge(account, it.now_s).unsettled_joules == 0
    it.step(0.05, (account, 1))
    charge = it.ledger.charge(account, it.now_s)
    assert [charge.joules, charge.unsettled_joules] == [pytest.approx(63), pytest.approx(3)]
    it.counter_mj += 5_000  # it was not 3 J
    it.ledger.observe(it.now_s, it.counter_mj)
    charge = it.ledger.charge(account, it.now_s)
    assert (charge.joules, charge.unsettled_joules) == (65, 0)


def test_a_short_last_window_of_the_warm_up_does_not_make_the_first_answer_free_of_charge() -> None:
    it = device()
    warm_up, first = it.ledger.open_account(it.now_s, own=True), it.ledger.open_account(it.now_s)
    with it.ledger.phase(Phase.LOAD):
        it.step(1.0, (warm_up, 1))
        it.counter_mj += 60_000
        it.ledger.observe(it.now_s, it.counter_mj)
        it.step(0.003, (warm_up, 1))
        it.ledger.observe(it.now_s, it.counter_mj)  # the phase ends between two movements of the counter
    it.step(0.1, (first, 1))
    assert it.ledger.charge(first, it.now_s).joules == pytest.approx(6, rel=0.02)


def test_before_the_counter_has_moved_joules_are_unknown_and_not_zero() -> None:
    it = device()
    warm_up, first = it.ledger.open_account(it.now_s, own=True), it.ledger.open_account(it.now_s)
    with it.ledger.phase(Phase.LOAD):
        it.step(0.003, (warm_up, 1))
        it.ledger.observe(it.now_s, it.counter_mj)
    it.step(0.1, (first, 1))
    charge = it.ledger.charge(first, it.now_s)
    assert charge.joules is charge.idle_joules is charge.unsettled_joules is None


def test_watts_of_the_warm_up_are_forgotten_as_soon_as_requests_have_shown_theirs() -> None:
    it = device()
    warm_up, first, second = (it.ledger.open_account(it.now_s, own=own) for own in (True, False, False))
    with it.ledger.phase(Phase.LOAD):
        it.step(5.0, (warm_up, 1))
        it.counter_mj += 5 * 30_000
        it.ledger.observe(it.now_s, it.counter_mj)
    it.step(1.0, (first, 1))
    it.counter_mj += 70_000
    it.ledger.observe(it.now_s, it.counter_mj)
    it.step(0.1, (second, 1))
    assert it.ledger.charge(second, it.now_s).joules == pytest.approx(7, rel=0.05)


def test_without_a_meter_joules_are_unknown_and_not_zero() -> None:
    ledger = Ledger()
    account = ledger.open_account(0.0)
    ledger.begin_step(0.0, [(account, 1)])
    ledger.end_step(1.0)
    charge = ledger.charge(account, 1.0)
    assert charge.joules is None
    assert charge.idle_joules is None
    assert charge.elapsed_s == 1.0


def test_joules_of_loading_are_kept_apart_from_those_of_serving() -> None:
    it = device()
    with it.ledger.phase(Phase.LOAD):
        it.spend(2.0, 50)
    it.spend(1.0, 20)
    parts = it.ledger.parts()
    assert parts.load_mj == 100_000
    assert parts.idle_mj == 20_000


def test_a_counter_that_runs_backwards_loses_one_window_and_nothing_else() -> None:
    it = device()
    it.spend(1.0, 20)
    it.counter_mj = 0
    it.now_s += 1
    it.ledger.observe(it.now_s, it.counter_mj)
    it.spend(1.0, 20)
    assert it.ledger.parts().counter_mj == 40_000
    assert it.ledger.counter_resets == 1


def test_a_step_longer_than_a_window_is_split_between_windows() -> None:
    it = device()
    account = it.ledger.open_account(it.now_s)
    it.ledger.begin_step(it.now_s, [(account, 1)])
    it.spend(0.5, 100)
    it.spend(0.5, 100)
    it.ledger.end_step(it.now_s)
    assert account.charged_mj == 100_000


def test_serving_beside_a_reconfiguration_is_still_charged_to_its_requests() -> None:
    it = device()
    account = it.ledger.open_account(it.now_s)
    with it.ledger.phase(Phase.RECONFIGURE):
        it.step(0.4, (account, 1))  # a second engine is being loaded meanwhile
        it.now_s += 0.6
        it.counter_mj += 100_000
        it.ledger.observe(it.now_s, it.counter_mj)
    parts = it.ledger.parts()
    assert parts.active_mj == account.charged_mj == 40_000
    assert parts.reconfigure_mj == 60_000


def test_requests_that_are_here_together_share_the_idle_joules() -> None:
    it = device()
    it.spend(1.0, 20)
    one, other = it.ledger.open_account(it.now_s), it.ledger.open_account(it.now_s)
    it.step(0.2, (one, 3), (other, 1))
    it.now_s += 0.8
    it.counter_mj += 50_000
    it.ledger.observe(it.now_s, it.counter_mj)
    charges = [it.ledger.charge(account, it.now_s) for account in (one, other)]
    idle_joules = [charge.idle_joules for charge in charges]
    assert idle_joules == [pytest.approx(0.75 * 20 * 0.8), pytest.approx(0.25 * 20 * 0.8)]


def test_cpu_seconds_are_split_as_the_step_is_and_need_no_meter() -> None:
    ledger = Ledger()
    one, other = ledger.open_account(0.0), ledger.open_account(0.0)
    ledger.begin_step(0.0, [(one, 3.0), (other, 1.0)], 10.0)
    ledger.end_step(1.0, 10.8)
    assert ledger.charge(one, 1.0).cpu_s == pytest.approx(0.6)
    assert ledger.charge(other, 1.0).cpu_s == pytest.approx(0.2)
    assert ledger.charge(one, 1.0).joules is None


def test_while_the_counter_cannot_be_read_nothing_is_said_and_the_gap_is_booked_after_it() -> None:
    it = device()
    it.spend(1.0, 20)
    account = it.ledger.open_account(it.now_s)
    it.step(1.0, (account, 1))
    it.ledger.lose_sight()
    assert it.ledger.charge(account, it.now_s).joules is None
    it.counter_mj += 80_000
    it.ledger.observe(it.now_s, it.counter_mj)
    assert it.ledger.charge(account, it.now_s).joules == pytest.approx(80)
    assert it.ledger.error_mj(100_000) == 0


def test_books_that_miss_a_millijoule_are_noticed() -> None:
    it = device()
    it.spend(1.0, 20)
    assert it.ledger.error_mj(20_001) == 1
