"""How a refusal by the schema reads to the person who wrote the object.

Decides wording only: each of pydantic's error types becomes one sentence that quotes the value, says what is allowed
and, where one can be guessed, what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from lowbeam.api.nearest import nearest
from lowbeam.api.v1alpha1.base import DECIMAL_PATTERN, DNS_LABEL_PATTERN, TASK_PATTERN, ApiModel
from lowbeam.api.v1alpha1.labels import KEY_FORM, LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN
from lowbeam.api.v1alpha1.provenance import ISO_DATE_PATTERN

LONGEST_QUOTE = 60
_ENDS = "a letter or digit at both ends"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one object."""

    object: str
    """`namespace/name`, `name`, or where in the file it is."""
    field: str
    """Path from the top of the object, e.g. spec.quality.floor; empty = the object itself."""
    message: str
    """What is wrong and what to write instead."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.object, self.field, self.message) if part)


def problems_of(error: ValidationError, kind: type[ApiModel], label: str) -> tuple[Problem, ...]:
    """One problem per thing that is wrong, in the order of the fields."""
    details = [dict(detail) for detail in error.errors()]
    return tuple(
        Problem(label, path(location), message)
        for detail in details
        if not _follows_from_another(detail, details)
        for location, message in _explained(detail, kind)
    )


def path(location: tuple[int | str, ...]) -> str:
    """`("spec", "optIn", 0, "reason")` as `spec.optIn[0].reason`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _follows_from_another(detail: Mapping[str, Any], details: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a list is called too short only because its entries are wrong: pydantic counts the right ones."""
    if detail["type"] != "too_short":
        return False
    location = detail["loc"]
    return any(len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in details)


def _explained(detail: Mapping[str, Any], kind: type[ApiModel]) -> Iterator[tuple[tuple[int | str, ...], str]]:
    location: tuple[int | str, ...] = tuple(part for part in detail["loc"] if part != "[key]")
    context = detail.get("ctx", {})
    if detail["type"] == "rule":
        for field, message in context["broken"]:
            yield (*location, *field.split(".")) if field else location, message
        return
    yield location, _sentence(detail["type"], detail.get("input"), context, location, kind) or detail["msg"]


def _sentence(
    type_: str, value: Any, context: Mapping[str, Any], location: tuple[int | str, ...], kind: type[ApiModel]
) -> str | None:
    match type_:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return _unknown_field(str(location[-1]), location[:-1], kind)
        case "value_error":  # a rule that is written in Python only, in words of its own
            return str(context["error"])
        case "enum":
            return _not_one_of(value, str(context["expected"]))
        case "literal_error":
            return f"{_quoted(value)} is not {context['expected']}"
        case "string_pattern_mismatch":
            return _mismatch(str(value), str(context["pattern"]))
        case "string_type":
            return _not_text(value)
        case "int_type" | "int_parsing" | "int_from_float":
            return f"{_quoted(value)} is not a whole number without quotes"
        case "bool_type" | "bool_parsing":
            return f"{_quoted(value)} is neither true nor false"
        case "greater_than_equal":
            return f"{value} is below the minimum of {context['ge']}"
        case "less_than_equal":
            return f"{value} is above the maximum of {context['le']}"
        case "string_too_long":
            return f"has {len(str(value))} characters, at most {context['max_length']} are allowed"
        case "string_too_short":
            return "must not be empty"
        case "too_long":
            return f"has more than {context['max_length']} entries"
        case "too_short":
            return f"needs at least {context['min_length']} entry"
        case "quantity":
            return _not_a_quantity(value)
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{_quoted(value)} is not an object with fields"
        case "tuple_type":
            return f"{_quoted(value)} is not a list (start each entry with a dash)"
        case "date_from_datetime_parsing" | "date_parsing" | "date_type" | "date_from_datetime_inexact":
            return f'{_quoted(value)} is not a date (write year, month and day: "2027-03-31")'
        case "datetime_parsing" | "datetime_type" | "datetime_from_date_parsing" | "timezone_aware":
            return f'{_quoted(value)} is not a time with its zone (write "2027-03-31T17:00:00Z", or +02:00 for Z)'
    return None


def _unknown_field(name: str, parent: tuple[int | str, ...], kind: type[ApiModel]) -> str:
    model = _model_at(kind, parent)
    known = [field.alias or key for key, field in model.model_fields.items()] if model is not None else []
    near = nearest(name, known)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"is not a field here ({hint})"


def _model_at(kind: type[ApiModel], location: tuple[int | str, ...]) -> type[ApiModel] | None:
    model: type[ApiModel] | None = kind
    for part in location:
        if isinstance(part, int) or model is None:
            continue
        field = next((f for key, f in model.model_fields.items() if (f.alias or key) == part), None)
        model = _model_in(field.annotation) if field is not None else None
    return model


def _model_in(annotation: Any) -> type[ApiModel] | None:
    """The structure inside `X`, `X | None`, `tuple[X, ...]` and annotated forms of them."""
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)


def _not_one_of(value: Any, expected: str) -> str:
    allowed = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    if isinstance(value, bool):
        meant = next((word for word in allowed if word.lower() in ({"on", "yes"} if value else {"off", "no"})), None)
        if meant is not None:
            return f'YAML reads {meant} without quotes as {str(value).lower()} (write "{meant}")'
    near = nearest(str(value), allowed)
    hint = f' (did you mean "{near[0]}"?)' if near else ""
    return f"{_quoted(value)} is not one of {', '.join(allowed)}{hint}"


def _mismatch(value: str, pattern: str) -> str:
    if pattern == DECIMAL_PATTERN:
        guess = value.strip().replace(",", ".").rstrip("%").strip()
        number = (guess if guess.replace(".", "", 1).isdigit() and guess[:1].isdigit() else "").rstrip(".")
        if number and not re.fullmatch(pattern, number):
            return f"{_quoted(value)} has too many digits (at most 9 before the point and 6 after it)"
        return f"{_quoted(value)} is not a decimal number (use {_quoted(number or '56.7')})"
    if pattern == TASK_PATTERN:
        guess = "-".join(value.lower().replace("_", " ").replace("-", " ").split())
        return f"{_quoted(value)} is not a task in the form of Hugging Face (use {_quoted(guess or 'text-generation')})"
    if pattern == DNS_LABEL_PATTERN:
        return f"{_quoted(value)} must be lower-case letters, digits and dashes"
    if pattern == LABEL_VALUE_PATTERN:
        return f"{_quoted(value)} is no value of a label: letters, digits, dashes, underscores and dots, {_ENDS}"
    if pattern == LABEL_KEY_PATTERN:
        return f"{_quoted(value)} is no key of a label: {KEY_FORM}"
    if pattern == ISO_DATE_PATTERN:
        return f"{_quoted(value)} is not a date (write the day, the month or the year: 2026-02-16, 2026-02 or 2026)"
    if pattern == r"^/":
        return f"{_quoted(value)} must be an absolute path (start with /)"
    return f"{_quoted(value)} does not have the form {pattern}"


def _not_text(value: Any) -> str:
    if isinstance(value, bool):
        return f"{str(value).lower()} is not text (YAML reads yes, no, on and off as true and false: use quotes)"
    if isinstance(value, int | float):
        return f'{value} must be in quotes (use "{value}")'
    return f"{_quoted(value)} is not text"


def _not_a_quantity(value: Any) -> str:
    if isinstance(value, float):
        return f'{value} must be in quotes (use "{value}")'
    return f'{_quoted(value)} is not an amount of CPU or memory (use e.g. "500m", 2 or "8Gi")'


def _quoted(value: Any) -> str:
    text = (
        f'"{value}"'
        if isinstance(value, str)
        else "true"
        if value is True
        else "false"
        if value is False
        else str(value)
    )
    return text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 1] + "…"
