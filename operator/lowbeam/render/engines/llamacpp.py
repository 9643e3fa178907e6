"""llama.cpp's server at build b11434 (MIT): flags as in `tools/server/README.md` of that build.

One slot per request of the batch limit; the context is divided among the slots and taken from memory at start. On
SIGTERM it stops without finishing what runs, so that the signal must come when all of it is done.
"""

from __future__ import annotations

from typing import Final

from lowbeam.api.v1alpha1.provenance import ReasoningSwitch
from lowbeam.render.engines.launch import Container, Launch, flag, json_flag

LEAST_CONTEXT_TOKENS: Final = 2048
"""Each slot takes its memory at start, so that more than what is needed leaves less for other slots."""


def llamacpp(launch: Launch) -> Container:
    """`llama-server`, the entry point of its images."""
    control = launch.traits.reasoning_control
    by_level = control is not None and control.switch is ReasoningSwitch.EFFORT
    variables = launch.template_variables()
    context = launch.context_tokens(least=LEAST_CONTEXT_TOKENS)
    return Container(
        args=(
            *("--model", launch.path),
            *("--alias", launch.model),
            *("--host", "0.0.0.0"),  # noqa: S104 - inside the pod
            *("--port", str(launch.port)),
            *("--parallel", str(launch.batch_limit)),
            # Without a length of our own the slots share the model's: divided, it may be too short for any request.
            *(flag("--ctx-size", launch.batch_limit * context) or ("--kv-unified",)),
            *(("--gpu-layers", "all") if launch.accelerators else ()),
            *("--metrics", "--no-ui", "--offline"),
            *(("--embeddings",) if launch.task == "feature-extraction" else ()),
            *(("--reranking",) if launch.task == "text-ranking" else ()),
            *(() if by_level else json_flag("--chat-template-kwargs", variables)),
            *(flag("--reasoning-effort", str(next(iter(variables.values()), ""))) if by_level else ()),
        ),
        ends_at_once=True,
    )
