"""`lowbeam run`: the operator. Flags override LOWBEAM_* variables, which override the defaults."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
from typing import Any, cast

import kopf

import lowbeam.handlers  # noqa: F401  registers the handlers with kopf
from lowbeam.cli.flags import port
from lowbeam.errors import BadInput
from lowbeam.kube.aio_transport import connect
from lowbeam.runtime.logging import configure_logging
from lowbeam.runtime.settings import read_control_key, settings_from_environment

ENGINE_IMAGES = {
    "vllm_image": "vLLM",
    "sglang_image": "SGLang",
    "tei_image": "Text Embeddings Inference, on accelerators",
    "tei_cpu_image": "Text Embeddings Inference, without accelerators",
    "llamacpp_image": "llama.cpp's server, on accelerators",
    "llamacpp_cpu_image": "llama.cpp's server, without accelerators",
}
"""Settings with the image of each engine beside the native worker."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the operator."""
    parser.add_argument("--kubeconfig", help="path; default: service account in a pod, else the user's kubeconfig")
    parser.add_argument("--namespace", help="namespace of the Lease (default lowbeam-system)")
    parser.add_argument("--worker-image", help="image of the native worker")
    for name, title in ENGINE_IMAGES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"image of {title}")
    parser.add_argument("--image-pull-policy", choices=["Always", "IfNotPresent", "Never"])
    parser.add_argument("--control-key-file", help="file with the key of the workers' control ports")
    parser.add_argument("--agent-token-file", help="file with the token of the node agents' power limits")
    parser.add_argument("--metrics-port", type=port, help="Prometheus metrics (default 9400; 0: off)")
    parser.add_argument("--health-port", type=port, help="/livez and /readyz (default 9401; 0: off)")
    parser.add_argument("--prometheus-url", help="Prometheus with GPU power metrics, for pods without telemetry")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--log-format", default="json", choices=["json", "text"])


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM; 1 when the application died by itself. Raises Unauthorized where no configuration is found."""
    configure_logging(args.log_level, args.log_format)
    names = (
        "kubeconfig",
        "namespace",
        "worker_image",
        *ENGINE_IMAGES,
        "image_pull_policy",
        "agent_token_file",
        "metrics_port",
        "health_port",
        "prometheus_url",
    )
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.control_key_file:
        given["control_key"] = read_control_key(args.control_key_file)
    settings = dataclasses.replace(settings_from_environment(os.environ), **given)
    if settings.agent_token_file and not settings.agent_token():
        what = "is missing, unreadable or empty; mount the Secret of the node agents' token, or leave the flag out"
        raise BadInput(f"agent token file {settings.agent_token_file}: {what}")
    if settings.kubeconfig:
        os.environ["KUBECONFIG"] = settings.kubeconfig
    asyncio.run(_credentials_can_be_read(settings.kubeconfig))
    memo = kopf.Memo(lowbeam_settings=settings, failed=False)
    # kopf would look up a user name for an identity of its own, and images have none for uid 65532.
    kopf.run(standalone=True, clusterwide=True, memo=memo, identity=cast("Any", settings.identity))
    return 1 if memo.failed else 0


async def _credentials_can_be_read(kubeconfig: str | None) -> None:
    """One line before anything starts, where kopf and the application would each log a traceback and try again."""
    async with await connect(kubeconfig):
        pass
