"""EnergyProfiles of basis Modelled: dense decoders without a measurement on a class, and all encoders.

Which pairs are made, from which facts, with which uncertainty; the physics is in `physics`. Basis and uncertainty
travel with every profile into plans. Assumptions that no fit supports are constants here, each with its reason.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from tools.catalog.accelerators import CPU_CORES, accelerator_classes
from tools.catalog.generations import generation_errors
from tools.catalog.models import weights_mebibytes
from tools.catalog.physics import (
    FITTED_BATCH_LIMIT,
    Board,
    Errors,
    Observation,
    PhysicalModel,
    Step,
    fit,
    leave_one_model_out,
    unseen_hardware,
)
from tools.catalog.published import CITATION, ENGINE, WORKLOADS, series
from tools.catalog.rows import Manifest, Row, csv_rows, decimal_text, manifest, source

DATE = "2026-11-21"
FITTED_CLASS = "h100"
VALIDATION_CLASS = "b200"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)
BYTES_BF16 = 2
ENCODER_ENGINE = "native"

DECODER_CLASSES = ("a100", "h100", "l4")
DECODER_ACCELERATORS = {"a100": (1, 2, 4), "h100": (1, 2), "l4": (1,)}
"""L4 boards have no NVLink: several of them per replica are not modelled."""
MEMORY_SHARE = 0.9
"""Share of the memory that vLLM takes by default."""
LONGEST_REQUEST = 2.0
"""Room per request for keys and values, in mean requests: lengths vary."""
SMALLEST_USEFUL_BATCH = 8

CLASSIFIER_TOKENS = 128
ENCODER_ACCELERATOR_CLASSES = ("a100", "h100", "l4")
LAUNCH_SECONDS_PER_LAYER = 0.4e-3
"""PyTorch without graph capture: a dozen kernels per layer from Python. Assumed; a BERT-base then takes 5 to 7 ms at
batch 1, as is commonly seen on such boards."""
HOST_SECONDS_PER_REQUEST = 0.35e-3
"""One Python process parses, tokenises and answers a request while the board works on another batch. Assumed; it caps
a replica at 2,857 requests/s, so that a small model cannot fill a large board."""
CPU_SECONDS_PER_LAYER = 0.2e-3
"""Launching a layer on a CPU, without the way to a device. Assumed."""
CPU_BATCHES = (1, 2, 4, 8)
"""A CPU gains little from larger batches, and their latency is seconds."""
ENCODER_UNCERTAINTY_FACTOR = 2
"""No published measurement of encoders at batch was found to fit or to check: twice the error on
the class that the fit has not seen."""
CPU_UNCERTAINTY_PERCENT = 100
"""Judged, not computed: speed from another processor, watts as a share of a server, no meter."""
USEFUL_GAIN = 1.01
"""A point must serve 1 % more than the one before it."""
ENCODER_P95_FACTOR = 1.3
"""Lengths within a batch vary; the batch waits for its longest request. Assumed."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The fit and its errors."""

    model: PhysicalModel
    observations: int
    left_out: Errors
    other_class: Errors
    other_observations: int
    generations: Errors
    """Of the step from H100 to A100, see `generations`."""
    smallest_fitted_millions: int
    p95_factor: float
    """Median ratio of p95 to median inter-token time in the fitted data."""

    def decoder_uncertainty_percent(self, accelerator_class: str, millions: int) -> int:
        """Nine of ten points are closer: in the fitted class, or at the worse of the two checks on other classes."""
        if accelerator_class != FITTED_CLASS:
            return round(max(self.other_class.p90_percent, self.generations.p90_percent))
        seen = millions >= self.smallest_fitted_millions
        return round(self.left_out.p90_percent if seen else self.other_class.p90_percent)

    @property
    def encoder_uncertainty_percent(self) -> int:
        """See ENCODER_UNCERTAINTY_FACTOR."""
        return round(ENCODER_UNCERTAINTY_FACTOR * self.other_class.p90_percent)


def boards() -> dict[str, Board]:
    """Hardware facts by class; the class cpu has no peak FLOPs."""
    return {
        item["metadata"]["name"]: Board(
            item["spec"]["memoryBandwidthGigabytesPerSecond"] * 1e9,
            item["spec"].get("denseTeraflopsBf16", 0) * 1e12,
            float(item["spec"]["idleWatts"]),
            float(item["spec"]["maxWatts"]),
        )
        for item in accelerator_classes()
    }


def fitted() -> Fitted:
    """Fit on H100, errors on left-out models and on B200."""
    known = list(_observations(FITTED_CLASS))
    other = list(_observations(VALIDATION_CLASS))
    model = fit([observation for observation, _ in known])
    names = {observation.group for observation, _ in known}
    return Fitted(
        model=model,
        observations=len(known),
        left_out=leave_one_model_out([observation for observation, _ in known]),
        other_class=unseen_hardware(model, [observation for observation, _ in other]),
        other_observations=len(other),
        generations=generation_errors(model, boards()[FITTED_CLASS]),
        smallest_fitted_millions=min(int(row["total_m"]) for row in _decoders().values() if row["name"] in names),
        p95_factor=statistics.median(ratio for _, ratio in known),
    )


def _decoders() -> dict[tuple[str, str], Row]:
    return {
        (row["model_path"], row["precision"]): row
        for row in csv_rows("models/models.csv")
        if row["generative"] == "yes" and row["layers"] and row["precision"] == "bf16"
    }


def _observations(accelerator_class: str) -> Iterator[tuple[Observation, float]]:
    """Published points of dense BF16 chat models on one class, with their ratio of p95 to median inter-token time."""
    decoders = _decoders()
    board = boards()[accelerator_class]
    chat = WORKLOADS[0]
    for (file, model_id, gpu, gpus, precision), rows in series().items():
        row = decoders.get((model_id, precision))
        if row is None or file != chat.file or gpu.lower() != accelerator_class:
            continue
        for point in rows:
            batch = point["avg_batch_size"]
            if batch <= FITTED_BATCH_LIMIT:
                step = decoder_step(
                    row, board, count=gpus, batch=batch, inputs=chat.input_tokens, outputs=point["avg_output_len"]
                )
                seconds = batch / point["output_throughput_tokens_per_sec"]
                ratio = point["p95_itl_ms"] / point["median_itl_ms"]
                yield Observation(row["name"], step, seconds, point["avg_power_watts"]), ratio


def decoder_step(row: Row, board: Board, *, count: int, batch: float, inputs: float, outputs: float) -> Step:
    """One token for each request of the batch; the prompts' share spread over the answers."""
    parameters = float(row["active_m"]) * 1e6
    context = inputs + outputs / 2
    return Step(
        board=board,
        boards=count,
        bytes_read=parameters * BYTES_BF16 + batch * context * _kv_bytes_per_token(row),
        flops=batch * 2 * parameters * (1 + inputs / outputs),
        layers=int(row["layers"]),
    )


def _kv_bytes_per_token(row: Row) -> int:
    return 2 * int(row["layers"]) * int(row["kv_heads"]) * int(row["head_dim"]) * BYTES_BF16


def modelled_profiles(published: list[Manifest], physics: Fitted) -> list[Manifest]:
    """All modelled curves, by name."""
    measured = {
        (p["spec"]["model"], p["spec"]["precision"], p["spec"]["acceleratorClass"]): p["spec"]["outputTokens"]
        for p in published
        if p["spec"]["reasoning"] == "Off"
    }
    profiles = [*_decoder_profiles(physics, measured), *_encoder_profiles(physics)]
    return sorted(profiles, key=lambda item: item["metadata"]["name"])


# --- decoders --------------------------------------------------------------------------------------------------------


def _decoder_profiles(physics: Fitted, measured: dict[tuple[str, str, str], int]) -> Iterator[Manifest]:
    memory = {item["metadata"]["name"]: item["spec"]["memoryMebibytes"] for item in accelerator_classes()}
    workloads = {workload.task: workload for workload in reversed(WORKLOADS)}
    usual = {"text-generation": 400, "code-completion": 250}
    for row in _decoders().values():
        workload = workloads[row["tasks"]]
        lengths = [tokens for (name, _, _), tokens in measured.items() if name == row["name"]]
        outputs = round(statistics.mean(lengths)) if lengths else usual[row["tasks"]]
        for name in DECODER_CLASSES:
            if (row["name"], "bf16", name) in measured:
                continue
            per_request = LONGEST_REQUEST * (workload.input_tokens + outputs) * _kv_bytes_per_token(row)
            limits = {
                count: int(
                    (MEMORY_SHARE * memory[name] * count - weights_mebibytes(row, "bf16")) * 2**20 // per_request
                )
                for count in DECODER_ACCELERATORS[name]
            }
            useful = [count for count, limit in limits.items() if limit >= SMALLEST_USEFUL_BATCH][:2]
            if not useful:
                continue
            # More boards than the fewest always cost energy at equal batch, unless the fewest leave no room to batch.
            for count in useful[:1] if limits[useful[0]] >= FITTED_BATCH_LIMIT // 2 else useful:
                lengths_of_requests = (workload.input_tokens, outputs)
                yield _decoder(physics, row, name, count=count, limit=limits[count], lengths=lengths_of_requests)


def _decoder(physics: Fitted, row: Row, name: str, *, count: int, limit: int, lengths: tuple[int, int]) -> Manifest:
    board = boards()[name]
    inputs, outputs = lengths
    points = []
    for batch in [b for b in BATCHES if b <= limit]:
        step = decoder_step(row, board, count=count, batch=batch, inputs=inputs, outputs=outputs)
        seconds = physics.model.seconds(step)
        points.append(
            {
                "batch": batch,
                "watts": decimal_text(physics.model.watts(step), 1),
                "requestsPerSecond": decimal_text(batch / seconds / outputs),
                "latencyP50Milliseconds": round(seconds * outputs * 1e3),
                "latencyP95Milliseconds": round(seconds * outputs * 1e3 * physics.p95_factor),
                "interTokenP50Microseconds": round(seconds * 1e6),
                "interTokenP95Microseconds": round(seconds * 1e6 * physics.p95_factor),
            }
        )
    note = "weights and KV traffic against bandwidth, FLOPs against compute; constants fitted on H100"
    return _profile(
        row,
        "bf16",
        name,
        points,
        accelerators=count,
        engine=ENGINE,
        lengths=lengths,
        uncertainty=physics.decoder_uncertainty_percent(name, int(row["total_m"])),
        note=note,
    )


# --- encoders --------------------------------------------------------------------------------------------------------


def _encoder_profiles(physics: Fitted) -> Iterator[Manifest]:
    for row in csv_rows("models/models.csv"):
        if row["generative"] == "yes":
            continue
        for name in ENCODER_ACCELERATOR_CLASSES:
            yield _encoder_on_accelerator(physics, row, name)
        yield _encoder_on_cpu(row)


def encoder_flops(row: Row, tokens: int) -> float:
    """Per request: 12 x layers x hidden^2 parameters take part for each token, and attention between the tokens."""
    layers, hidden = int(row["layers"]), int(row["hidden"])
    return tokens * (24.0 * layers * hidden**2 + 4.0 * layers * tokens * hidden)


def _encoder_on_accelerator(physics: Fitted, row: Row, name: str) -> Manifest:
    board = boards()[name]
    curve: list[tuple[int, float, float]] = []
    for batch in BATCHES:
        weights = float(row["total_m"]) * 1e6 * BYTES_BF16
        step = Step(board, 1, weights, batch * encoder_flops(row, CLASSIFIER_TOKENS), int(row["layers"]))
        host = max(LAUNCH_SECONDS_PER_LAYER * step.layers, HOST_SECONDS_PER_REQUEST * batch)
        curve.append((batch, *physics.model.encoder_step(step, host)))
    note = (
        "FLOPs against compute with the efficiency fitted on decoders; launch time per layer and host time per request"
    )
    return _encoder(row, "bf16", name, curve, uncertainty=physics.encoder_uncertainty_percent, note=note)


def cpu_flops_per_second() -> float:
    """Of one replica: the slowest published transformer per core, times our cores."""
    rows = csv_rows("accelerators/cpu-throughput.csv")
    per_core = [float(r["gflop_per_item"]) * 1e9 * float(r["items_per_second"]) / int(r["cores"]) for r in rows]
    return min(per_core) * CPU_CORES


def _encoder_on_cpu(row: Row) -> Manifest:
    board = boards()["cpu"]
    curve = []
    for batch in CPU_BATCHES:
        seconds = CPU_SECONDS_PER_LAYER * int(row["layers"]) + batch * HOST_SECONDS_PER_REQUEST
        seconds += batch * encoder_flops(row, CLASSIFIER_TOKENS) / cpu_flops_per_second()
        curve.append((batch, seconds, board.limit_watts))
    note = (
        "FLOPs at the rate published for a vision transformer on another CPU; watts: the slot's share of a busy server"
    )
    return _encoder(row, "fp32", "cpu", curve, uncertainty=CPU_UNCERTAINTY_PERCENT, note=note)


def _encoder(
    row: Row, precision: str, name: str, curve: list[tuple[int, float, float]], *, uncertainty: int, note: str
) -> Manifest:
    points = []
    best = 0.0
    for batch, seconds, watts in curve:
        if batch / seconds < best * USEFUL_GAIN:
            break  # bound by the host: a larger batch only waits longer
        best = batch / seconds
        points.append(
            {
                "batch": batch,
                "watts": decimal_text(watts, 1),
                "requestsPerSecond": decimal_text(batch / seconds),
                "latencyP50Milliseconds": max(1, round(seconds * 1e3)),
                "latencyP95Milliseconds": max(1, round(seconds * 1e3 * ENCODER_P95_FACTOR)),
            }
        )
    return _profile(
        row,
        precision,
        name,
        points,
        accelerators=1,
        engine=ENCODER_ENGINE,
        lengths=(CLASSIFIER_TOKENS, 1),
        uncertainty=uncertainty,
        note=note,
    )


def _profile(
    row: Row,
    precision: str,
    name: str,
    points: list[Manifest],
    *,
    accelerators: int,
    engine: str,
    lengths: tuple[int, int],
    uncertainty: int,
    note: str,
) -> Manifest:
    return manifest(
        "EnergyProfile",
        f"{row['name']}-{precision}-{name}-x{accelerators}",
        {
            "model": row["name"],
            "precision": precision,
            "reasoning": "Off",
            "task": row["tasks"],
            "acceleratorClass": name,
            "accelerators": accelerators,
            "engine": engine,
            "inputTokens": lengths[0],
            "outputTokens": lengths[1],
            "points": points,
            "basis": "Modelled",
            "uncertaintyPercent": uncertainty,
            "source": source(f"computed by tools/catalog/modelled.py from {CITATION}", DATE, note),
        },
    )
