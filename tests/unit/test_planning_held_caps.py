"""Caps that hold everybody at the least, because they are below it."""

from __future__ import annotations

import pytest

from lowbeam.planning import plan
from tests.builders import cap, catalogue_of, model, snapshot, stock, workload


@pytest.mark.parametrize("pause_lowest", [True, False])
def test_who_could_go_elsewhere_stays_under_a_cap_that_is_too_small_where_there_is_no_room_elsewhere(
    pause_lowest: bool,
) -> None:
    catalogue = catalogue_of(
        model("big").quality("90").on("gpu", watts=900, rate=1000),
        model("small").quality("80").on("gpu", watts=500, rate=1000).on("other", watts=500, rate=1000),
    )
    fleet = [
        workload("low").priority(100).floor("90"),
        workload("high").priority(900).only(accelerator_classes=("gpu", "other"), pinned_model="small"),
        workload("keeper").priority(950).only(pinned_model="small", accelerator_classes=("other",)),
    ]
    boards = (*stock("a", gpu=4), *stock("b", other=1))
    made = plan(snapshot(fleet, catalogue, boards, cap("a", 850, pool="a", pause_lowest=pause_lowest)))
    assert {choice.name: choice.option is not None for choice in made.choices} == {
        "low": False,
        "high": True,
        "keeper": True,
    }
