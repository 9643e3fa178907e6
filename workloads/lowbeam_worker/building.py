"""Which engine and which routes serve a task: the only place that knows all of them.

A model is checked, loaded, put into an engine and warmed up here, beside whatever runs; taking over is the worker's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from lowbeam_worker.engines.base import Engine, Limits
from lowbeam_worker.engines.encoder import EncoderEngine, Forward
from lowbeam_worker.engines.packing import pack
from lowbeam_worker.front.encoding import RowRunner
from lowbeam_worker.heads import class_logits, span_logits, summaries, token_logits
from lowbeam_worker.memory import (
    Footprint,
    NoRoomError,
    StoredWeights,
    check_room,
    encoder_activations,
    free_bytes,
    give_back,
    weight_bytes,
)
from lowbeam_worker.models import (
    CannotLoadError,
    Loaded,
    cannot_load,
    check_kind,
    fits_in_place,
    load,
    peek,
    put_in,
    reload,
)
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.rows import generation_of
from lowbeam_worker.running import RunningModel, Service, Source
from lowbeam_worker.sentence import embedder, max_tokens, read_recipe
from lowbeam_worker.worker import Worker

CPU_TOKENS = 512
"""Budget of one encoder batch; on CPU 512 beat 1024 in throughput and CPU per request."""
GPU_TOKENS = 16384
"""text-embeddings-inference's default; larger batches pay on a GPU."""


async def prepare(worker: Worker, source: Source, device: torch.device, limits: Limits | None = None) -> RunningModel:
    """A model that is loaded, started and warmed up, beside what runs. Raises CannotLoadError; then nothing is left.

    `limits` are those it must keep; by default those it was started with.
    """
    try:
        made = await asyncio.to_thread(_build, worker, source, device, limits)
    except Exception as error:
        raise cannot_load(f"model {source.name!r} cannot be served", error) from error
    try:
        made.engine.start()
        if limits is not None:
            made.engine.set_limits(limits)
        await made.service.warm_up()
        if worker.running is None:  # one that is replaced gives back what it took when it is gone
            await asyncio.to_thread(give_back)
    except BaseException as error:
        await made.engine.stop()
        if isinstance(error, Exception):
            raise CannotLoadError(f"the model is loaded, but its warm-up request failed: {error}") from error
        raise
    return made


def _build(worker: Worker, source: Source, device: torch.device, limits: Limits | None) -> RunningModel:
    given, task = worker.options, worker.options.task
    batch_limit = limits.batch if limits else given.batch_limit
    if worker.running is not None:
        _check_room_beside(worker, source, device, batch_limit)
    loaded = load(
        source.path,
        task,
        source.precision,
        device,
        allow_downloads=given.allow_downloads,
        allow_pickle=given.allow_pickle,
    )
    make = _decoder if task.generative else _encoder
    engine, service, can_pause = make(worker, source.name, loaded, batch_limit)
    known = (loaded.model.config, loaded.stored)
    footprints = {it: _footprint(worker, replace(source, precision=it), device, batch_limit, known) for it in Precision}

    def can_change_in_place(wanted: Precision) -> bool:
        return can_pause and fits_in_place(task, made.source.precision, wanted)

    def read_again(precision: Precision) -> Callable[[], None]:
        fresh = reload(
            source.path,
            task,
            precision,
            loaded,
            allow_downloads=given.allow_downloads,
            allow_pickle=given.allow_pickle,
        )
        if not task.generative:
            pack(fresh)
        return lambda: put_in(loaded.model, fresh)

    made = RunningModel(source, engine, service, footprints, loaded.is_random, can_change_in_place, read_again)
    return made


def _check_room_beside(worker: Worker, source: Source, device: torch.device, batch_limit: int) -> None:
    """Both models are here until the last request of the old one has left."""
    known = peek(source.path, allow_downloads=worker.options.allow_downloads)
    if known is None:
        return
    check_kind(source.path, worker.options.task, known[0])
    needed = _footprint(worker, source, device, batch_limit, known).peak_bytes
    what = f"model {source.name!r} at {source.precision}"
    try:
        check_room(what, needed, free_bytes(device, worker.memory_promised_bytes))
    except NoRoomError as error:
        raise CannotLoadError(
            f"{error} beside the model that runs; raise the memory limit, or start another worker and drain this one"
        ) from error


def _footprint(
    worker: Worker, source: Source, device: torch.device, batch_limit: int, known: tuple[Any, StoredWeights]
) -> Footprint:
    task, precision, config = worker.options.task, source.precision, known[0].get_text_config()
    loading, weights = weight_bytes(known[1], precision, device)
    if task.generative:
        from lowbeam_worker.engines.continuous import decoder_footprint  # noqa: PLC0415 - encoders need none of it

        return Footprint(loading, weights, *decoder_footprint(config, precision, device, batch_limit))
    tokens = GPU_TOKENS if device.type == "cuda" else CPU_TOKENS
    longest = int(getattr(config, "max_position_embeddings", 0) or tokens)
    activations = encoder_activations(config, max(tokens, longest), longest, precision, writes=task.writes)
    return Footprint(loading, weights, 0, activations)


def _decoder(worker: Worker, name: str, loaded: Loaded, batch_limit: int) -> tuple[Engine, Service, bool]:
    from lowbeam_worker.engines.continuous import CAN_PAUSE  # noqa: PLC0415 - encoders need none of it
    from lowbeam_worker.engines.decoder import DecoderEngine  # noqa: PLC0415
    from lowbeam_worker.front.generation import DecoderService  # noqa: PLC0415

    engine = DecoderEngine(loaded, worker.ledger, batch_limit=batch_limit)
    return engine, DecoderService(worker, name, engine, loaded.tokenizer), CAN_PAUSE


def _encoder(worker: Worker, name: str, loaded: Loaded, batch_limit: int) -> tuple[Engine, Service, bool]:
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
        batch_limit=batch_limit,
        token_budget=GPU_TOKENS if loaded.device.type == "cuda" else CPU_TOKENS,
        packed=pack(loaded.model),
        kind=generation_of,
    )
    runner = RowRunner(worker, name, engine, loaded, max_tokens(loaded, recipe))
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
    return engine, service, True
