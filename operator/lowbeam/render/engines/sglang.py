"""SGLang 0.5.23 (Apache-2.0): flags of `sglang.launch_server` as in `sglang/srt/arg_groups/fields/`.

Batch limit, precision and model are read at start only. On SIGTERM it answers its health probe with 503, ends what
runs, then exits. Prefix caching is on unless it is switched off.
"""

from __future__ import annotations

from typing import Final

from lowbeam.catalog.facts import Reasoning
from lowbeam.render.engines.launch import STEP_TOKENS, Container, Launch, flag, json_flag
from lowbeam.render.engines.vllm import DTYPES, LEAST_CONTEXT_TOKENS

_PARSERS: Final = (("qwen3", "qwen3"), ("deepseek-v3.1", "deepseek-v3"), ("gpt-oss", "gpt-oss"))


def sglang(launch: Launch) -> Container:
    """The server with the option's limits, and with the metrics that it does not export by default."""
    thinks = launch.reasoning is not Reasoning.OFF
    parser = next((name for model, name in _PARSERS if thinks and launch.model.startswith(model)), "")
    return Container(
        command=("python3", "-m", "sglang.launch_server"),
        args=(
            *("--model-path", launch.path),
            *("--served-model-name", launch.model),
            *("--host", "0.0.0.0"),  # noqa: S104 - inside the pod
            *("--port", str(launch.port)),
            *("--dtype", DTYPES.get(launch.precision, "auto")),
            *flag("--quantization", "fp8" if launch.traits.quantises else ""),
            *("--max-running-requests", str(launch.batch_limit)),
            *("--chunked-prefill-size", str(STEP_TOKENS)),
            *flag("--context-length", launch.context_tokens(least=LEAST_CONTEXT_TOKENS)),
            *("--tp-size", str(max(1, launch.accelerators))),
            "--enable-metrics",
            *json_flag("--default-chat-template-kwargs", launch.template_variables()),
            *flag("--reasoning-parser", parser),
        ),
        # Its health probe would generate a token each time it is asked while nothing else runs.
        environment={"USER": "lowbeam", "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"},
        shared_memory=True,
        start_seconds=600,  # compiles and captures its graphs
    )
