"""Serving engines as facts: what each can run, and what can be changed in it while it runs.

Decides nothing about a workload; `sizing` asks `lacks`, `render` has the flags, `telemetry` the names of metrics. Every
fact was read in the release that `version` names (docs/engines.md says where).

Invariant: an engine is said to do only what can be set from outside when it starts; what a client would have to ask for
in each request (a level of reasoning, say) is not done by the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lowbeam.api.v1alpha1.inferenceworkload import Engine
from lowbeam.api.v1alpha1.provenance import ReasoningSwitch
from lowbeam.catalog.facts import AcceleratorClass, Model, Variant

_NATIVE_PRECISIONS = ("fp32", "bf16", "fp16")
_GENERATES = frozenset({"code-completion", "image-text-to-text", "text-generation"})
_TENSOR_PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "mxfp4")
GGUF: Final = ".gguf"
"""How the files end that llama.cpp loads."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine."""

    engine: Engine
    title: str
    """How people name it."""
    version: str
    """The release whose flags and metrics are used; the default image is of this one."""
    tasks: frozenset[str]
    precisions: tuple[str, ...]
    """Empty: whatever the file of the weights is in."""
    cpu_precisions: tuple[str, ...] | None
    """On a class without accelerators; None = it does not run there."""
    several_accelerators: bool
    switches: frozenset[ReasoningSwitch]
    """Ways to switch reasoning that can be set for all requests at start."""
    hot_batch: bool = False
    """Whether the batch limit changes while it runs; if not, another limit is another Deployment."""
    cuts_texts: bool = False
    """Whether it cuts a text that is longer than the model reads, unasked; if not, it refuses the request."""


NATIVE: Final = EngineFacts(
    engine=Engine.NATIVE,
    title="native worker",
    version="",
    tasks=frozenset(
        {
            "code-completion",
            "feature-extraction",
            "question-answering",
            "summarization",
            "text-classification",
            "text-generation",
            "text-ranking",
            "token-classification",
            "zero-shot-classification",
        }
    ),  # lowbeam_worker.options.Task
    precisions=_NATIVE_PRECISIONS,
    cpu_precisions=(*_NATIVE_PRECISIONS, "int8"),
    several_accelerators=False,
    switches=frozenset({ReasoningSwitch.TEMPLATE_FLAG, ReasoningSwitch.EFFORT}),
    hot_batch=True,
)

ENGINES: Final[dict[Engine, EngineFacts]] = {
    it.engine: it
    for it in (
        NATIVE,
        EngineFacts(
            engine=Engine.VLLM,
            title="vLLM",
            version="0.33.0",
            tasks=_GENERATES | {"feature-extraction"},
            precisions=_TENSOR_PRECISIONS,
            cpu_precisions=None,
            several_accelerators=True,
            switches=frozenset({ReasoningSwitch.TEMPLATE_FLAG}),
        ),
        EngineFacts(
            engine=Engine.SGLANG,
            title="SGLang",
            version="0.5.23",
            tasks=_GENERATES,
            precisions=_TENSOR_PRECISIONS,
            cpu_precisions=None,
            several_accelerators=True,
            switches=frozenset({ReasoningSwitch.TEMPLATE_FLAG, ReasoningSwitch.EFFORT}),
        ),
        EngineFacts(
            engine=Engine.TEI,
            title="TEI",
            version="1.9.3",
            tasks=frozenset({"feature-extraction", "text-classification", "text-ranking"}),
            precisions=("fp32", "fp16"),
            cpu_precisions=("fp32",),
            several_accelerators=False,
            switches=frozenset(),
            cuts_texts=True,
        ),
        EngineFacts(
            engine=Engine.LLAMA_CPP,
            title="llama.cpp",
            version="b11434",
            tasks=frozenset({"code-completion", "feature-extraction", "text-generation", "text-ranking"}),
            precisions=(),
            cpu_precisions=(),
            several_accelerators=True,
            switches=frozenset({ReasoningSwitch.TEMPLATE_FLAG, ReasoningSwitch.EFFORT}),
        ),
    )
}
"""Every engine that is rendered, in the order in which they are recommended."""

_BY_NAME = {it.engine.value: it for it in ENGINES.values()}


def engine_named(name: str) -> EngineFacts:
    """The facts of an option's engine; a name that is none (an edited annotation) reads as the native worker."""
    return _BY_NAME.get(name, NATIVE)


def lacks(
    it: EngineFacts,
    task: str,
    model: Model,
    variant: Variant,
    *,
    accelerator: AcceleratorClass,
    accelerators: int,
    path: str,
) -> str:
    """What keeps the engine from running a variant, as the end of a sentence; empty when nothing does.

    `path`: what would be loaded.
    """
    precisions = it.precisions if accelerator.product_labels else it.cpu_precisions
    if task not in it.tasks:
        return f"does not do {task}"
    if precisions is None:
        return "needs an accelerator"
    if precisions and variant.precision not in precisions:
        return f"does not serve {variant.precision}"
    if accelerators > 1 and not it.several_accelerators:
        return f"uses one accelerator, not {accelerators}"
    if it.engine is Engine.LLAMA_CPP and not path.endswith(GGUF):
        return f"loads {GGUF} files, which {path} is not; name one in spec.pod.modelPath"
    control = model.reasoning_control
    if control is not None and control.switch not in it.switches:
        return f"cannot be told at start to reason {variant.reasoning}: {_asked_by(control.switch, control.parameter)}"
    return ""


def _asked_by(switch: ReasoningSwitch, parameter: str) -> str:
    if switch is ReasoningSwitch.PROMPT:
        return "the model reads it in each prompt"
    return f"{parameter} is a field of each request"
