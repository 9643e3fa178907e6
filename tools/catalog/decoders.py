"""Modelled profiles of dense BF16 decoders on classes where nobody published a measurement.

Which pairs are made and with which batches; the physics is in `physics`, its constants and errors in `fits`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from tools.catalog.accelerators import accelerator_classes
from tools.catalog.fits import Fitted, boards, decoder_step, decoders
from tools.catalog.models import kv_bytes_per_token, weights_mebibytes
from tools.catalog.profiles import modelled
from tools.catalog.published import ENGINE, WORKLOADS, Workload
from tools.catalog.rows import Manifest, Row, decimal_text

ACCELERATORS = {
    "a100": (1, 2, 4),
    "a100-40": (1, 2, 4),
    "a10g": (1,),
    "a40": (1,),
    "b200": (1,),
    "h100": (1, 2, 4),
    "h100-pcie": (1,),
    "h200": (1, 2, 4),
    "l4": (1,),
    "l40s": (1,),
}
"""Class -> accelerators per replica. Boards without NVSwitch are modelled alone: the fitted cost of a layer across
boards is that of NVLink. Not here: T4 and V100 (no BF16), MI300X (no measurement of its software), cpu (no use)."""

BATCHES = (1, 4, 8, 16, 32, 64, 96, 128, 192, 256)
MEMORY_SHARE = 0.9
"""Share of the memory that vLLM takes by default."""
LONGEST_REQUEST = 2.0
"""Room per request for keys and values, in mean requests: lengths vary."""
SMALLEST_USEFUL_BATCH = 8
ROOM_ENOUGH = 128
"""With room for this batch, more boards than the fewest only cost energy."""
USUAL_OUTPUT_TOKENS = {"text-generation": 400, "code-completion": 250}
"""Where no length was measured for the model: the efficient ones of the published answers."""

NOTE = "weights and KV traffic against bandwidth, FLOPs against compute; constants fitted on {constants}"


def decoder_profiles(physics: Fitted, published: list[Manifest]) -> Iterator[Manifest]:
    """All of them, in no particular order."""
    memory = {item["metadata"]["name"]: item["spec"]["memoryMebibytes"] for item in accelerator_classes()}
    measured = {
        (p["spec"]["model"], p["spec"]["precision"], p["spec"]["acceleratorClass"], p["spec"]["task"]): p["spec"]
        for p in published
        if p["spec"]["reasoning"] == "Off"
    }
    for row in decoders().values():
        for workload in _workloads(row):
            lengths = [spec["outputTokens"] for key, spec in measured.items() if (key[0], key[3]) == _of(row, workload)]
            outputs = round(statistics.mean(lengths)) if lengths else USUAL_OUTPUT_TOKENS[workload.task]
            for name, counts in ACCELERATORS.items():
                if (row["name"], "bf16", name, workload.task) in measured:
                    continue
                per_request = LONGEST_REQUEST * (workload.input_tokens + outputs) * kv_bytes_per_token(row)
                limits = {
                    count: int((MEMORY_SHARE * memory[name] * count - weights_mebibytes(row, "bf16")) * 2**20)
                    // round(per_request)
                    for count in counts
                }
                useful = [count for count, limit in limits.items() if limit >= SMALLEST_USEFUL_BATCH][:2]
                for count in useful[:1] if useful and limits[useful[0]] >= ROOM_ENOUGH else useful:
                    yield _profile(physics, row, workload, name, count=count, limit=limits[count], outputs=outputs)


def _workloads(row: Row) -> list[Workload]:
    """The published workload of each task of the model that is text alone and does not reason."""
    return [
        next(w for w in WORKLOADS if w.task == task) for task in row["tasks"].split() if task in USUAL_OUTPUT_TOKENS
    ]


def _of(row: Row, workload: Workload) -> tuple[str, str]:
    return row["name"], workload.task


def _profile(
    physics: Fitted, row: Row, workload: Workload, name: str, *, count: int, limit: int, outputs: int
) -> Manifest:
    board, model, p95_factor = boards()[name], physics.model_for(name), physics.p95_factor_for(name)
    points = []
    for batch in [b for b in BATCHES if b <= limit]:
        step = decoder_step(row, board, count=count, batch=batch, inputs=workload.input_tokens, outputs=outputs)
        seconds = model.seconds(step)
        points.append(
            {
                "batch": batch,
                "watts": decimal_text(model.watts(step), 1),
                "requestsPerSecond": decimal_text(batch / seconds / outputs),
                "latencyP50Milliseconds": round(seconds * outputs * 1e3),
                "latencyP95Milliseconds": round(seconds * outputs * 1e3 * p95_factor),
                "interTokenP50Microseconds": round(seconds * 1e6),
                "interTokenP95Microseconds": round(seconds * 1e6 * p95_factor),
            }
        )
    return modelled(
        row,
        "bf16",
        name,
        points,
        task=workload.task,
        accelerators=count,
        engine=ENGINE,
        lengths=(workload.input_tokens, outputs),
        uncertainty=physics.uncertainty_percent(name, int(row["total_m"])),
        note=NOTE.format(constants=name.upper() if name in physics.models else "H100"),
    )
