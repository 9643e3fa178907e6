"""From tokens to text as they come: whole characters only, and nothing of a stop sequence ever gets out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"


class TextStream:
    """Text of one answer. `stopped` turns True when a stop sequence was met; the text ends before it.

    `whole`: nobody reads before the end, and there are no stop sequences: the tokens are decoded once, by `finish`.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), *, whole: bool = False) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._whole = whole
        self._ids: list[int] = []
        self._shown_from = 0
        """Decoding starts here, a little before the new tokens: some tokens' text depends on the one before."""
        self._shown_to = 0
        self._held = ""
        """Text that may be the beginning of a stop sequence."""
        self.stopped = False

    @property
    def holds(self) -> bool:
        """True while some of the tokens' text has not come out."""
        return bool(self._held) or self._shown_to < len(self._ids)

    def push(self, ids: Sequence[int]) -> str:
        """The text that these tokens make certain."""
        if self.stopped:
            return ""
        self._ids.extend(ids)
        if self._whole:
            return ""
        before = self._decode(self._ids[self._shown_from : self._shown_to])
        now = self._decode(self._ids[self._shown_from :])
        if now.endswith(_BROKEN) or len(now) <= len(before):
            return ""  # in the middle of a character, or a token without text
        self._shown_from, self._shown_to = self._shown_to, len(self._ids)
        return self._release(now[len(before) :])

    def finish(self) -> str:
        """What was held back: the answer is over."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._shown_from : self._shown_to])
        rest = self._release(self._decode(self._ids[self._shown_from :])[len(before) :])
        if self.stopped:
            return rest
        held, self._held = self._held, ""
        return rest + held

    def _release(self, text: str) -> str:
        text = self._held + text
        found = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""


class TokenTexts:
    """The text of each token of one answer, in their order: those of the tokens that are shown join to its text.

    Tokenizers of SentencePiece's kind drop the space before the first word of whatever they decode. So a token's text
    is what it adds to the one that was shown before it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []
        self._text_before = ""

    def of(self, token: int) -> str:
        """Text of a token that might come next."""
        both = self._decode([*self._before, token])
        if len(both) > len(self._text_before) and both.startswith(self._text_before):
            return both[len(self._text_before) :]
        return self._decode([token])  # a part of a character, or without text

    def take(self, token: int) -> tuple[str, bool]:
        """Text of the token that comes next, and whether answers show it: special tokens are left out of them."""
        text = self.of(token)
        if self._decode([token]) and not self._decode([token], skip_special_tokens=True):
            return text, False
        self._before, self._text_before = [token], self._decode([token])
        return text, True

    def _decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
