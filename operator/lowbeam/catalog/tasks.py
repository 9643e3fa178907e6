"""What Lowbeam assumes about a task when a workload does not say: benchmark, floor, target, latency, lengths.

Decides defaults only; every one of them can be overridden in the workload. Names are Hugging Face pipeline tags, except
`code-completion`, for which Hugging Face has no tag: fill-in-the-middle for editors, told apart from chat because its
models, prompts and latency targets differ.

Scores are in hundredths of the benchmark's unit. A floor is the least that is useful, a target the knee: above it each
point of quality costs much more energy (figures: docs/catalogue.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lowbeam.catalog.facts import TaskFacts

CHAT = TaskFacts(
    name="text-generation",
    # MMLU-Pro has the widest coverage in one setting (one reporter, 0-shot) of all models with measured energy.
    benchmark="mmlu-pro",
    # Below 45 only models under 4 B remain, which mainly repeat; Llama-3.1-8B (47.6) is the least that serves.
    floor_centi=4500,
    # Qwen3-8B (64.3) costs 1.7 times the joules of Llama-3.1-8B for 17 points; the next 3 points cost 1.5 times more.
    target_centi=6400,
    generative=True,
    # Prompt and answer of a mean turn: published chat answers are 350 to 1,340 tokens, the efficient ones short.
    default_input_tokens=500,
    default_output_tokens=400,
    # An answer is read while it is written: its total time depends on its length, so it has no default.
    end_to_end_ms=None,
    # A second until the first word, then 20 tokens/s: about four times the speed of reading.
    time_to_first_token_ms=1000,
    inter_token_ms=50,
)

CODE = TaskFacts(
    name="code-completion",
    # The only code benchmark reported for small and large code models alike.
    benchmark="humaneval",
    floor_centi=7000,
    # Qwen2.5-Coder-7B (88.4): the 32B of the same family adds 4 points for several times the joules (modelled).
    target_centi=8800,
    generative=True,
    # A prompt with the file around the cursor; measured completions are about 250 tokens.
    default_input_tokens=800,
    default_output_tokens=250,
    end_to_end_ms=None,
    # The suggestion competes with typing: half a second, then faster than chat.
    time_to_first_token_ms=500,
    inter_token_ms=30,
)

CLASSIFICATION = TaskFacts(
    name="text-classification",
    # Binary sentiment: the classification set that every encoder family reports.
    benchmark="sst2",
    floor_centi=9000,
    # DistilBERT (91.3) keeps 95 % of RoBERTa-large (96.4) at a fifth of the parameters.
    target_centi=9100,
    generative=False,
    default_input_tokens=128,
    default_output_tokens=1,
    # Inside a request of a person: half a second leaves room for the rest.
    end_to_end_ms=500,
    time_to_first_token_ms=None,
    inter_token_ms=None,
)

EMBEDDING = TaskFacts(
    name="feature-extraction",
    # Mean of the 56 English tasks of MTEB v1, the list that all these models report.
    benchmark="mteb-en-v1",
    # all-MiniLM-L6-v2 (56.3), the least that people use for retrieval, is the knee too: ten times the parameters add
    # 7 points.
    floor_centi=5600,
    target_centi=5600,
    generative=False,
    default_input_tokens=128,
    default_output_tokens=1,
    end_to_end_ms=500,
    time_to_first_token_ms=None,
    inter_token_ms=None,
)

TASKS: Mapping[str, TaskFacts] = MappingProxyType(
    {facts.name: facts for facts in sorted((CHAT, CODE, CLASSIFICATION, EMBEDDING), key=lambda facts: facts.name)}
)
"""Every task that Lowbeam knows, by name."""
