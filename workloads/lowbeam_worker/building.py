"""Which engine and which routes serve a task: the only place that knows all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from starlette.requests import Request
from starlette.responses import Response

from lowbeam_worker.engines.base import Engine
from lowbeam_worker.engines.encoder import EncoderEngine, Forward
from lowbeam_worker.front.encoding import RowRunner
from lowbeam_worker.heads import class_logits, span_logits, summaries, token_logits
from lowbeam_worker.models import Loaded, load, put_in, why_not_in_place
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.sentence import embedder, max_tokens, read_recipe
from lowbeam_worker.worker import Worker

CPU_PADDED_TOKENS = 512
"""Budget of one encoder batch; on CPU 512 beat 1024 in throughput and CPU per request."""
GPU_PADDED_TOKENS = 16384
"""text-embeddings-inference's default; larger batches pay on a GPU."""

Handler = Callable[[Request], Awaitable[Response]]


class Service(Protocol):
    """What the front calls."""

    @property
    def routes(self) -> Mapping[str, Handler]:
        """Paths that it answers."""

    @property
    def max_tokens(self) -> int:
        """Longest input."""

    def model_type(self) -> dict[str, Any]:
        """What /info says about the kind of model."""

    async def warm_up(self) -> None:
        """One request of each shape through the engine, before anyone else's."""


@dataclass(frozen=True, slots=True)
class Built:
    """An engine that is not started yet, and its routes."""

    engine: Engine
    service: Service
    random_weights: bool


def build(worker: Worker, device: torch.device) -> Built:
    """Load the model and put an engine around it; blocking, for a thread. Raises CannotLoadError."""
    options = worker.options
    loaded = _load(worker, options.precision, device)
    worker.why_not_precision = lambda wanted: why_not_in_place(options.task, loaded, worker.precision, wanted)

    def reload(precision: Precision) -> Callable[[], None]:
        fresh = _load(worker, precision, device).model
        return lambda: put_in(loaded.model, fresh)

    worker.reload = reload
    return _decoder(worker, loaded) if options.task.generative else _encoder(worker, loaded)


def _load(worker: Worker, precision: Precision, device: torch.device) -> Loaded:
    given = worker.options
    return load(
        given.model_path,
        given.task,
        precision,
        device,
        allow_downloads=given.allow_downloads,
        allow_pickle=given.allow_pickle,
    )


def _decoder(worker: Worker, loaded: Loaded) -> Built:
    from lowbeam_worker.engines.decoder import DecoderEngine  # noqa: PLC0415 - encoders need none of it
    from lowbeam_worker.front.generation import DecoderService  # noqa: PLC0415

    engine = DecoderEngine(loaded, worker.ledger, batch_limit=worker.options.batch_limit)
    return Built(engine, DecoderService(worker, engine, loaded.tokenizer), loaded.is_random)


def _encoder(worker: Worker, loaded: Loaded) -> Built:
    task = worker.options.task
    recipe = read_recipe(loaded.folder) if task is Task.FEATURE_EXTRACTION else None
    forwards: dict[Task, Callable[[Loaded], Forward]] = {
        Task.TOKEN_CLASSIFICATION: token_logits,
        Task.QUESTION_ANSWERING: span_logits,
        Task.SUMMARIZATION: summaries,
    }
    engine = EncoderEngine(
        embedder(loaded, recipe) if recipe else forwards.get(task, class_logits)(loaded),
        worker.ledger,
        batch_limit=worker.options.batch_limit,
        padded_token_budget=GPU_PADDED_TOKENS if loaded.device.type == "cuda" else CPU_PADDED_TOKENS,
    )
    runner = RowRunner(worker, engine, loaded.tokenizer, max_tokens(loaded, recipe))
    service: Service
    if recipe is not None:
        from lowbeam_worker.front.embeddings import EmbeddingService  # noqa: PLC0415 - each task loads its own routes

        service = EmbeddingService(runner, recipe, int(loaded.model.config.hidden_size))
    elif task is Task.TOKEN_CLASSIFICATION:
        from lowbeam_worker.front.tokens import TokenService  # noqa: PLC0415

        service = TokenService(runner, loaded)
    elif task is Task.QUESTION_ANSWERING:
        from lowbeam_worker.front.answers import AnswerService  # noqa: PLC0415

        service = AnswerService(runner)
    elif task is Task.SUMMARIZATION:
        from lowbeam_worker.front.summaries import SummaryService  # noqa: PLC0415

        service = SummaryService(runner, loaded)
    else:
        from lowbeam_worker.front import classification  # noqa: PLC0415

        services: dict[Task, Callable[[RowRunner, Loaded], Service]] = {
            Task.TEXT_RANKING: classification.RankingService,
            Task.ZERO_SHOT_CLASSIFICATION: classification.ZeroShotService,
        }
        service = services.get(task, classification.ClassificationService)(runner, loaded)
    return Built(engine, service, loaded.is_random)
