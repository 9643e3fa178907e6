"""One adapter per engine: an option and a model -> the container that serves it.

    container = ADAPTERS[Engine.VLLM](Launch(...))     # arguments, environment, probes, how it drains

Each adapter names the release whose documented flags it uses; tests/unit/engines/flags.json lists those flags, and a
test refuses an adapter that uses another one. What an engine can serve at all is `catalog.engines`; its metrics are
read in `telemetry.engine_metrics`.
"""

from typing import Final

from lowbeam.api.v1alpha1.inferenceworkload import Engine
from lowbeam.render.engines.launch import UNKNOWN_TRAITS, Adapter, Container, Launch, ModelTraits, answer_limit
from lowbeam.render.engines.llamacpp import llamacpp
from lowbeam.render.engines.native import native
from lowbeam.render.engines.sglang import sglang
from lowbeam.render.engines.tei import tei
from lowbeam.render.engines.vllm import vllm

ADAPTERS: Final[dict[Engine, Adapter]] = {
    Engine.NATIVE: native,
    Engine.VLLM: vllm,
    Engine.SGLANG: sglang,
    Engine.TEI: tei,
    Engine.LLAMA_CPP: llamacpp,
}

__all__ = ["ADAPTERS", "UNKNOWN_TRAITS", "Container", "Launch", "ModelTraits", "answer_limit"]
