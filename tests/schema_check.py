"""A value against the structural schema of a CRD, as the API server judges it, for statuses that are written whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
}


def objections(schema: Mapping[str, Any], value: Any, at: str = "status") -> Iterator[str]:
    """What the API server would refuse; and fields that it would drop."""
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        yield f"{at}: {value!r} is no {kind}"
        return
    match value:
        case dict():
            yield from (f"{at}.{name} is missing" for name in schema.get("required", ()) if name not in value)
            for name, item in value.items():
                known = schema.get("properties", {}).get(name)
                yield from [f"{at}.{name} is no field"] if known is None else objections(known, item, f"{at}.{name}")
        case list():
            if len(value) > schema["maxItems"]:
                yield f"{at}: {len(value)} items, at most {schema['maxItems']}"
            for index, item in enumerate(value):
                yield from objections(schema["items"], item, f"{at}[{index}]")
        case str():
            yield from _of_text(schema, value, at)
        case int():
            if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
                yield f"{at}: {value} is not within {schema.get('minimum')} to {schema.get('maximum')}"


def _of_text(schema: Mapping[str, Any], value: str, at: str) -> Iterator[str]:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{at}: {len(value)} characters, at most {schema.get('maxLength')}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{at}: {value!r} does not have the form {schema['pattern']}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if schema.get("format") == "date-time":
        datetime.fromisoformat(value)
