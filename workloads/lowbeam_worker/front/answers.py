"""The task question-answering: which part of a text answers a question.

transformers dropped its pipeline for this task in version 5. Inputs, parameters and answers here are those of its last
one (4.57), with which the tests compare: a long text is read in pieces that overlap; an answer's score is the product
of the probabilities that it begins and ends where it does; answers with the same words are one, their scores added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from lowbeam_worker.engines.encoder import Vector
from lowbeam_worker.front.encoding import RowRunner, json_answer
from lowbeam_worker.front.reading import read_body
from lowbeam_worker.front.task_bodies import AnswerBody, AnswerParameters, Question
from lowbeam_worker.options import Task
from lowbeam_worker.refusal import invalid
from lowbeam_worker.rows import TokenRow, encoded_rows

_PIECE_TOKENS = 384
_OVERLAP_TOKENS = 128
"""The pipeline's defaults: the lengths that models are trained with for SQuAD."""
_OUTSIDE = -10000.0


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a text, with the question in front."""

    row: TokenRow
    encoding: Any
    allowed: NDArray[np.bool_]
    """Tokens that an answer may have: the text's own, and the first, which stands for 'no answer'."""


class AnswerService:
    """Finds answers in texts."""

    def __init__(self, runner: RowRunner) -> None:
        self._runner = runner
        self.warm_up = runner.warm_up
        self.max_tokens = runner.max_tokens
        self.routes = {f"/v1/tasks/{Task.QUESTION_ANSWERING}": self.answer}

    def model_type(self) -> dict[str, Any]:
        """Not one of TEI's; in the same place."""
        return {"question_answering": {}}

    async def answer(self, request: Request) -> Response:
        """As transformers 4's question-answering pipeline."""
        account = self._runner.account()
        body = await read_body(request, AnswerBody)
        self._runner.check_model(body.model)
        wish, questions = body.parameters, body.inputs if isinstance(body.inputs, list) else [body.inputs]
        self._runner.check_count(len(questions), "inputs")
        pieces = await self._runner.in_pool(lambda: self._pieces(questions, wish))
        rows = [piece.row for own in pieces for piece in own]
        logits = await self._runner.run(rows, account)
        usage = self._runner.usage(account, rows)

        def compose() -> list[Any]:
            at = iter(logits)
            return [
                best_answers([(piece, next(at)[: len(piece.row)]) for piece in own], question.context, wish)
                for own, question in zip(pieces, questions, strict=True)
            ]

        answers = await self._runner.in_pool(compose)
        return json_answer(answers if isinstance(body.inputs, list) else answers[0], usage)

    def _pieces(self, questions: Sequence[Question], wish: AnswerParameters) -> list[list[_Piece]]:
        length = min(wish.max_seq_len or _PIECE_TOKENS, self._runner.max_tokens)
        if wish.max_seq_len is not None and wish.max_seq_len > self._runner.max_tokens:
            raise invalid(
                f"max_seq_len is above {self._runner.max_tokens}, this model's length.", "parameters.max_seq_len"
            )
        overlap = min(length // 2, _OVERLAP_TOKENS) if wish.doc_stride is None else wish.doc_stride
        count = 0
        for index, question in enumerate(questions):
            room = self._room(question, index, length, overlap)
            count = self._runner.count_pieces(count, question.context, room, overlap, "inputs")
        return [self._pieces_of(question, index, length, overlap) for index, question in enumerate(questions)]

    def _room(self, question: Question, index: int, length: int, overlap: int) -> int:
        """Tokens that the question leaves for the text in a piece of this length."""
        tokenizer = self._runner.tokenizer
        self._runner.check_text(question.question, index, "inputs")
        asked = len(tokenizer(question.question, add_special_tokens=False, verbose=False)["input_ids"])
        room = length - asked - int(tokenizer.num_special_tokens_to_add(pair=True))
        if overlap >= room:
            raise invalid(
                f"Question {index} has {asked} tokens: in pieces of {length} tokens they leave {max(room, 0)} for the "
                f"text, which must be more than the overlap (doc_stride) of {overlap}.",
                "inputs",
                "context_length_exceeded",
            )
        return room

    def _pieces_of(self, question: Question, index: int, length: int, overlap: int) -> list[_Piece]:
        tokenizer = self._runner.tokenizer
        encoded = tokenizer(
            [question.question],
            [question.context],
            truncation="only_second",
            max_length=length,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding_side="right",
            verbose=False,
        )
        pieces = []
        for number, row in enumerate(encoded_rows(encoded)):
            allowed = np.array([part == 1 for part in encoded.sequence_ids(number)])
            if tokenizer.cls_token_id is not None:
                allowed |= np.array(row.ids) == tokenizer.cls_token_id
            pieces.append(_Piece(self._runner.checked_ids(row, index, "inputs"), encoded[number], allowed))
        return pieces


def best_answers(pieces: Sequence[tuple[_Piece, Vector]], context: str, wish: AnswerParameters) -> Any:
    """One answer, or a list of them where several are asked for and found."""
    answers: list[dict[str, Any]] = []
    nothing = np.inf
    # Candidates that mean the same words fall together, so more are looked at than asked for.
    candidates = wish.top_k * 2 + 10 if wish.align_to_words else wish.top_k
    for piece, logits in pieces:
        starts = _probabilities(logits[:, 0], piece.allowed)
        ends = _probabilities(logits[:, 1], piece.allowed)
        nothing = min(nothing, float(starts[0] * ends[0]))
        starts[0] = ends[0] = 0.0
        for start, end, score in _spans(starts, ends, piece.allowed, candidates, wish.max_answer_len):
            begins, stops = _characters(piece.encoding, start, end, to_words=wish.align_to_words)
            text = context[begins:stops]
            same = next((known for known in answers if known["answer"].lower() == text.lower()), None)
            if same is not None:
                same["score"] += score
            else:
                answers.append({"score": score, "start": begins, "end": stops, "answer": text})
    if wish.handle_impossible_answer:
        answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
    best = sorted(answers, key=lambda one: -one["score"])[: wish.top_k]
    return best[0] if len(best) == 1 else best


def _probabilities(logits: Vector, allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
    values = np.where(allowed, logits.astype(np.float64), _OUTSIDE)
    raised = np.exp(values - values.max())
    return np.asarray(raised / raised.sum())


def _spans(
    starts: NDArray[np.float64], ends: NDArray[np.float64], allowed: NDArray[np.bool_], most: int, longest: int
) -> list[tuple[int, int, float]]:
    """The most likely (first token, last token, probability)."""
    likely = np.tril(np.triu(np.outer(starts, ends)), longest - 1)
    order = np.argsort(-likely, axis=None, kind="stable")[:most]
    first, last = np.unravel_index(order, likely.shape)
    return [
        (int(start), int(end), float(likely[start, end]))
        for start, end in zip(first, last, strict=True)
        if allowed[start] and allowed[end]
    ]


def _characters(encoding: Any, start: int, end: int, *, to_words: bool) -> tuple[int, int]:
    if to_words:
        words = encoding.token_to_word(start), encoding.token_to_word(end)
        if None not in words:  # not every tokenizer knows words
            return encoding.word_to_chars(words[0], 1)[0], encoding.word_to_chars(words[1], 1)[1]
    return encoding.offsets[start][0], encoding.offsets[end][1]
