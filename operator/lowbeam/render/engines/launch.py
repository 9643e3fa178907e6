"""What every engine is told when it starts, and what its container looks like: the vocabulary of the adapters.

Decides nothing. An adapter is a pure function `Launch -> Container`; it never sees a cluster, a cap or a pod.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from lowbeam.api.v1alpha1.provenance import ReasoningSwitch
from lowbeam.catalog.facts import Reasoning, ReasoningControl

ANSWER_SPREAD: Final = 4
"""Longest answer over the typical one; longest request too."""
STEP_TOKENS: Final = 8192
"""Tokens that vLLM and SGLang read in one step at most: vLLM's own default on boards of 70 GB and more, here on all, so
that the size of a board does not change what a profile means."""


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What an engine must know of a model beside its name and its files."""

    context_tokens: int = 0
    """Longest input and output together; 0 = unknown or cut by the engine."""
    reasoning_control: ReasoningControl | None = None
    quantises: bool = False
    """The weights are of a wider format, and the engine is to narrow them while it loads."""


UNKNOWN_TRAITS: Final = ModelTraits()


@dataclass(frozen=True, slots=True)
class Launch:
    """One replica of one option."""

    task: str
    model: str
    """The name under which clients ask for it."""
    path: str
    precision: str
    reasoning: Reasoning
    batch_limit: int
    accelerators: int
    """0 on a class without."""
    input_tokens: int
    output_tokens: int
    port: int
    control_port: int
    drain_seconds: int
    traits: ModelTraits = UNKNOWN_TRAITS

    def context_tokens(self, *, least: int) -> int:
        """Longest request that is let in: four times the typical one in steps of a power of two, within the model's own
        context; 0 = whatever the model says."""
        own = self.traits.context_tokens
        return min(own, max(least, answer_limit(self.input_tokens + self.output_tokens))) if own else 0

    def template_variables(self) -> dict[str, bool | str]:
        """Variables of the chat template that switch reasoning as the option says; empty where it has none."""
        control = self.traits.reasoning_control
        if control is None or control.switch not in {ReasoningSwitch.TEMPLATE_FLAG, ReasoningSwitch.EFFORT}:
            return {}
        value = control.value(self.reasoning)
        if value is None:
            return {}
        return {control.parameter: {"true": True, "false": False}.get(value, value)}


@dataclass(frozen=True, slots=True)
class Container:
    """What differs between engines in a pod template."""

    args: tuple[str, ...]
    command: tuple[str, ...] = ()
    """Empty: the image's own entry point."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """A user's variable of the same name wins."""
    ready_path: str = "/health"
    health_path: str = "/health"
    has_control_port: bool = False
    shared_memory: bool = False
    """Its processes talk through /dev/shm, of which a container has 64 MiB otherwise."""
    ends_at_once: bool = False
    """Whether SIGTERM aborts what is in flight: then it is sent only when all of that must be done."""
    start_seconds: int = 120
    """From its start to its first answer, beside reading the weights."""


Adapter = Callable[[Launch], Container]


def answer_limit(tokens: int) -> int:
    """Most tokens, from a typical count: four times as many cover the tail.

    Rounded up to a power of two, so that a small correction of `spec.load` does not restart pods.
    """
    return 1 if tokens <= 1 else 1 << (ANSWER_SPREAD * tokens - 1).bit_length()


def flag(name: str, value: int | str) -> tuple[str, ...]:
    """`--name value`; nothing for an empty value or 0."""
    return (name, str(value)) if value else ()


def json_flag(name: str, value: Mapping[str, bool | str]) -> tuple[str, ...]:
    """`--name {"a":true}`; nothing for an empty mapping."""
    return (name, json.dumps(value, separators=(",", ":"), sort_keys=True)) if value else ()
