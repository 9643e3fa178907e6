"""What the command line and the environment say: parsed once, frozen, checked before torch is imported."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lowbeam.api.wire import CONTROL_PORT, SERVING_PORT


class Task(StrEnum):
    """Hugging Face pipeline tags that this worker serves; code completion has no tag of its own there."""

    FEATURE_EXTRACTION = "feature-extraction"
    TEXT_CLASSIFICATION = "text-classification"
    TEXT_RANKING = "text-ranking"
    ZERO_SHOT_CLASSIFICATION = "zero-shot-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - a task, not a secret
    QUESTION_ANSWERING = "question-answering"
    SUMMARIZATION = "summarization"
    TEXT_GENERATION = "text-generation"
    CODE_COMPLETION = "code-completion"

    @property
    def generative(self) -> bool:
        """True where a decoder runs."""
        return self in {Task.TEXT_GENERATION, Task.CODE_COMPLETION}

    @property
    def writes(self) -> bool:
        """True where answers have a length of their own."""
        return self.generative or self is Task.SUMMARIZATION


class Precision(StrEnum):
    """Precisions of the weights that this engine can load; the catalogue knows more, for other engines."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Everything a worker is told when it starts."""

    task: Task
    model: str
    """The name under which clients ask for the model."""
    model_path: str
    precision: Precision
    batch_limit: int
    max_output_tokens: int
    port: int = SERVING_PORT
    control_port: int = CONTROL_PORT
    device: str = "auto"
    allow_downloads: bool = False
    allow_pickle: bool = False
    """Read weights in PyTorch's older format where a model has no safetensors."""
    pod: str = ""
    namespace: str = ""
    control_token: str = ""
    """Bearer token of the control port; empty: no token is asked for."""
    served_name: str = ""
    """A second name for clients, which stays whatever model is loaded; empty: none."""
    control_token_file: str = ""
    """File with that token, such as a mounted Secret; wins over `control_token`."""
    template_defaults: Mapping[str, bool | str] = field(default_factory=dict)
    """Variables of the chat template for requests that say nothing about thinking."""


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> WorkerOptions:
    """Options from flags and the pod's environment; exits with code 2 and a message on bad input."""
    parser = argparse.ArgumentParser(prog="lowbeam-worker", description="Serve one model and account for its joules.")
    parser.add_argument("--task", required=True, choices=[str(task) for task in Task], help="Hugging Face pipeline tag")
    parser.add_argument("--model", required=True, help="name under which clients ask for the model")
    parser.add_argument(
        "--model-path",
        default="",
        help="folder, Hugging Face id, package:NAME (a Python package that ships the model) or random:llama-tiny "
        "(random weights made on the spot); default: the name given by --model",
    )
    parser.add_argument(
        "--served-name",
        default="",
        help="a second name for clients, which stays when the control port changes the model, such as the workload's",
    )
    parser.add_argument("--precision", default="fp32", type=_precision, help="fp32, bf16, fp16 or int8 (default fp32)")
    parser.add_argument(
        "--batch-limit",
        default=8,
        type=_at_least_one,
        help="most requests (decoder) or rows (encoder) in one step, at start; the control port changes it (default 8)",
    )
    parser.add_argument(
        "--max-output-tokens",
        default=512,
        type=_at_least_one,
        help="longest answer, and the length when a request names none (default 512)",
    )
    parser.add_argument(
        "--default-chat-template-kwargs",
        default={},
        type=_template_variables,
        metavar="JSON",
        help="how much a chat model thinks where a request and the profile say nothing, as variables of its template: "
        """{"enable_thinking": false} or {"reasoning_effort": "low"}""",
    )
    parser.add_argument("--port", default=SERVING_PORT, type=_port, help=f"serving port (default {SERVING_PORT})")
    parser.add_argument(
        "--control-port", default=CONTROL_PORT, type=_port, help=f"telemetry and control (default {CONTROL_PORT})"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="where the model runs")
    parser.add_argument(
        "--allow-downloads",
        action="store_true",
        default=environment.get("HF_HUB_OFFLINE") == "0",
        help="let transformers fetch the model from its hub; HF_HUB_OFFLINE=0 (spec.pod.env) says the same",
    )
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read weights in PyTorch's older format, which can carry code, where a model has no safetensors",
    )
    parser.add_argument(
        "--control-token-file",
        default=environment.get("LOWBEAM_CONTROL_TOKEN_FILE", ""),
        help="file with the control port's bearer token, such as a mounted Secret; read anew at every request "
        "(default: LOWBEAM_CONTROL_TOKEN_FILE, else the token itself in LOWBEAM_CONTROL_TOKEN)",
    )
    given = parser.parse_args(arguments)
    return WorkerOptions(
        task=Task(given.task),
        model=given.model,
        model_path=given.model_path or given.model,
        precision=given.precision,
        batch_limit=given.batch_limit,
        max_output_tokens=given.max_output_tokens,
        served_name=given.served_name,
        port=given.port,
        control_port=given.control_port,
        device=given.device,
        allow_downloads=given.allow_downloads,
        allow_pickle=given.allow_pickle,
        pod=environment.get("POD_NAME", ""),
        namespace=environment.get("POD_NAMESPACE", ""),
        control_token=environment.get("LOWBEAM_CONTROL_TOKEN", ""),
        control_token_file=given.control_token_file,
        template_defaults=given.default_chat_template_kwargs,
    )


def _precision(text: str) -> Precision:
    try:
        return Precision(text.lower())
    except ValueError:
        known = ", ".join(Precision)
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a precision that this worker can load; it loads {known}. "
            "Choose another precision, or another engine for this model."
        ) from None


def _at_least_one(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _template_variables(text: str) -> dict[str, bool | str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, bool | str) for value in found.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object of true, false and strings")
    return found


def _port(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (1 to 65535)")
    return value
