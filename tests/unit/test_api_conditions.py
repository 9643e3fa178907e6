"""Conditions and reasons: transition times mean something, and every word is documented."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lowbeam
from lowbeam.api.v1alpha1 import reasons
from lowbeam.api.v1alpha1.base import MAX_MESSAGE_LENGTH, Condition, ConditionStatus
from lowbeam.api.v1alpha1.conditions import find_condition, set_condition

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)


def ready(conditions: tuple[Condition, ...]) -> Condition:
    condition = find_condition(conditions, reasons.READY)
    assert condition is not None
    return condition


def test_the_transition_time_moves_only_when_the_status_flips() -> None:
    first = set_condition((), reasons.READY, False, reasons.REPLICAS_NOT_READY, "0 of 2", now=NOON)
    second = set_condition(first, reasons.READY, False, reasons.REPLICAS_NOT_READY, "1 of 2", now=LATER)
    assert (ready(second).message, ready(second).last_transition_time) == ("1 of 2", NOON)
    third = set_condition(second, reasons.READY, True, reasons.ALL_REPLICAS_READY, "2 of 2", now=LATER)
    assert ready(third).last_transition_time == LATER


def test_saying_the_same_again_gives_the_very_same_conditions_so_nothing_is_written() -> None:
    first = set_condition((), reasons.READY, True, reasons.ALL_REPLICAS_READY, "x" * 5000, now=NOON)
    assert set_condition(first, reasons.READY, True, reasons.ALL_REPLICAS_READY, "x" * 5000, now=LATER) is first


def test_a_new_generation_is_a_change_even_if_the_answer_is_the_same() -> None:
    first = set_condition((), reasons.READY, True, reasons.ALL_REPLICAS_READY, "", now=NOON, observed_generation=1)
    second = set_condition(first, reasons.READY, True, reasons.ALL_REPLICAS_READY, "", now=LATER, observed_generation=2)
    assert (ready(second).observed_generation, ready(second).last_transition_time) == (2, NOON)


def test_unknown_is_a_status_of_its_own() -> None:
    conditions = set_condition((), reasons.TELEMETRY_HEALTHY_CONDITION, None, reasons.TELEMETRY_STALE, "", now=NOON)
    assert conditions[0].status is ConditionStatus.UNKNOWN


def test_a_message_of_any_length_fits() -> None:
    conditions = set_condition((), reasons.READY, True, reasons.ALL_REPLICAS_READY, "x" * 40_000, now=NOON)
    assert len(ready(conditions).message) == MAX_MESSAGE_LENGTH


@given(
    st.lists(
        st.tuples(st.sampled_from(["Ready", "Dimmed", "Stalled"]), st.sampled_from([True, False, None])), max_size=20
    )
)
def test_there_is_never_more_than_one_condition_of_a_type(observations: list[tuple[str, bool | None]]) -> None:
    conditions: tuple[Condition, ...] = ()
    for step, (type_, status) in enumerate(observations):
        conditions = set_condition(conditions, type_, status, "Selected", "", now=NOON + timedelta(seconds=step))
    types = [condition.type for condition in conditions]
    assert types == list(dict.fromkeys(type_ for type_, _ in observations))
    words = {True: "True", False: "False", None: "Unknown"}
    assert {c.type: c.status.value for c in conditions} == {type_: words[status] for type_, status in observations}


@pytest.mark.parametrize("word", [*reasons.REASONS, *reasons.CONDITION_TYPES])
def test_every_word_is_one_camel_case_word_with_a_sentence(word: str) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z]{2,62}", word)
    sentence = {**reasons.REASONS, **reasons.CONDITION_TYPES}[word]
    assert sentence.endswith(".")
    assert sentence[0].isupper() or sentence.startswith("spec.")


def test_each_constant_is_named_after_its_word() -> None:
    for name, word in vars(reasons).items():
        if name.isupper() and isinstance(word, str):
            assert name.removesuffix("_CONDITION").replace("_", "").lower() == word.lower()


def test_no_two_constants_mean_the_same_reason() -> None:
    constants = [name for name, word in vars(reasons).items() if name.isupper() and isinstance(word, str)]
    assert len(constants) == len(reasons.REASONS) + len(reasons.CONDITION_TYPES)


def _words_spelled_in(source: str) -> set[str]:
    """CamelCase words of two or more parts that a module makes a constant of, or lists in an enum of reasons."""
    tree = ast.parse(source)
    enums = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Reason")]
    found = set()
    for statement in [*tree.body, *(inner for enum in enums for inner in enum.body)]:
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found.add(value.value)
    return {word for word in found if re.fullmatch(r"([A-Z][a-z]+){2,}", word)}


@pytest.mark.parametrize("folder", ["sizing", "power", "planning", "telemetry", "runtime", "handlers"])
def test_every_word_that_the_operator_says_is_documented(folder: str) -> None:
    paths = (Path(lowbeam.__file__).parent / folder).rglob("*.py")
    spelled = {word: path.name for path in paths for word in _words_spelled_in(path.read_text(encoding="utf-8"))}
    assert {word: where for word, where in spelled.items() if word not in reasons.REASONS} == {}
