"""From bytes to a validated body: size, time, JSON, fields. Every refusal names the first field that is wrong.

A field that is not in a body's class is refused by name; a field of OpenAI's or TEI's API that we do not act on is in
the class with the one value that means "not used". A null means "not used" too, at any depth: clients send an answer's
message back with all of its empty fields. Only the parameters of a task may mean something by it. Nothing is
converted: `"5"` and `true` are no numbers.

Bodies are checked on the event loop, and pydantic collects what is wrong: a body of a million wrong items or unknown
fields must not make a million errors, nor one of right items keep the loop from everybody else. So every list of a body
ends at its first wrong item (`fail_fast`), and one of objects or lists has a length (`FEW`).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, ClassVar, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticKnownError
from starlette.requests import Request

from lowbeam_worker.refusal import Refusal, invalid, shortened, too_large, too_slow

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_ROWS = 2048
"""As many inputs as OpenAI takes in one embeddings request."""
BODY_SECONDS = 30.0
"""Longest wait for a body; a client that sends a byte a minute must not hold a place."""

FEW = Field(fail_fast=True, max_length=MAX_ROWS)
"""For a list of objects or lists: a body has room for hundreds of thousands, and checking them takes seconds."""
TokenIds = Annotated[list[int], Field(fail_fast=True, min_length=1)]
Strings = Annotated[list[str], Field(fail_fast=True)]


def only(value: float) -> AfterValidator:
    """The one value that means "not used", of the field's own type: pydantic's Literal takes true for 1."""

    def check(given: float) -> float:
        if given != value:
            raise PydanticKnownError("literal_error", {"expected": str(value)})
        return given

    return AfterValidator(check)


class Body(BaseModel):
    """Base: unknown fields are an error, and no type is bent into another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    null_is_a_value: ClassVar[bool] = False
    """False: a field that is null is as one that is not there."""

    @model_validator(mode="before")
    @classmethod
    def _used_fields(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if not cls.null_is_a_value:
            given = {name: value for name, value in given.items() if value is not None}
        known = cls.model_fields
        if len(given) <= len(known):
            return given
        # Of unknown fields the first is enough for a refusal.
        unknown = next(name for name in given if name not in known)
        return {name: value for name, value in given.items() if name in known or name == unknown}


Kind = TypeVar("Kind", bound=Body)


async def read_body(request: Request, kind: type[Kind]) -> Kind:
    """The validated body; raises a Refusal that names the first wrong field."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await _read(request)
    except TimeoutError:
        raise too_slow(BODY_SECONDS) from None
    try:
        document: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise invalid("The body must be a JSON object.")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _refusal(error, document) from error


async def _read(request: Request) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise too_large(MAX_BODY_BYTES)
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise too_large(MAX_BODY_BYTES)
    return bytes(raw)


def _refusal(error: ValidationError, document: dict[str, Any]) -> Refusal:
    problems = error.errors(include_url=False)
    # Of a field with alternatives (a text, or a list of texts) pydantic reports each. The one that is meant has the
    # right type and a wrong value, or else goes deepest.
    own = [it for it in problems if it["loc"][:1] == problems[0]["loc"][:1]]
    first = max(own, key=lambda it: (not it["type"].endswith("_type"), len(it["loc"])))
    name = shortened(_name(first["loc"], document))
    field = name.split(".")[0].split("[")[0] or None
    if first["type"] == "missing":
        return invalid(f"The field {name!r} is missing.", name)
    if first["type"] == "extra_forbidden":
        return invalid(f"The field {name!r} is not supported by this worker.", name, "unsupported_parameter")
    if first["type"] in {"literal_error", "none_required"}:
        message = f"{name!r} has a value that this worker does not support: {first['msg']}."
        return invalid(message, name, "unsupported_value")
    return invalid(f"{name!r} is not valid: {first['msg']}.", field)


def _name(where: tuple[int | str, ...], document: Any) -> str:
    """`messages[0].content` from pydantic's path, which also has the names of alternatives in it."""
    name, at = "", document
    for part in where:
        if isinstance(part, int):
            name, at = f"{name}[{part}]", at[part] if isinstance(at, list) and part < len(at) else None
        elif isinstance(at, dict) and part in at:
            name, at = f"{name}.{part}".lstrip("."), at[part]
        elif part == where[-1] and isinstance(at, dict):  # a missing field
            name = f"{name}.{part}".lstrip(".")
    return name
