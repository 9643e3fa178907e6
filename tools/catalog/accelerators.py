"""AcceleratorClass manifests from the carried table of accelerator facts.

A figure that nobody read is left out, never 0. The one exception is the draw of a loaded board without work, which the
ledger cannot do without: where it was not read it is estimated from a relative (CONTEXT_STEP_OF), and says so.
"""

from __future__ import annotations

import textwrap

from tools.catalog.rows import Manifest, Row, csv_rows, decimal_text, manifest, source

GPU_ROWS = {
    "a100": "nvidia-a100-sxm4-80gb",
    "a100-40": "nvidia-a100-sxm4-40gb",
    "a10g": "nvidia-a10g",
    "a40": "nvidia-a40",
    "b200": "nvidia-b200-sxm",
    "h100": "nvidia-h100-sxm5-80gb",
    "h100-pcie": "nvidia-h100-pcie-80gb",
    "h200": "nvidia-h200-sxm",
    "l4": "nvidia-l4",
    "l40s": "nvidia-l40s",
    "mi300x": "amd-mi300x",
    "t4": "nvidia-t4",
    "v100": "nvidia-v100-sxm2-32gb",
}
"""Class name -> row of accelerators.csv."""

AMD_PRODUCT_LABELS = {"mi300x": "AMD_Instinct_MI300X_OAM"}
"""Value of amd.com/gpu.product-name that AMD's node labeller writes (ROCm/k8s-device-plugin, cmd/k8s-node-labeller), as
it appears in the tests of amd-enterprise-ai/amd-eai-suite. Lowbeam's pods ask for nvidia.com/gpu, so no replica is
placed on such a node; `lowbeam plan --inventory mi300x=8` and profiles of your own use the class."""

CONTEXT_STEP_OF = {
    "a100-40": "nvidia-a100-sxm4-80gb",
    "a10g": "nvidia-a10",
    "l4": "nvidia-t4",
}
"""No reading with a loaded model was found: the step from bare idle is that of the nearest relative (same die; for the
L4 its predecessor at the same limit)."""

MXFP4_ARCHITECTURES = {"hopper", "blackwell"}
"""MXFP4 weights run there in the published measurements; elsewhere nothing was seen."""

TABLE_DATE = "2026-11"
LONGEST_TEXT = 512

CPU_CORES = 8
CPU_CORES_OF_REFERENCE = 112
CPU_MEMORY_MEBIBYTES = 16_384
"""A replica without accelerator gets 8 cores and 16 GiB of the two-socket reference (2 x 56 cores)."""


def accelerator_classes() -> list[Manifest]:
    """All classes, by name."""
    rows = {row["name"]: row for row in csv_rows("accelerators/accelerators.csv")}
    classes = [_gpu(name, rows[row], rows) for name, row in GPU_ROWS.items()]
    return sorted([*classes, _cpu(rows["x86-cpu-2s"])], key=lambda item: item["metadata"]["name"])


def _gpu(name: str, row: Row, rows: dict[str, dict[str, str]]) -> Manifest:
    precisions = ["fp32", "fp16"]
    precisions += [precision for precision in ("bf16", "fp8", "int8") if row[f"supports_{precision}"] == "true"]
    precisions += ["mxfp4"] if row["architecture"] in MXFP4_ARCHITECTURES else []
    idle, estimate = _context_idle(name, row, rows)
    capability = {} if row["vendor"] != "nvidia" else {"computeCapability": row["compute_capability"]}
    return manifest(
        "AcceleratorClass",
        name,
        {
            "productLabels": [AMD_PRODUCT_LABELS.get(name) or row["gfd_product_label"]],
            "memoryMebibytes": round(float(row["memory_gib"]) * 1024),
            **capability,
            "precisions": precisions,
            "idleWatts": decimal_text(idle, 1),
            **_watts("bareIdleWatts", row["idle_bare_w"]),
            "maxWatts": decimal_text(float(row["power_default_w"])),
            **_watts("minWatts", row["power_min_w"]),
            "memoryBandwidthGigabytesPerSecond": round(float(row["memory_bandwidth_gb_s"])),
            **_throughput("denseTeraflopsBf16", row["dense_tflops_bf16"]),
            **_throughput("denseTeraflopsFp16", row["dense_tflops_fp16"]),
            **_throughput("denseTeraflopsFp8", row["dense_tflops_fp8"]),
            **_throughput("denseTeraopsInt8", row["dense_tops_int8"]),
            "source": source(
                _cut(f"specs: {row['source_specs']}"),
                TABLE_DATE,
                _cut(
                    f"{_confidence(row)}{estimate}; power: {row['source_power']}; idle: {row['source_idle']}"
                    + (f"; {row['notes']}" if row["notes"] else "")
                ),
            ),
        },
    )


def _context_idle(name: str, row: Row, rows: dict[str, dict[str, str]]) -> tuple[float, str]:
    """Watts of a loaded board without work, and what to say when they are estimated."""
    if row["idle_context_w"]:
        return float(row["idle_context_w"]), ""
    relative = rows[CONTEXT_STEP_OF[name]]
    step = float(relative["idle_context_w"]) - float(relative["idle_bare_w"])
    text = f"; idle with a context estimated: bare idle plus the step of {relative['name']}, {step:.1f} W"
    return float(row["idle_bare_w"]) + step, text


def _confidence(row: Row) -> str:
    return "every figure read" if row["confidence"] == "read" else "partly recalled or derived, as the sources say"


def _watts(key: str, cell: str) -> dict[str, str]:
    return {key: decimal_text(float(cell), 1)} if cell else {}


def _throughput(key: str, cell: str) -> dict[str, int]:
    return {key: round(float(cell))} if cell else {}


def _cut(text: str) -> str:
    return textwrap.shorten(text, LONGEST_TEXT, placeholder=" ...")


def _cpu(row: Row) -> Manifest:
    share = CPU_CORES / CPU_CORES_OF_REFERENCE
    return manifest(
        "AcceleratorClass",
        "cpu",
        {
            "memoryMebibytes": CPU_MEMORY_MEBIBYTES,
            "precisions": ["fp32", "bf16"],
            "idleWatts": decimal_text(float(row["idle_bare_w"]) * share, 1),
            "maxWatts": decimal_text(float(row["power_default_w"]) * share, 1),
            "memoryBandwidthGigabytesPerSecond": round(float(row["memory_bandwidth_gb_s"]) * share),
            "source": source(
                f"{CPU_CORES} of {CPU_CORES_OF_REFERENCE} cores of a two-socket x86 server: {row['source_specs']}; "
                f"idle: {row['source_idle']}",
                TABLE_DATE,
                "rough: a share of the server's idle (wall) and package power; there is no meter per replica",
            ),
        },
    )
