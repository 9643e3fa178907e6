"""One write settles: after applying any body over any other, nothing differs and nothing of the old body is left."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lowbeam.kube import DEPLOYMENTS, Applier, KubeObject, subset_equal
from tests.fakes.transport import FakeTransport

SCALARS = st.one_of(st.integers(1, 5), st.sampled_from(["x", "y", "1", "1000m"]), st.just(True))
ENV = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("abc")}, optional={"value": SCALARS}),
    min_size=1,
    max_size=3,
    unique_by=lambda item: item["name"],
)
FIELDS = st.fixed_dictionaries(
    {"replicas": st.integers(1, 3)},
    optional={
        "env": ENV,
        "args": st.lists(SCALARS, min_size=1, max_size=3),
        "limits": st.dictionaries(st.sampled_from(["cpu", "memory"]), st.sampled_from(["1", "1000m", "2"]), min_size=1),
        "template": st.dictionaries(st.sampled_from(["a", "b"]), SCALARS, min_size=1),
    },
)


def body(spec: dict[str, Any]) -> KubeObject:
    return {"metadata": {"name": "d", "namespace": "a"}, "spec": spec}


@settings(max_examples=200, deadline=None)
@example(  # a number and a truth that Python takes for equal
    first={"replicas": 1},
    second={"replicas": 1, "env": [{"name": "a"}], "template": {"a": True}},
    others={"replicas": 1, "env": [{"name": "a"}], "template": {"a": 1}},
)
@example(  # several of them, so that the whole is equal too
    first={"replicas": 1, "template": {"a": 1, "b": True}},
    second={"replicas": 1, "template": {"a": True, "b": 1}},
    others={"replicas": 1},
)
@given(first=FIELDS, second=FIELDS, others=FIELDS)
def test_a_second_body_replaces_the_first_in_one_write_and_leaves_others_alone(
    first: dict[str, Any], second: dict[str, Any], others: dict[str, Any]
) -> None:
    async def scenario() -> None:
        server = FakeTransport()
        applier = Applier(server)
        live = await applier.apply(DEPLOYMENTS, body(first), None)
        assert live is not None
        assert await applier.apply(DEPLOYMENTS, body(first), live) is None
        changed = await applier.apply(DEPLOYMENTS, body(second), live)
        if changed is None:
            assert subset_equal(second, first), "no write only when the same thing was said"
            assert subset_equal(first, second)
        settled = changed or live
        assert subset_equal(second, settled["spec"])
        if changed is not None:
            assert set(settled["spec"]) == set(second)
        theirs = {"template": {**others.get("template", {}), "theirs": 1}}
        live = await server.apply(DEPLOYMENTS, body(theirs), field_manager="somebody")
        settled = await applier.apply(DEPLOYMENTS, body(second), live) or live
        assert settled["spec"]["template"]["theirs"] == 1
        assert await applier.apply(DEPLOYMENTS, body(second), settled) is None

    asyncio.run(scenario())
