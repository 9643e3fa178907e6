"""Lowbeam's own worker: its command line, and what it can do that no other engine can (docs/worker.md).

The batch limit is not in its arguments: every replica starts at 1 and the operator raises it through the control port,
so that a new replica never draws more than was admitted for it.
"""

from __future__ import annotations

from typing import Final

from lowbeam.render.engines.launch import Container, Launch, answer_limit, json_flag

FIRST_BATCH_LIMIT: Final = 1


def native(launch: Launch) -> Container:
    """The worker; its image's entry point is `python -m lowbeam_worker`."""
    return Container(
        args=(
            *("--task", launch.task),
            *("--model", launch.model),
            *("--model-path", launch.path),
            *("--precision", launch.precision),
            *("--batch-limit", str(FIRST_BATCH_LIMIT)),
            *("--max-output-tokens", str(answer_limit(launch.output_tokens))),
            *json_flag("--default-chat-template-kwargs", launch.template_variables()),
            *("--port", str(launch.port)),
            *("--control-port", str(launch.control_port)),
        ),
        ready_path="/ready",
        has_control_port=True,
    )
