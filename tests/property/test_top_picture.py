"""`lowbeam top` draws whatever the CRDs accept, in any window: never too wide, never too long, nothing uncounted."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.cli.top.rows import SORTS, cap_data, cap_rows, workload_data, workload_rows
from lowbeam.cli.top.table import cells
from lowbeam.cli.top.view import Frame, Picture, lines

CRDS = Path(__file__).resolve().parents[2] / "crds"
NOW = datetime(2026, 11, 22, 17, 42, 10, tzinfo=UTC)
UNSEEN = {"alternatives", "recommendations", "measuredProfiles", "load", "pod", "placement", "quality", "latency"}
"""Large parts that top never looks at."""


def schema_of(kind: str) -> dict[str, Any]:
    (version,) = yaml.safe_load((CRDS / f"lowbeam.dev_{kind}.yaml").read_text())["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def accepted(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What a schema accepts; any field that is not required may be missing."""
    match schema.get("type"):
        case "object" if "properties" in schema:
            fields = {name: accepted(it) for name, it in schema["properties"].items() if name not in UNSEEN}
            required = set(schema.get("required", ())) & fields.keys()
            return st.fixed_dictionaries(
                {name: it for name, it in fields.items() if name in required},
                optional={name: it for name, it in fields.items() if name not in required},
            )
        case "array":
            return st.lists(accepted(schema["items"]), max_size=min(3, schema.get("maxItems", 3)))
        case "integer":
            return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
        case "boolean":
            return st.booleans()
        case "string" if "enum" in schema:
            return st.sampled_from(schema["enum"])
        case "string" if schema.get("format") == "date-time":
            return st.datetimes(min_value=datetime(1, 1, 1), timezones=st.just(UTC)).map(
                lambda it: it.isoformat().replace("+00:00", "Z")
            )
        case "string" if "pattern" in schema:
            return st.from_regex(re.compile(schema["pattern"], re.ASCII), fullmatch=True)
        case "string":
            return st.text(max_size=min(60, schema.get("maxLength", 60)))
    return st.just({})


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?", fullmatch=True)


def objects(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    body = {name: it for name, it in schema_of(kind)["properties"].items() if name in ("spec", "status")}
    metadata = st.fixed_dictionaries(
        {"name": NAMES, "namespace": NAMES}, optional={"generation": st.integers(1, 2**63 - 1)}
    )
    return st.tuples(metadata, accepted({"type": "object", "properties": body})).map(
        lambda it: {"metadata": it[0], **it[1]}
    )


def unlike(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({(it["metadata"]["namespace"], it["metadata"]["name"]): it for it in found}.values())


CAPS = st.lists(objects("powercaps"), max_size=5, unique_by=lambda it: it["metadata"]["name"])
WORKLOADS = st.lists(objects("inferenceworkloads"), max_size=6).map(unlike)
FRAMES = st.builds(
    Frame,
    st.just(NOW),
    st.integers(1, 220),
    st.none() | st.integers(1, 60),
    st.none() | st.integers(0, 8),
    st.booleans(),
    st.sampled_from(["", "q: quit"]),
)


PICTURES = st.builds(
    Picture,
    CAPS.map(cap_rows),
    st.tuples(WORKLOADS, st.sampled_from(SORTS)).map(lambda it: workload_rows(*it)),
    st.none() | NAMES,
    st.text(max_size=90),
    st.text(max_size=90),
)


@given(PICTURES, FRAMES)
def test_any_accepted_object_is_drawn_within_the_window(picture: Picture, frame: Frame) -> None:
    drawn = [line.plain for line in lines(picture, frame)]
    assert all(cells(line) <= frame.width for line in drawn)
    assert frame.height is None or len(drawn) <= frame.height
    letters = "".join(drawn)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", letters), "no message moves the cursor"
    assert frame.unicode or letters.isascii()
    assert orjson.dumps([*map(cap_data, picture.caps), *map(workload_data, picture.workloads)])


@given(CAPS, st.lists(NAMES, min_size=1, max_size=40, unique=True), st.integers(40, 200), st.integers(12, 60))
def test_what_does_not_fit_is_counted(caps: list[dict[str, Any]], names: list[str], width: int, height: int) -> None:
    workloads = [{"metadata": {"namespace": "n", "name": name}, "spec": {}} for name in names]
    picture = Picture(cap_rows(caps), workload_rows(workloads, "name"), "n")
    drawn = [line.plain for line in lines(picture, Frame(NOW, width, height))]
    start = next(i for i, line in enumerate(drawn) if line.startswith("WORKLOAD"))
    rows = [line for line in drawn[start + 1 :] if line.strip() and not line.startswith(("...", "█"))]
    shown = [line for line in rows if not line.startswith("~ modelled")]
    counted = next((int(m[1]) for line in drawn if (m := re.match(r"\.\.\. and (\d+) more workload", line))), 0)
    assert len(shown) + counted == len(names)


@given(WORKLOADS)
def test_no_watts_are_shown_that_no_meter_gave(workloads: list[dict[str, Any]]) -> None:
    for row in workload_rows(workloads):
        (raw,) = [
            it for it in workloads if (it["metadata"]["namespace"], it["metadata"]["name"]) == (row.namespace, row.name)
        ]
        assert row.measured_watts == raw.get("status", {}).get("energy", {}).get("measuredWatts")
