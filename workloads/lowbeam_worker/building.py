"""Which engine and which routes serve a task: the only place that knows all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from lowbeam_worker.engines.base import Engine
from lowbeam_worker.engines.encoder import EncoderEngine
from lowbeam_worker.front.encoding import EncoderService
from lowbeam_worker.models import load
from lowbeam_worker.options import Task
from lowbeam_worker.sentence import classifier, embedder, max_tokens, read_recipe
from lowbeam_worker.worker import Worker

CPU_PADDED_TOKENS = 512
"""Budget of one encoder batch; on CPU 512 beat 1024 in throughput and CPU per request."""
GPU_PADDED_TOKENS = 16384
"""text-embeddings-inference's default; larger batches pay on a GPU."""


class Service(Protocol):
    """What the front calls; each service has the routes of its task."""

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
    loaded = load(options.model_path, options.task, options.precision, device, allow_downloads=options.allow_downloads)
    if options.task.generative:
        from lowbeam_worker.engines.decoder import DecoderEngine  # noqa: PLC0415 - encoders need none of it
        from lowbeam_worker.front.generation import DecoderService  # noqa: PLC0415

        decoder = DecoderEngine(loaded, worker.ledger, batch_limit=options.batch_limit)
        return Built(decoder, DecoderService(worker, decoder, loaded.tokenizer), loaded.is_random)
    recipe = read_recipe(loaded.folder) if options.task is Task.FEATURE_EXTRACTION else None
    encoder = EncoderEngine(
        embedder(loaded, recipe) if recipe else classifier(loaded),
        worker.ledger,
        batch_limit=options.batch_limit,
        padded_token_budget=GPU_PADDED_TOKENS if device.type == "cuda" else CPU_PADDED_TOKENS,
    )
    labels = [] if recipe else [loaded.model.config.id2label[i] for i in range(loaded.model.config.num_labels)]
    service = EncoderService(worker, encoder, loaded.tokenizer, max_tokens=max_tokens(loaded, recipe), labels=labels)
    return Built(encoder, service, loaded.is_random)
