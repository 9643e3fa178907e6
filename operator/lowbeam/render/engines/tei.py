"""Text Embeddings Inference 1.9 (Apache-2.0): flags as in `docs/source/en/cli_arguments.md` at commit 0d124dc.

A batch ends at `--max-batch-requests` rows or `--max-batch-tokens` tokens, whichever comes first; both are read at
start. On SIGTERM it ends what runs and takes no new connection. It truncates what is longer than the model reads.
"""

from __future__ import annotations

from typing import Final

from lowbeam.render.engines.launch import Container, Launch

LEAST_BATCH_TOKENS: Final = 16384
"""TEI's own default; a model whose longest input is above the budget does not start."""
_DTYPES: Final = {"fp32": "float32", "fp16": "float16"}


def tei(launch: Launch) -> Container:
    """`text-embeddings-router`, the entry point of its images."""
    return Container(
        args=(
            *("--model-id", launch.path),
            *("--served-model-name", launch.model),
            # Left out, it would listen on what HOSTNAME names, which in a pod is the pod.
            *("--hostname", "0.0.0.0"),  # noqa: S104 - inside the pod
            *("--port", str(launch.port)),
            *("--dtype", _DTYPES.get(launch.precision, launch.precision)),
            *("--max-batch-requests", str(launch.batch_limit)),
            *("--max-batch-tokens", str(max(LEAST_BATCH_TOKENS, launch.batch_limit * launch.input_tokens))),
        ),
        # Its images keep downloads in a folder that only root may write.
        environment={"HUGGINGFACE_HUB_CACHE": "/tmp"},  # noqa: S108 - the pod's own scratch volume
    )
