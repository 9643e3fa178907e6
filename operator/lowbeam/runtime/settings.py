"""How one operator process runs. Filled by `lowbeam run` from flags and environment; nothing else reads either."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lowbeam.api.v1alpha1 import Engine
from lowbeam.errors import BadInput

HIGHEST_PORT = 65_535
LEASE_NAME, LEASE_NAMESPACE = "lowbeam-operator", "lowbeam-system"
"""Whoever holds it acts. The namespace is a default: that of the release counts."""


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """Settings of one operator process; every default is the one of the chart."""

    identity: str
    """Holder name in the Lease: the pod name, else host name and pid."""

    kubeconfig: str | None = None
    """Path; None: the pod's service account, else the user's default kubeconfig."""

    namespace: str = LEASE_NAMESPACE
    """Where the Lease lives."""

    worker_image: str = "localhost/lowbeam-worker:0.1.0"
    """Image of the native worker; `spec.pod.image` of a workload overrides it."""

    vllm_image: str = "vllm/vllm-openai:v0.33.0"
    """Image of vLLM for workloads with `spec.engine: VLLM`; `spec.pod.image` overrides it, as for the next ones."""

    sglang_image: str = "lmsysorg/sglang:v0.5.23"
    """Image of SGLang."""

    tei_image: str = "ghcr.io/huggingface/text-embeddings-inference:cuda-1.9"
    """Image of Text Embeddings Inference for classes with accelerators."""

    tei_cpu_image: str = "ghcr.io/huggingface/text-embeddings-inference:cpu-1.9"
    """The same for classes without."""

    llamacpp_image: str = "ghcr.io/ggml-org/llama.cpp:server-cuda-b11434"
    """Image of llama.cpp's server for classes with accelerators."""

    llamacpp_cpu_image: str = "ghcr.io/ggml-org/llama.cpp:server-b11434"
    """The same for classes without."""

    image_pull_policy: str = "IfNotPresent"
    """Pull policy of worker pods."""

    control_key: bytes = field(default=b"", repr=False)
    """Secret from which each workload's control-port token is derived; empty: the control ports are open."""

    agent_token_file: str = ""
    """File with the bearer token of the node agents' power limits; empty: the operator sets none."""

    planner_seconds: float = 15.0
    """The plan is made anew this often, and at once when a cap, a spec or the inventory changes."""

    debounce_seconds: float = 1.0
    """Changes that arrive within this time are planned together; a lower cap never waits."""

    guard_seconds: float = 2.0
    """Tick of the guard, which sheds within it."""

    poll_seconds: float = 2.0
    """Each worker's telemetry is read this often."""

    demand_window_seconds: float = 600.0
    """Load is observed in windows of this length; what is learned from them was tested at 600 s (docs/demand.md)."""

    metrics_port: int = 9400
    """Prometheus metrics; 0: off."""

    health_port: int = 9401
    """/livez and /readyz; 0: off."""

    prometheus_url: str = field(default="", repr=False)
    """Prometheus whose GPU power metrics stand in for workers that have no telemetry port; empty: none. It may hold a
    password, so that it is not in the repr."""

    leader_election: bool = True
    """False only where a single process is certain, such as a test."""

    def agent_token(self) -> str:
        """Read at every change, as the agents do: a rotated Secret counts without a restart. Empty where unreadable:
        the agents refuse, and say so."""
        try:
            return Path(self.agent_token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError):
            return ""

    def engine_images(self) -> dict[Engine, str]:
        """Images of the engines beside the native worker, for classes with accelerators."""
        return {
            Engine.VLLM: self.vllm_image,
            Engine.SGLANG: self.sglang_image,
            Engine.TEI: self.tei_image,
            Engine.LLAMA_CPP: self.llamacpp_image,
        }

    def cpu_engine_images(self) -> dict[Engine, str]:
        """The same for classes without: only for engines that run there."""
        return {Engine.TEI: self.tei_cpu_image, Engine.LLAMA_CPP: self.llamacpp_cpu_image}


def settings_from_environment(environment: Mapping[str, str]) -> OperatorSettings:
    """Settings from LOWBEAM_* variables: the way for `kopf run -m lowbeam.handlers`, and the defaults of `lowbeam run`.

    Raises BadInput that names the variable.
    """
    values: dict[str, Any] = {"identity": environment.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}"}
    for spec in fields(OperatorSettings):
        text = environment.get(f"LOWBEAM_{spec.name.upper()}")
        if text is None:
            continue
        values[spec.name] = _convert(spec.name, text, type(spec.default))
    if path := environment.get("LOWBEAM_CONTROL_KEY_FILE"):
        values["control_key"] = read_control_key(path)
    return OperatorSettings(**values)


def read_control_key(path: str) -> bytes:
    """The control key's bytes; raises BadInput when the file is missing or holds fewer than 16 bytes."""
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise BadInput(
            f"control key file {path}: {error.strerror}; mount the Secret with the key or leave the flag out"
        ) from error
    if len(key) < 16:
        raise BadInput(f"control key file {path}: {len(key)} bytes; a key of at least 16 bytes is needed")
    return key


def _convert(name: str, text: str, kind: type) -> Any:
    converter, expected = _CONVERTERS.get(kind, (str, "a text"))
    try:
        return converter(text)
    except (KeyError, ValueError) as error:
        raise BadInput(f'LOWBEAM_{name.upper()}: "{text}" is not {expected}') from error


def _truth(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _port(text: str) -> int:
    return range(HIGHEST_PORT + 1).index(int(text))


def _seconds(text: str) -> float:
    if 0 <= (seconds := float(text)) < math.inf:
        return seconds
    raise ValueError(text)


_CONVERTERS: dict[type, tuple[Callable[[str], Any], str]] = {
    bool: (_truth, "true or false"),
    int: (_port, f"a port (0 to {HIGHEST_PORT})"),
    float: (_seconds, "a number of seconds"),
}
