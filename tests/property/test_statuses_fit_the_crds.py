"""Whatever the operator has to say, the API server takes it: a status is written whole or not at all."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from lowbeam.api.crdgen import structural_schema
from lowbeam.api.v1alpha1 import Basis, CapState, InferenceWorkload, PowerCap, Reasoning, reasons
from lowbeam.api.v1alpha1.base import MAX_WATTS
from lowbeam.api.v1alpha1.inferenceworkload import Engine
from lowbeam.api.v1alpha1.workloadstatus import DimmedBy
from lowbeam.planning import Alternative, Choice
from lowbeam.planning.committed import Target
from lowbeam.power.gate import DWELL, Hold
from lowbeam.runtime.cap_counts import Counted
from lowbeam.runtime.demand import LoadFacts
from lowbeam.runtime.fleet import Decision, Dimming, WorkloadMemory
from lowbeam.runtime.status_cap import CapFacts, cap_status
from lowbeam.runtime.status_workload import WorkloadFacts, workload_status
from lowbeam.sizing import Demand, Option, Refusal
from lowbeam.sizing.measured_power import Judgement
from lowbeam.sizing.wishes import Advice
from tests.schema_check import objections

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
WORKLOAD = structural_schema(InferenceWorkload)["properties"]["status"]
CAP = structural_schema(PowerCap)["properties"]["status"]

names = st.builds(lambda length: "n" * length, st.integers(1, 253))
texts = st.builds(lambda words, times: words * times, st.text("aé字. ", min_size=1, max_size=9), st.integers(0, 300))
words = st.sampled_from([reasons.SELECTED, reasons.NO_OPTION, reasons.PAUSED])
milliwatts = st.integers(0, MAX_WATTS * 1000)
amounts = st.integers(0, 10**18)
decisions = st.builds(Decision, st.just(NOW), st.just("t0-1"), words, texts)
options = st.builds(
    Option,
    model=names,
    precision=st.just("bf16"),
    reasoning=st.sampled_from(Reasoning),
    accelerator_class=names,
    accelerators_per_replica=st.integers(0, 64),
    batch_limit=st.integers(1, 65_536),
    replicas=st.integers(0, 1000),
    pool=names,
    engine=st.sampled_from([it.value for it in Engine if it is not Engine.AUTO]),
    expected_milliwatts=milliwatts,
    worst_case_milliwatts=milliwatts,
    capacity_millirps=amounts,
    unserved_millirps=st.integers(0, 10**9),
    quality_centi=st.none() | st.integers(0, 99_999_999_999),
    quality_shortfall_centi=st.integers(0, 10_000),
    millijoules_per_request=amounts,
    latency_p95_ms=st.integers(0, 10**9),
    basis=st.sampled_from(Basis),
    board_limit_watts=st.integers(0, 1200),
)
choices = st.builds(
    Choice,
    namespace=names,
    name=names,
    option=st.none() | options,
    reason=words,
    message=texts,
    desired=st.none() | options,
    binding_cap=st.just("") | names,
    shortage=texts,
    alternatives=st.lists(st.builds(Alternative, options, words, texts), max_size=4).map(tuple),
    recommendations=st.lists(st.builds(Advice, names, texts, words, options), max_size=6).map(tuple),
    explained=st.booleans(),
)
judgements = st.builds(
    Judgement,
    st.tuples(names, st.just("fp8"), st.sampled_from(Reasoning), names, st.integers(0, 64)),
    st.just("0123abcd"),
    percent=st.integers(1, 10_000),
    evidence=texts,
)
loads = st.builds(
    LoadFacts,
    demand=st.builds(
        Demand,
        st.integers(0, 1_666_666_667),
        st.integers(1, 10_000_000),
        st.integers(0, 10_000_000),
        st.sampled_from(["Declared", "Observed"]),
        st.integers(100, 1000),
    ),
    gap=st.booleans(),
    judgements=st.lists(judgements, max_size=8).map(tuple),
    running=st.none() | judgements,
)
workloads = st.builds(
    WorkloadFacts,
    generation=st.integers(1, 9),
    advise=st.booleans(),
    refusal=st.none() | st.builds(Refusal, words, names, texts),
    unreadable=texts,
    pods=st.integers(0, 1000),
    ready=st.integers(0, 1000),
    trouble=texts,
    selector=st.just("lowbeam.dev/workload=" + "w" * 63),
    measured_milliwatts=st.none() | milliwatts,
    committed_milliwatts=milliwatts,
    telemetry_problem=texts,
    stars=st.none() | st.integers(1, 5),
    notes=st.lists(texts, max_size=3).map(tuple),
    official_stars=st.none() | st.integers(1, 5),
    load=st.none() | loads,
    asked_again=st.none() | st.just(NOW),
)
dimmings = st.builds(
    Dimming,
    lever=st.sampled_from(DimmedBy),
    since=st.just(NOW),
    reason=words,
    power_cap=names,
    decision_id=st.just("t0-1"),
    milliwatts_freed=milliwatts,
    quality_lost_centi=st.integers(0, 10_000),
)
memories = st.builds(
    WorkloadMemory,
    target=st.none() | st.builds(Target, st.none() | options, dimmed_by=st.just("") | names),
    choice=st.none() | choices,
    dimming=st.none() | dimmings,
    history=st.lists(decisions, max_size=10).map(tuple),
    held=st.none() | st.builds(Hold, st.just(DWELL), texts, st.just(0)),
    waiting_for=texts,
    planned_generation=st.none() | st.integers(1, 9),
)
caps = st.builds(
    CapFacts,
    generation=st.integers(1, 9),
    enforced=st.booleans(),
    counted=st.builds(Counted, st.none() | st.integers(0, 100_000), st.none() | st.integers(0, 100_000), texts),
    problem_reason=words,
    problem=texts,
    effective_watts=st.integers(1, MAX_WATTS),
    limited_by=names,
    usable_milliwatts=milliwatts,
    measured_milliwatts=milliwatts,
    committed_milliwatts=milliwatts,
    coverage_percent=st.integers(0, 100),
    metered=st.booleans(),
    state=st.sampled_from(CapState),
    state_message=texts,
    unsatisfiable=texts,
    price_per_watt=st.floats(0, 1e18),
    last_action=st.none() | decisions,
)


@given(workloads, memories)
def test_every_status_of_a_workload_is_one_that_the_crd_allows(facts: WorkloadFacts, memory: WorkloadMemory) -> None:
    status = workload_status(facts, memory, {}, NOW)
    assert not list(objections(WORKLOAD, status))


@given(caps)
def test_every_status_of_a_cap_is_one_that_the_crd_allows(facts: CapFacts) -> None:
    status = cap_status(facts, {}, NOW)
    assert not list(objections(CAP, status))
