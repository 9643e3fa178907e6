"""A text that is shortened becomes the same tokens, whatever its tokenizer sees of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lowbeam_worker.front.shortening import Shortening
from lowbeam_worker.random_llama import make_random_llama
from tests.worker.tiny import tokenizer

LETTERS = (
    "a",
    "7",
    "\u00e9",
    "\u0436",
    "\u0439",
    "\u03bb",
    "\u05d0",
    "\u0639",
    "\u0905",
    "\ud55c",
    "\u30ab",
    "\u0438\u0306",
)
"""Latin with an accent, Cyrillic, Greek, Hebrew, Arabic, Devanagari, Hangul, kana, and an accent that follows."""


def spelling(*, bare: bool) -> Any:
    """Knows each letter, so that a word is unknown for its length alone; `bare`: in small letters without accents."""
    normalizer = normalizers.BertNormalizer(lowercase=bare, strip_accents=bare)
    known = (*LETTERS, "\u4e2d", "\u0301", "._cat")
    signs = sorted({sign for letter in known for sign in normalizer.normalize_str(letter)})
    pieces = ["[UNK]", *signs, *(f"##{sign}" for sign in signs)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=50))
    inner.normalizer, inner.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


WORDS: Any = tokenizer()
BYTES: Any = make_random_llama(torch.float32)[1]
RUNS = st.builds(
    lambda one, times: one * times,
    st.sampled_from([" ", "\n\t", ".", "_", "\u4e2d", "cat ", "\u0301", *LETTERS]),
    st.integers(1, 250),
)
ANY_LETTERS = st.text(st.characters(categories=["L", "M", "N", "P", "Z", "Cf"]), min_size=90, max_size=400)


@pytest.mark.parametrize("words", [WORDS, BYTES, spelling(bare=True), spelling(bare=False)])
@settings(deadline=None)
@given(text=st.lists(RUNS | ANY_LETTERS, max_size=12).map("".join), from_left=st.booleans())
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


@pytest.mark.parametrize("letters", LETTERS)
def test_a_word_that_is_too_long_to_be_known_is_one_token_in_every_script(letters: str) -> None:
    text = f"cat {letters * 40_000} dog"
    assert len(Shortening(WORDS)(text, 1000, from_left=False)) < 300


def test_chinese_is_a_word_for_each_sign() -> None:
    text = "\u4e2d" * 4000
    assert Shortening(WORDS)(text, 1000, from_left=False) == text[:1001]
