"""Routes of models with one figure per label: TEI's /predict and /rerank, and the tasks text-classification and
zero-shot-classification.

Answers of the tasks are made by the pipelines of transformers themselves, from the figures of our engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import Response
from transformers import TextClassificationPipeline, ZeroShotClassificationPipeline

from lowbeam_worker.engines.encoder import Vector
from lowbeam_worker.front.encoding import RowRunner, Text, json_answer
from lowbeam_worker.front.reading import read_body
from lowbeam_worker.front.task_bodies import ClassificationBody, TextPair, ZeroShotBody
from lowbeam_worker.front.tei_bodies import PredictBody, RerankBody
from lowbeam_worker.models import CannotLoadError, Loaded
from lowbeam_worker.options import Task
from lowbeam_worker.refusal import invalid


class ClassificationService:
    """Scores texts against the labels of the model."""

    def __init__(self, runner: RowRunner, loaded: Loaded) -> None:
        self._runner = runner
        self._labels = _labels(loaded)
        self._independent = _independent(loaded)
        self._pipeline: Any = TextClassificationPipeline(
            model=loaded.model, tokenizer=loaded.tokenizer, device=loaded.device
        )
        self.warm_up = runner.warm_up
        self.max_tokens = runner.max_tokens
        self.routes = {"/predict": self.predict, f"/v1/tasks/{Task.TEXT_CLASSIFICATION}": self.classify}

    def model_type(self) -> dict[str, Any]:
        """As TEI's /info says it."""
        return {"classifier": _label_maps(self._labels)}

    async def predict(self, request: Request) -> Response:
        """TEI's text classification: scores of all labels, best first."""
        account = self._runner.account()
        body = await read_body(request, PredictBody)
        alone = isinstance(body.inputs, str) or (bool(body.inputs) and isinstance(body.inputs[0], str))
        given: list[Any] = [body.inputs] if alone else list(body.inputs)
        texts: list[Text] = [(text,) if isinstance(text, str) else tuple(text) for text in given]
        rows = await self._runner.tokenise(texts, param="inputs", truncate=body.truncate, from_left=body.from_left)
        logits = await self._runner.run(rows, account)
        usage = self._runner.usage(account, rows)
        ranked = []
        for row in logits:
            scores = row if body.raw_scores else _sigmoid(row) if self._independent else _softmax(row)
            pairs = sorted(zip(scores.tolist(), self._labels, strict=True), reverse=True)
            ranked.append([{"score": score, "label": label} for score, label in pairs])
        return json_answer(ranked[0] if alone else ranked, usage)

    async def classify(self, request: Request) -> Response:
        """As transformers' text-classification pipeline."""
        account = self._runner.account()
        body = await read_body(request, ClassificationBody)
        self._runner.check_model(body.model)
        alone, wish = not isinstance(body.inputs, list), body.parameters
        given = body.inputs if isinstance(body.inputs, list) else [body.inputs]
        texts: list[Text] = [(text.text, text.text_pair) if isinstance(text, TextPair) else (text,) for text in given]
        rows = await self._runner.tokenise(texts, param="inputs", truncate=wish.truncation)
        logits = await self._runner.run(rows, account)
        usage = self._runner.usage(account, rows)
        stated = wish.model_dump(include={"top_k", "function_to_apply"}, exclude_unset=True)
        _, _, finish = self._pipeline._sanitize_parameters(**stated)
        answers = [self._pipeline.postprocess({"logits": torch.from_numpy(row)[None]}, **finish) for row in logits]
        if not alone:
            return json_answer(answers, usage)
        # The pipeline is odd here: one text without `top_k` comes back in a list, one pair does not.
        in_list = isinstance(body.inputs, str) and "top_k" not in wish.model_fields_set
        return json_answer(answers if in_list else answers[0], usage)


class RankingService:
    """Scores texts against a query."""

    def __init__(self, runner: RowRunner, loaded: Loaded) -> None:
        if loaded.model.config.num_labels != 1:
            raise CannotLoadError(
                f"--task {Task.TEXT_RANKING} needs a model with one label; this one has "
                f"{loaded.model.config.num_labels}: serve it as {Task.TEXT_CLASSIFICATION}"
            )
        self._runner = runner
        self._labels = _labels(loaded)
        self.warm_up = runner.warm_up
        self.max_tokens = runner.max_tokens
        self.routes = {"/rerank": self.rerank}

    def model_type(self) -> dict[str, Any]:
        """As TEI's /info says it."""
        return {"reranker": _label_maps(self._labels)}

    async def rerank(self, request: Request) -> Response:
        """TEI's reranking: the best text first."""
        account = self._runner.account()
        body = await read_body(request, RerankBody)
        if not body.query.strip():
            raise invalid("The query is empty; send at least one word.", "query")
        rows = await self._runner.tokenise(
            [(body.query, text) for text in body.texts],
            param="texts",
            truncate=body.truncate,
            from_left=body.from_left,
        )
        logits = np.array(await self._runner.run(rows, account, "texts"))[:, 0]
        usage = self._runner.usage(account, rows)
        scores = logits if body.raw_scores else _sigmoid(logits)
        ranked = [
            {"index": index, "score": float(scores[index])} | ({"text": body.texts[index]} if body.return_text else {})
            for index in np.argsort(-scores, kind="stable").tolist()
        ]
        return json_answer(ranked, usage)


class ZeroShotService:
    """Scores texts against labels that the client brings, with a model that knows what follows from what."""

    def __init__(self, runner: RowRunner, loaded: Loaded) -> None:
        self._runner = runner
        self._labels = _labels(loaded)
        if not any(label.lower().startswith("entail") for label in self._labels):
            raise CannotLoadError(
                f"--task {Task.ZERO_SHOT_CLASSIFICATION} needs a model with a label that begins with 'entail'; this "
                f"one has {', '.join(self._labels)}"
            )
        # Where a config states one direction only, transformers 5 leaves the other empty.
        loaded.model.config.label2id = {label: index for index, label in enumerate(self._labels)}
        self._pipeline: Any = ZeroShotClassificationPipeline(
            model=loaded.model, tokenizer=loaded.tokenizer, device=loaded.device
        )
        self.warm_up = runner.warm_up
        self.max_tokens = runner.max_tokens
        self.routes = {f"/v1/tasks/{Task.ZERO_SHOT_CLASSIFICATION}": self.classify}

    def model_type(self) -> dict[str, Any]:
        """As TEI's /info says it."""
        return {"classifier": _label_maps(self._labels)}

    async def classify(self, request: Request) -> Response:
        """As transformers' zero-shot-classification pipeline."""
        account = self._runner.account()
        body = await read_body(request, ZeroShotBody)
        self._runner.check_model(body.model)
        labels, template = body.parameters.labels, body.parameters.hypothesis_template
        if not labels:
            raise invalid("There is no candidate label; send at least one.", "parameters.candidate_labels")
        if template.count("{}") != 1 or template.count("{") + template.count("}") != 2:
            raise invalid("The template must have one {} where the label goes.", "parameters.hypothesis_template")
        texts = body.inputs if isinstance(body.inputs, list) else [body.inputs]
        await self._runner.check_texts(texts, "inputs")
        self._runner.check_count(len(texts) * len(labels), "inputs")
        pairs: list[Text] = [(text, template.replace("{}", label)) for text in texts for label in labels]
        rows = await self._runner.tokenise(pairs, param="inputs")
        logits = iter(await self._runner.run(rows, account))
        usage = self._runner.usage(account, rows)
        answers = [
            self._pipeline.postprocess(
                [
                    {"candidate_label": label, "sequence": text, "logits": torch.from_numpy(next(logits))[None]}
                    for label in labels
                ],
                multi_label=body.parameters.multi_label,
            )
            for text in texts
        ]
        return json_answer(answers if isinstance(body.inputs, list) else answers[0], usage)


def _labels(loaded: Loaded) -> list[str]:
    return [str(loaded.model.config.id2label[index]) for index in range(loaded.model.config.num_labels)]


def _label_maps(labels: list[str]) -> dict[str, Any]:
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _independent(loaded: Loaded) -> bool:
    config = loaded.model.config
    return bool(config.num_labels == 1 or config.problem_type == "multi_label_classification")


def _sigmoid(values: Vector) -> Vector:
    return np.asarray(1 / (1 + np.exp(-values)), dtype=np.float32)


def _softmax(values: Vector) -> Vector:
    raised = np.exp(values - values.max())
    return np.asarray(raised / raised.sum(), dtype=np.float32)
