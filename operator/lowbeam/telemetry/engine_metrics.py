"""What engines that are not ours say of their load: names of their metrics -> our fields, and how to read their text.

Decides which series count. Pure: no clock, no I/O. Nothing here is ever a watt: none of these engines exports joules,
so that their power is asked of Prometheus and is unknown otherwise, never 0.

Invariants: what an engine does not export is None; a name means the same whether the engine was scraped by us or by
Prometheus; only the few lines that count are parsed, because an exposition has a thousand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from lowbeam.api.v1alpha1 import Engine
from lowbeam.api.wire import LARGEST_COUNT

SERIES: Final[Mapping[Engine, Mapping[str, str]]] = {
    # vllm/v1/metrics/loggers.py of 0.33.0. `request_success` counts every end, aborts too.
    Engine.VLLM: {
        "vllm:request_success_total": "completed",
        "vllm:num_requests_running": "running",
        "vllm:num_requests_waiting": "waiting",
        "vllm:prompt_tokens_total": "input_tokens",
        "vllm:generation_tokens_total": "output_tokens",
    },
    # sglang/srt/observability/metrics_collector.py of 0.5.23.
    Engine.SGLANG: {
        "sglang:num_requests_total": "completed",
        "sglang:num_running_reqs": "running",
        "sglang:num_queue_reqs": "waiting",
        "sglang:prompt_tokens_total": "input_tokens",
        "sglang:generation_tokens_total": "output_tokens",
    },
    # router/src and core/src of 1.9.3. Its `te_request_count` counts a single prediction twice, `te_request_success`
    # not at all; each answered request has one duration. It has no gauge of what runs.
    Engine.TEI: {
        "te_request_duration_count": "completed",
        "te_queue_size": "waiting",
        "te_request_input_length_sum": "input_tokens",
    },
    # tools/server/README.md of b11434. It counts tokens and no requests; prompt tokens that it had cached apart.
    Engine.LLAMA_CPP: {
        "llamacpp:requests_processing": "running",
        "llamacpp:requests_deferred": "waiting",
        "llamacpp:prompt_tokens_total": "input_tokens",
        "llamacpp:prompt_tokens_cached_total": "input_tokens",
        "llamacpp:tokens_predicted_total": "output_tokens",
    },
}
"""Series -> field of `EngineCounts`: counters and not rates, so that one place judges resets."""

PREFIXES: Final = {Engine.VLLM: "vllm:", Engine.SGLANG: "sglang:", Engine.TEI: "te_", Engine.LLAMA_CPP: "llamacpp:"}


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """What one engine says about its requests, summed over its series. `None` = not known."""

    completed: int | None = None
    """Since it started."""
    running: int | None = None
    waiting: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def accepted(self) -> int | None:
        """Completed or still inside: what was offered, as far as it was not refused."""
        return None if self.completed is None else self.completed + (self.running or 0) + (self.waiting or 0)


def read(engine: Engine, text: str) -> EngineCounts:
    """The counts in one exposition. Raises ValueError for a text that is no exposition of this engine.

    An empty one is none of it: TEI exports a series only after its first request.
    """
    wanted, prefix = SERIES[engine], PREFIXES[engine]
    lines = text.splitlines()
    if text.strip() and not any(line.startswith(prefix) for line in lines):
        raise ValueError(f"no metric begins with {prefix}")
    counted = [line for line in lines if line.startswith(prefix) and _name(line) in wanted]
    sums: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families("\n".join(counted) + "\n"):
            for sample in family.samples:
                field = wanted[sample.name]
                sums[field] = sums.get(field, 0.0) + sample.value
    except LookupError as error:  # the parser's own, and a name that it reads in another way than `_name`
        raise ValueError(f"a line is no metric ({error})") from error
    return counts_of(sums)


def counts_of(sums: Mapping[str, float]) -> EngineCounts:
    """Sums by field; raises ValueError where one is no count."""
    for field, value in sums.items():
        if not 0 <= value < LARGEST_COUNT:
            raise ValueError(f"{field} is {value:g}")
    return EngineCounts(**{field: round(value) for field, value in sums.items()})


def _name(line: str) -> str:
    return line.partition("{")[0].partition(" ")[0]
