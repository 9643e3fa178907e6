"""The task token-classification: which word is what.

The answer is made by transformers' own pipeline, from the figures of our engine. A text that is longer than the model
is refused, unless the client asks for overlapping pieces (`stride`).
"""

from __future__ import annotations

from typing import Any

import orjson
import torch
from starlette.requests import Request
from starlette.responses import Response
from transformers import TokenClassificationPipeline

from lowbeam_worker.engines.encoder import Vector
from lowbeam_worker.front.encoding import RowRunner, json_answer
from lowbeam_worker.front.reading import read_body
from lowbeam_worker.front.task_bodies import TokenBody
from lowbeam_worker.models import Loaded
from lowbeam_worker.options import Task
from lowbeam_worker.refusal import invalid
from lowbeam_worker.rows import TokenRow, encoded_rows


class TokenService:
    """Labels the words of a text."""

    def __init__(self, runner: RowRunner, loaded: Loaded) -> None:
        self._runner = runner
        self._pipeline: Any = TokenClassificationPipeline(
            model=loaded.model, tokenizer=loaded.tokenizer, device=loaded.device
        )
        self.warm_up = runner.warm_up
        self.max_tokens = runner.max_tokens
        self.routes = {f"/v1/tasks/{Task.TOKEN_CLASSIFICATION}": self.classify}

    def model_type(self) -> dict[str, Any]:
        """Not one of TEI's; in the same place."""
        return {"token_classifier": {"id2label": {str(k): v for k, v in self._pipeline.model.config.id2label.items()}}}

    async def classify(self, request: Request) -> Response:
        """As transformers' token-classification pipeline."""
        account = self._runner.account()
        body = await read_body(request, TokenBody)
        self._runner.check_model(body.model)
        wish, texts = body.parameters, body.inputs if isinstance(body.inputs, list) else [body.inputs]
        self._runner.check_count(len(texts), "inputs")
        if wish.stride is not None:
            await self._check_stride(wish.stride, wish.aggregation_strategy, texts)
        pieces = [await self._pieces(text, index, wish.stride) for index, text in enumerate(texts)]
        rows = [row for rows, _ in pieces for row in rows]
        logits = await self._runner.run(rows, account)
        usage = self._runner.usage(account, rows)
        _, _, finish = self._pipeline._sanitize_parameters(
            aggregation_strategy=wish.aggregation_strategy, ignore_labels=wish.ignore_labels
        )

        def compose() -> list[Any]:
            at, answers = iter(logits), []
            for (own, encoded), text in zip(pieces, texts, strict=True):
                outputs = [_piece(encoded, n, next(at)[: len(row)], text) for n, row in enumerate(own)]
                answers.append(self._pipeline.postprocess(outputs, **finish))
            return answers

        # Scores and offsets come as scalars of numpy, which only `default` can write.
        answers = orjson.loads(orjson.dumps(await self._runner.in_pool(compose), default=lambda scalar: scalar.item()))
        return json_answer(answers if isinstance(body.inputs, list) else answers[0], usage)

    async def _check_stride(self, stride: int, strategy: str, texts: list[str]) -> None:
        if strategy == "none":
            raise invalid("stride needs an aggregation_strategy other than 'none'.", "parameters.stride")
        room = self._runner.max_tokens - self._runner.tokenizer.num_special_tokens_to_add()
        if stride >= room:
            raise invalid(f"stride {stride} must be below {room}, the text tokens of one piece.", "parameters.stride")

        def count() -> None:
            pieces = 0
            for text in texts:
                pieces = self._runner.count_pieces(pieces, text, room, stride, "inputs")

        await self._runner.in_pool(count)

    async def _pieces(self, text: str, index: int, stride: int | None) -> tuple[list[TokenRow], Any]:
        # With a stride the whole text is read; how much of it there may be was counted.
        await self._runner.in_pool(lambda: self._runner.check_text(text, index, "inputs", truncate=stride is not None))
        more = {} if stride is None else {"return_overflowing_tokens": True, "stride": stride}
        encoded = await self._runner.in_pool(
            lambda: self._runner.tokenizer(
                [text],
                truncation=stride is not None,
                max_length=None if stride is None else self._runner.max_tokens,
                return_special_tokens_mask=True,
                return_offsets_mapping=True,
                verbose=False,
                **more,
            )
        )
        rows = encoded_rows(encoded)
        for row in rows:
            self._runner.checked_ids(row, index, "inputs")
        return rows, encoded


def _piece(encoded: Any, number: int, logits: Vector, text: str) -> dict[str, Any]:
    """What the pipeline's own forward would have given for one piece of a text."""
    return {
        "logits": torch.from_numpy(logits)[None],
        "input_ids": torch.tensor([encoded["input_ids"][number]]),
        "offset_mapping": torch.tensor([encoded["offset_mapping"][number]]),
        "special_tokens_mask": torch.tensor([encoded["special_tokens_mask"][number]]),
        "sentence": text,
        "word_ids": None,
        "word_to_chars_map": None,
    }
