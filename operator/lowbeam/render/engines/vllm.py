"""vLLM 0.33.0 (Apache-2.0): flags of `vllm serve`; its `engine/arg_utils.py` and `entrypoints/common/cli_args.py`.

Batch limit, precision and model are read at start only. On SIGTERM it aborts what runs unless `--shutdown-timeout` says
how long to wait. Its development server (sleep, wake, weight updates) is never switched on.
"""

from __future__ import annotations

from typing import Final

from lowbeam.catalog.facts import Reasoning
from lowbeam.render.engines.launch import STEP_TOKENS, Container, Launch, flag, json_flag

LEAST_CONTEXT_TOKENS: Final = 8192
"""Its cache is shared by all requests, so that room for a longer one costs nothing until one comes."""
DTYPES: Final = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""`auto` for the others: the checkpoint says how it was quantised."""
_PARSERS: Final = (("qwen3", "qwen3"), ("deepseek-v3.1", "deepseek_v3"))
"""Beginning of a model's name -> who takes its thinking out of the answer."""
_STOPS_BEFORE_KILL_SECONDS: Final = 5


def vllm(launch: Launch) -> Container:
    """`vllm serve` with the option's limits."""
    thinks = launch.reasoning is not Reasoning.OFF
    parser = next((name for model, name in _PARSERS if thinks and launch.model.startswith(model)), "")
    return Container(
        command=("vllm", "serve"),
        args=(
            launch.path,
            *("--served-model-name", launch.model),
            *("--host", "0.0.0.0"),  # noqa: S104 - inside the pod
            *("--port", str(launch.port)),
            *("--dtype", DTYPES.get(launch.precision, "auto")),
            *flag("--quantization", "fp8" if launch.traits.quantises else ""),
            *("--max-num-seqs", str(launch.batch_limit)),
            *("--max-num-batched-tokens", str(max(STEP_TOKENS, launch.batch_limit))),
            *flag("--max-model-len", launch.context_tokens(least=LEAST_CONTEXT_TOKENS)),
            *("--tensor-parallel-size", str(max(1, launch.accelerators))),
            "--enable-prefix-caching",
            *("--shutdown-timeout", str(launch.drain_seconds - _STOPS_BEFORE_KILL_SECONDS)),
            *(("--runner", "pooling") if launch.task == "feature-extraction" else ()),
            *json_flag("--default-chat-template-kwargs", launch.template_variables()),
            *flag("--reasoning-parser", parser),
        ),
        # Without a name in /etc/passwd for its user id, Python asks the environment who runs it.
        environment={"USER": "lowbeam", "VLLM_NO_USAGE_STATS": "1"},
        shared_memory=True,
        start_seconds=600,  # compiles and captures its graphs
    )
