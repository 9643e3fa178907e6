"""A text that is shortened becomes the same tokens, whatever its tokenizer sees of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbeam_worker.front.shortening import Shortening
from lowbeam_worker.random_llama import make_random_llama
from tests.worker.tiny import tokenizer

WORDS: Any = tokenizer()
BYTES: Any = make_random_llama(torch.float32)[1]
RUNS = st.builds(
    lambda one, times: one * times,
    st.sampled_from([" ", "\n\t", "a", "7", "\u00e9", ".", "\u4e2d", "cat ", "\u0301"]),
    st.integers(1, 90),
)


@pytest.mark.parametrize("words", [WORDS, BYTES])
@settings(deadline=None)
@given(text=st.lists(RUNS, max_size=12).map("".join), from_left=st.booleans())
def test_the_tokens_are_the_same(words: Any, text: str, from_left: bool) -> None:
    shorten = Shortening(words)
    most = len(shorten._without_unseen(text))
    assert words(shorten(text, most, from_left=from_left))["input_ids"] == words(text)["input_ids"]


@pytest.mark.parametrize("from_left", [False, True])
def test_one_character_too_many_is_all_that_is_kept_of_a_text_that_is_too_long(from_left: bool) -> None:
    text = "cat dog " * 40_000
    kept = Shortening(WORDS)(text, 1000, from_left=from_left)
    assert kept == (text[-1001:] if from_left else text[:1001])


def test_a_tokenizer_that_sees_blanks_keeps_them() -> None:
    text = "a" * 200 + " " * 200
    assert Shortening(BYTES)(text, 300, from_left=False) == text[:301]
    assert len(Shortening(WORDS)(text, 300, from_left=False)) < 100
