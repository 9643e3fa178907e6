"""AcceleratorClass manifests from the carried table of accelerator facts."""

from __future__ import annotations

from tools.catalog.rows import Manifest, Row, csv_rows, decimal_text, manifest, source

GPU_ROWS = {
    "a100": "nvidia-a100-sxm4-80gb",
    "b200": "nvidia-b200-sxm",
    "h100": "nvidia-h100-sxm5-80gb",
    "l4": "nvidia-l4",
}
"""Class name -> row of accelerators.csv."""

TABLE_DATE = "2026-11"
L4_CONTEXT_IDLE_WATTS = 28.0
"""No reading of an L4 with a loaded model was found. Bare idle is 16.5 W; the T4, its predecessor at the same limit,
reads 26.8 W with a context. We take the T4's step of 11.5 W above our L4's bare idle."""

CPU_CORES = 8
CPU_CORES_OF_REFERENCE = 112
CPU_MEMORY_MEBIBYTES = 16_384
"""A replica without accelerator gets 8 cores and 16 GiB of the two-socket reference (2 x 56 cores)."""


def accelerator_classes() -> list[Manifest]:
    """All classes, by name."""
    rows = {row["name"]: row for row in csv_rows("accelerators/accelerators.csv")}
    classes = [_gpu(name, rows[row]) for name, row in GPU_ROWS.items()]
    return sorted([*classes, _cpu(rows["x86-cpu-2s"])], key=lambda item: item["metadata"]["name"])


def _gpu(name: str, row: Row) -> Manifest:
    precisions = ["fp32", "fp16", *(["bf16"] if row["supports_bf16"] == "true" else [])]
    precisions += ["fp8"] if row["supports_fp8"] == "true" else []
    precisions += ["int8"] if row["supports_int8"] == "true" else []
    # MXFP4 weights run on Hopper and Blackwell in the published measurements; elsewhere nothing was seen.
    precisions += ["mxfp4"] if row["architecture"] in {"hopper", "blackwell"} else []
    idle = float(row["idle_context_w"]) if row["idle_context_w"] else L4_CONTEXT_IDLE_WATTS
    note = "" if row["idle_context_w"] else "idle with a context is estimated: bare idle plus the step read on a T4"
    return manifest(
        "AcceleratorClass",
        name,
        {
            "productLabels": [row["gfd_product_label"]],
            "memoryMebibytes": round(float(row["memory_gib"]) * 1024),
            "computeCapability": row["compute_capability"],
            "precisions": precisions,
            "idleWatts": decimal_text(idle),
            "maxWatts": decimal_text(float(row["power_default_w"])),
            "memoryBandwidthGigabytesPerSecond": round(float(row["memory_bandwidth_gb_s"])),
            "denseTeraflopsBf16": round(float(row["dense_tflops_bf16"])),
            "source": source(f"specs: {row['source_specs']}; power: {row['source_power']}"[:512], TABLE_DATE, note),
        },
    )


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
