"""The JSON around an answer of a decoder: OpenAI's chat completions and completions differ in little else."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowbeam_worker.engines.sampling import TokenLogprobs
from lowbeam_worker.front.text import TokenTexts
from lowbeam_worker.worker import Usage

_BROKEN = "\ufffd"


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is certain, and the tokens that made it, where they were asked for."""

    text: str
    logprobs: Sequence[TokenLogprobs] = ()


class Shape:
    """One answer's frame: the same id and time in all of its events."""

    prefix = ""
    whole_object = ""
    piece_object = ""

    def __init__(self, model: str, tokenizer: Any, *, with_logprobs: bool) -> None:
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = model
        self._texts = TokenTexts(tokenizer)
        self._with_logprobs = with_logprobs

    def frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """One event of a stream."""
        return self._frame(self.piece_object, choices)

    def first(self) -> dict[str, Any] | None:
        """The event before any text."""
        return None

    def piece(self, piece: Piece) -> dict[str, Any]:
        """An event with text."""
        raise NotImplementedError

    def last(self, finish_reason: str) -> dict[str, Any]:
        """The event that says why it ends."""
        raise NotImplementedError

    def whole(self, piece: Piece, finish_reason: str) -> dict[str, Any]:
        """The answer in one piece."""
        raise NotImplementedError

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}


class ChatShape(Shape):
    """Of /v1/chat/completions."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def first(self) -> dict[str, Any]:
        """The event that says whose turn it is."""
        return self._delta({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> dict[str, Any]:
        """An event with text."""
        return self._delta({"content": piece.text}, logprobs=self._logprobs(piece.logprobs))

    def last(self, finish_reason: str) -> dict[str, Any]:
        """The event that says why it ends."""
        return self._delta({}, finish_reason)

    def whole(self, piece: Piece, finish_reason: str) -> dict[str, Any]:
        """The answer in one piece."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": piece.text},
            "logprobs": self._logprobs(piece.logprobs),
            "finish_reason": finish_reason,
        }
        return self._frame(self.whole_object, [choice])

    def _delta(
        self, delta: dict[str, str], finish_reason: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return self.frame([{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}])

    def _logprobs(self, tokens: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        content = []
        for one in tokens:
            others = [_entry(self._texts.of(token), logprob) for token, logprob in one.top]
            text, _ = self._texts.take(one.token)
            content.append(_entry(text, one.logprob) | {"top_logprobs": others})
        return {"content": content, "refusal": None}


class CompletionShape(Shape):
    """Of /v1/completions."""

    prefix = "cmpl"
    whole_object = piece_object = "text_completion"

    def __init__(self, model: str, tokenizer: Any, *, with_logprobs: bool) -> None:
        super().__init__(model, tokenizer, with_logprobs=with_logprobs)
        self._offset = 0

    def piece(self, piece: Piece) -> dict[str, Any]:
        """An event with text."""
        return self._choice(piece, None)

    def last(self, finish_reason: str) -> dict[str, Any]:
        """The event that says why it ends."""
        return self._choice(Piece(""), finish_reason)

    def whole(self, piece: Piece, finish_reason: str) -> dict[str, Any]:
        """The answer in one piece."""
        return self._choice(piece, finish_reason)

    def _choice(self, piece: Piece, finish_reason: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(piece.logprobs)
        return self.frame([{"index": 0, "text": piece.text, "logprobs": logprobs, "finish_reason": finish_reason}])

    def _logprobs(self, tokens: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        texts: list[str] = []
        offsets: list[int] = []
        tops: list[dict[str, float]] = []
        for one in tokens:
            others = {self._texts.of(token): logprob for token, logprob in one.top}
            text, is_shown = self._texts.take(one.token)
            texts.append(text)
            # OpenAI's "up to logprobs + 1": the token that was chosen is always among them.
            tops.append(others | {text: one.logprob})
            offsets.append(self._offset)
            self._offset += len(text) if is_shown else 0
        return {
            "tokens": texts,
            "token_logprobs": [one.logprob for one in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def _entry(text: str, logprob: float) -> dict[str, Any]:
    # A token may be a part of a character, and then its text is not its bytes.
    known = None if _BROKEN in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": known}


def token_counts(read: int, written: int) -> dict[str, int]:
    """What OpenAI's usage says about tokens."""
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def usage_body(usage: Usage, thinking_tokens: int | None) -> dict[str, Any]:
    """OpenAI's usage, with the joules; thinking is told apart where the model has it."""
    details = {} if thinking_tokens is None else {"completion_tokens_details": {"reasoning_tokens": thinking_tokens}}
    return {**token_counts(usage.input_tokens, usage.output_tokens), **details, "energy": usage.energy}
