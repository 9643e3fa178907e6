"""docs/engines.md: its example plans, its commands name what exists, and its releases are those of the code."""

from __future__ import annotations

import functools
import json
import operator
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowbeam.api.v1alpha1 import Engine
from lowbeam.catalog.engines import ENGINES, EngineFacts
from lowbeam.cli import main
from lowbeam.telemetry.engine_metrics import SERIES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "docs" / "examples" / "vllm-on-a-gpu-pool.yaml"
OTHERS = [it for it in ENGINES.values() if it.engine is not Engine.NATIVE]


def nodes(folder: Path, **labels: str) -> str:
    name = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    items = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "n", "labels": {**name, **labels}},
            "status": {
                "allocatable": {"nvidia.com/gpu": "8"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
    ]
    file = folder / "nodes.json"
    file.write_text(json.dumps({"kind": "List", "items": items}))
    return str(file)


def test_the_example_is_planned_on_nodes_of_its_pool_and_on_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "-f", str(EXAMPLE), "--nodes", nodes(tmp_path, **{"lowbeam.dev/pool": "gpus"})]) == 0
    assert "assistants/chat" in capsys.readouterr().out
    assert main(["plan", "-f", str(EXAMPLE), "--nodes", nodes(tmp_path)]) == 1
    assert "spec.placement.nodeSelector" in capsys.readouterr().out


def test_the_commands_name_files_values_and_objects_that_exist() -> None:
    values: dict[str, Any] = yaml.safe_load((ROOT / "charts" / "lowbeam" / "values.yaml").read_text())
    keys = re.findall(r"--set (\S+?)=", PAGE)
    assert keys
    for key in keys:
        *sections, name = key.split(".")
        assert name in functools.reduce(operator.getitem, sections, values), key
    applied = {(it["kind"], it["metadata"]["name"]) for it in yaml.safe_load_all(EXAMPLE.read_text())}
    assert {("InferenceWorkload", "chat"), ("Namespace", "assistants")} <= applied
    assert f"kubectl apply -f {EXAMPLE.relative_to(ROOT)}" in PAGE
    assert "kubectl wait iw/chat -n assistants" in PAGE


@pytest.mark.parametrize("it", OTHERS, ids=[it.title for it in OTHERS])
def test_the_page_tells_the_release_and_every_metric_that_is_read(it: EngineFacts) -> None:
    assert re.search(rf"^\| {re.escape(it.title)} \| {re.escape(it.version)}\b", PAGE, re.MULTILINE)
    shown = PAGE.replace("`..._cached_total`", "`llamacpp:prompt_tokens_cached_total`")
    assert all(f"`{name}`" in shown for name in SERIES[it.engine])
