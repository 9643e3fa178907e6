"""The task summarization: encoder-decoder models such as BART and T5.

transformers dropped its pipeline for this task in version 5. Inputs, parameters and answers here are those of its last
one (4.57), with which the tests compare. Texts with the same parameters are written in one batch; a text that is being
written is not interrupted when its client leaves, one that waits is dropped.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lowbeam_worker.front.encoding import RowRunner, json_answer
from lowbeam_worker.front.reading import read_body
from lowbeam_worker.front.task_bodies import SummaryBody, SummaryParameters
from lowbeam_worker.models import Loaded
from lowbeam_worker.options import Task
from lowbeam_worker.refusal import invalid
from lowbeam_worker.rows import TokenRow

_PIPELINE_TOKENS = 256
_PIPELINE_BEAMS = 4
"""What the pipeline takes where neither client nor model says anything."""


class SummaryService:
    """Writes summaries."""

    def __init__(self, runner: RowRunner, loaded: Loaded) -> None:
        self._runner = runner
        self._config = loaded.model.generation_config
        self._pad = loaded.tokenizer.pad_token_id or 0
        # The first id of an answer takes a position and is given, not written.
        self._most_written = None if loaded.positions is None else loaded.positions - 1
        self._usual_written = self._models_own_tokens()
        # Every call says its own length; with the model's beside it transformers warns each time.
        self._config.max_length = None
        task = (getattr(loaded.model.config, "task_specific_params", None) or {}).get("summarization", {})
        self._prefix = str(task.get("prefix") or getattr(loaded.model.config, "prefix", None) or "")
        self.max_tokens = runner.max_tokens
        self.routes = {f"/v1/tasks/{Task.SUMMARIZATION}": self.summarise}

    def model_type(self) -> dict[str, Any]:
        """Not one of TEI's; in the same place."""
        return {"summarization": {}}

    async def warm_up(self) -> None:
        """A short and a long text, two tokens each."""
        wish = self._generation(SummaryParameters(max_new_tokens=2))
        ids = self._runner.tokenizer("warm", add_special_tokens=False)["input_ids"][:1] or [0]
        for length in (1, self.max_tokens):
            await self._runner.run([TokenRow(ids * length, generation=wish)], self._runner.own_account())

    async def summarise(self, request: Request) -> Response:
        """As transformers 4's summarization pipeline."""
        account = self._runner.account()
        body = await read_body(request, SummaryBody)
        self._runner.check_model(body.model)
        texts = body.inputs if isinstance(body.inputs, list) else [body.inputs]
        await self._runner.check_texts(texts, "inputs", truncate=body.parameters.truncation)
        tokens = await self._runner.tokenise(
            [(self._prefix + text,) for text in texts], param="inputs", truncate=body.parameters.truncation
        )
        wish = self._generation(body.parameters)
        rows = [TokenRow(row.ids, generation=wish) for row in tokens]
        written = [row.astype(int).tolist() for row in await self._runner.run(rows, account)]
        decode = self._runner.tokenizer.decode
        summaries = await self._runner.in_pool(
            lambda: [{"summary_text": decode(ids, skip_special_tokens=True)} for ids in written]
        )
        # The first id is the one that starts every answer; it was given, not written.
        output_tokens = sum(token != self._pad for ids in written for token in ids[1:])
        return json_answer(summaries, self._runner.usage(account, rows, output_tokens))

    def _generation(self, wish: SummaryParameters) -> tuple[tuple[str, int | float], ...]:
        most = min(it for it in (self._runner.worker.answers.longest, self._most_written) if it is not None)
        if wish.max_new_tokens is not None and wish.max_new_tokens > most:
            raise invalid(
                f"This worker gives at most {most} tokens per answer; {wish.max_new_tokens} were asked for.",
                "parameters.max_new_tokens",
            )
        given = wish.model_dump(exclude_none=True, exclude={"truncation", "max_new_tokens"})
        tokens = wish.max_new_tokens or min(self._usual_written, self._runner.worker.answers.usual, most)
        if wish.min_new_tokens is not None and wish.min_new_tokens > tokens:
            raise invalid(
                f"This answer has at most {tokens} tokens; at least {wish.min_new_tokens} were asked for.",
                "parameters.min_new_tokens",
            )
        beams = self._config.num_beams if self._config.num_beams not in {None, 1} else _PIPELINE_BEAMS
        return tuple(sorted(({"num_beams": beams} | given | {"max_new_tokens": tokens}).items()))

    def _models_own_tokens(self) -> int:
        if self._config.max_new_tokens:
            return int(self._config.max_new_tokens)
        # `max_length` counts the first id; 20 is the class's default, not the model's wish.
        stated = self._config.max_length
        return int(stated) - 1 if stated and stated != 20 else _PIPELINE_TOKENS
