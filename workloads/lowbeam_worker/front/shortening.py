"""What a tokenizer does not see of a text is left out before its length is judged.

Some tokenizers take any run of blanks for one, and a word beyond a length for one unknown token: a text can then be of
any length and have few tokens. Whether a tokenizer does so is asked of the tokenizer itself, once.
"""

from __future__ import annotations

import re
from typing import Any

CHARACTERS_PER_TOKEN = 64
"""No tokenizer puts more text that it sees into a token on average; longer texts are refused, or cut, unread."""
_READ_AT_ONCE = 65536
_LETTERS = (r"[^\W_\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]", r"[\u0300-\u036f]")
"""Letters and digits of all scripts but Chinese, where each is a word; and accents, which count or are left out."""
_PLAIN_LETTERS = ("[0-9A-Za-z]", r"[^\s\S]")
_SCRIPTS = "a\u00e91\u0416\u03bb\u05d0\u0639\u0905\ud55c\u30ab"
"""Latin, Cyrillic, Greek, Hebrew, Arabic, Devanagari, Hangul and kana."""
_RUNS = (("  one\t\r\n \ntwo \n", " one two "), ("\n\n\none\n", " one\n"))
"""Texts with runs of blanks, and what they are with one blank instead."""


class Shortening:
    """The rules of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.characters_per_token = CHARACTERS_PER_TOKEN
        self._rules: list[tuple[re.Pattern[str], str]] = []
        if all(_ids(tokenizer, run) == _ids(tokenizer, single) for run, single in _RUNS):
            self._rules.append((re.compile(r"[ \t\r\n]{2,}"), " "))
        longest_word = _longest_word(tokenizer)
        if longest_word is not None:
            # A word, one letter that makes it unknown, and the blank after it.
            self.characters_per_token = max(CHARACTERS_PER_TOKEN, longest_word + 2)
            letter, mark = _LETTERS if _is_one_word(tokenizer, longest_word) else _PLAIN_LETTERS
            run = rf"((?:{letter}{mark}*+){{{longest_word + 1}}})(?:{letter}++|{mark}++)++"
            self._rules.append((re.compile(run), r"\1"))

    def __call__(self, text: str, most: int, *, from_left: bool) -> str:
        """The same tokens in fewer characters; of a text that has more than `most` then, `most` + 1 and no more.

        `from_left`: of such a text the end is kept. It is read piece by piece, from the side that is kept, and no
        further than that.
        """
        if len(text) <= most:
            return text
        kept, size = "", max(_READ_AT_ONCE, most)
        starts = range(0, len(text), size)
        for start in reversed(starts) if from_left else starts:
            piece = text[start : start + size]
            kept = self._without_unseen(piece + kept if from_left else kept + piece)
            if len(kept) > most:
                break
        return kept[-most - 1 :] if from_left else kept[: most + 1]

    def _without_unseen(self, text: str) -> str:
        for pattern, instead in self._rules:
            text = pattern.sub(instead, text)
        return text


def _longest_word(tokenizer: Any) -> int | None:
    """Letters of the longest word that is not unknown for its length alone; None: there is no such limit."""
    limit = getattr(tokenizer.backend_tokenizer.model, "max_input_chars_per_word", None)
    if limit is None or len(_ids(tokenizer, "a1" * limit)) != 1:
        return None
    return int(limit)


def _is_one_word(tokenizer: Any, longest_word: int) -> bool:
    """Whether letters of all scripts, with accents, are of one word, and too many of them unknown for their number."""
    return len(_ids(tokenizer, f"{_SCRIPTS}\u0301" * longest_word)) == 1


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
