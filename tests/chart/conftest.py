"""Helm, helm-unittest and kubeconform for the tests of this folder; built before the first test starts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.chart_tools import CHART, Helm, Render
from tools.localcluster import build

TOOLS = ("helm", "helm-unittest", "kubeconform", "promtool", "prometheus", "monitoring")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the tools when tests of this folder were selected: no test's time limit covers a compiler."""
    here = Path(__file__).parent
    if not session.config.option.collectonly and any(here in item.path.parents for item in session.items):
        with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            build.ensure_all(TOOLS)


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Run helm with a home of its own; raises nothing, look at `returncode`."""
    home = tmp_path_factory.mktemp("helm")

    def run(*args: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
        if kubeconfig is not None:
            environment["KUBECONFIG"] = str(kubeconfig)
        return subprocess.run(
            [build.binary("helm"), *args], capture_output=True, text=True, check=False, env=environment, timeout=120
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Manifests of the chart for some values, written as dotted names: `render(**{"crds.keep": False})`."""

    def run(**values: object) -> list[dict[str, Any]]:
        chosen = [part for name, value in values.items() for part in ("--set-json", f"{name}={json.dumps(value)}")]
        done = helm("template", "lowbeam", str(CHART), "--namespace", "lowbeam-system", *chosen)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return run
