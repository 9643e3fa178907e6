"""Stars: fixed bands of ours, the relative rule of the AI Energy Score, and what one extreme model does to each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbeam.catalog import load_builtin, official_score, stars
from lowbeam.catalog.comparison import least_millijoules
from lowbeam.catalog.facts import Basis, Catalogue, Model, Reasoning, Source
from lowbeam.catalog.official_stars import equal_width_stars, load_official
from lowbeam.catalog.stars import BANDS, UNRATED
from lowbeam.catalog.tasks import TASKS

# --- ours ------------------------------------------------------------------------------------------------------------


def ratings(catalogue: Catalogue) -> dict[str, int | None]:
    return {p.name: stars(p.task, p.reasoning, least_millijoules(p) or 0, p.basis) for p in catalogue.profiles}


def test_adding_an_extreme_model_changes_no_star_of_ours_and_nearly_all_official_ones() -> None:
    before = load_builtin()
    worst = max(before.profiles, key=lambda p: (p.basis is Basis.PUBLISHED, least_millijoules(p) or 0))
    points = tuple(
        replace(p, requests_per_second_milli=max(place, p.requests_per_second_milli // 1000))
        for place, p in enumerate(worst.points, start=1)
    )
    after = replace(before, profiles=(*before.profiles, replace(worst, name="extreme", points=points)))
    new = ratings(after)
    assert new.pop("extreme") == 1
    assert new == ratings(before)

    rated = [score for score in load_official().scores if score.published_stars is not None]
    extreme = 9_462_000  # Phi-4-reasoning-plus with reasoning, a real row of the round of December 2025
    moved = equal_width_stars([*(score.milliwatt_hours_per_thousand for score in rated), extreme])
    assert moved == [5] * 24 + [1]


def test_published_chat_models_spread_over_all_the_stars() -> None:
    catalogue = load_builtin()
    chat = {
        name: rating
        for name, rating in ratings(catalogue).items()
        if rating is not None and next(p for p in catalogue.profiles if p.name == name).task == "text-generation"
    }
    assert set(chat.values()) == {1, 2, 3, 4, 5}
    assert chat["llama-3.1-8b-instruct-bf16-h100-x1"] == 5
    assert chat["llama-3.1-405b-instruct-fp8-h100-x8"] == 1


def test_a_modelled_figure_is_unrated_however_good() -> None:
    assert stars("text-generation", Reasoning.OFF, 1, Basis.MODELLED) is None
    assert stars("text-generation", Reasoning.OFF, 1, Basis.MEASURED) == 5
    assert all(rating is None for name, rating in ratings(load_builtin()).items() if "-l4-" in name or "-cpu-" in name)


def test_reasoning_is_rated_apart() -> None:
    assert stars("text-generation", Reasoning.OFF, 150_000, Basis.PUBLISHED) == 3
    assert stars("text-generation", Reasoning.LOW, 150_000, Basis.PUBLISHED) == 5


@pytest.mark.parametrize("task", sorted({*TASKS, *UNRATED, *(task for task, _ in BANDS)}))
def test_a_task_has_bands_or_a_reason_for_having_none(task: str) -> None:
    assert ((task, False) in BANDS) is not (task in UNRATED)
    if task in UNRATED:
        assert stars(task, Reasoning.OFF, 1, Basis.MEASURED) is None
    else:
        assert "(" in BANDS[task, False].because, "names its source"


@given(st.sampled_from(sorted(BANDS)), st.integers(0, 10**9), st.integers(0, 10**9))
def test_fewer_joules_never_earn_fewer_stars(key: tuple[str, bool], one: int, other: int) -> None:
    task, thinks = key
    reasoning = Reasoning.HIGH if thinks else Reasoning.OFF
    few, many = sorted((one, other))
    better, worse = (stars(task, reasoning, joules, Basis.PUBLISHED) for joules in (few, many))
    assert better is not None
    assert worse is not None
    assert 5 >= better >= worse >= 1


@pytest.mark.parametrize("key", sorted(BANDS))
def test_each_band_starts_where_the_one_before_ends(key: tuple[str, bool]) -> None:
    task, thinks = key
    reasoning = Reasoning.HIGH if thinks else Reasoning.OFF
    assert len(BANDS[key].edges) == 4
    for rating, edge in zip(range(5, 1, -1), BANDS[key].edges, strict=True):
        assert stars(task, reasoning, edge, Basis.MEASURED) == rating
        assert stars(task, reasoning, edge + 1, Basis.MEASURED) == rating - 1


# --- the official ones -----------------------------------------------------------------------------------------------


def test_the_official_rule_gives_every_published_star() -> None:
    rated = [score for score in load_official().scores if score.published_stars is not None]
    assert len(rated) == 24
    assert {(score.task, score.size_class) for score in rated} == {("text-generation", "A")}
    assert equal_width_stars([s.milliwatt_hours_per_thousand for s in rated]) == [s.published_stars for s in rated]


def test_the_official_rule_of_one_model_or_of_equals_is_five_stars() -> None:
    assert equal_width_stars([]) == []
    assert equal_width_stars([7]) == [5]
    assert equal_width_stars([7, 7, 7]) == [5, 5, 5]


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=30))
def test_the_official_rule_gives_the_least_five_stars_and_the_most_one(energies: list[int]) -> None:
    given_stars = equal_width_stars(energies)
    assert given_stars[energies.index(min(energies))] == 5
    if min(energies) != max(energies):
        assert given_stars[energies.index(max(energies))] == 1
    assert set(given_stars) <= {1, 2, 3, 4, 5}


def model(path: str) -> Model:
    return Model("m", ("text-generation",), "mit", 1, 1, 1, True, (), Source("s", "2026"), path)


def test_an_official_score_belongs_to_exactly_the_published_checkpoint_task_and_mode() -> None:
    found = official_score(model("microsoft/phi-4"), "text-generation", Reasoning.OFF)
    assert found is not None
    assert (found.published_stars, found.milliwatt_hours_per_thousand) == (1, 28_741)
    assert official_score(model("microsoft/phi-4"), "text-generation", Reasoning.HIGH) is None
    assert official_score(model("microsoft/phi-4"), "code-completion", Reasoning.OFF) is None
    assert official_score(model("microsoft/phi-4-mini"), "text-generation", Reasoning.OFF) is None


def test_a_disputed_or_second_hand_official_figure_does_not_ship() -> None:
    paths = {score.model_path for score in load_official().scores}
    assert "deepseek-ai/DeepSeek-R1-Distill-Llama-70B" not in paths
    assert "openai/gpt-oss-120b" not in paths
    assert "openai/whisper-large-v3" in paths
