"""What `lowbeam calibrate` writes, and the Job that it prints, are what the API server takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowbeam.cli import main
from lowbeam_worker.calibration.profile import document
from tests.worker.calibration_samples import DECODER, measurement, options, point
from tools.localcluster.client import ClusterClient

ROOT = Path(__file__).parents[2]
DRY_RUN = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")


def test_the_api_server_takes_a_measured_profile(cluster: ClusterClient) -> None:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    text = document(options(*DECODER), measurement(point(1, 10.0, 40.0), point(4, 25.5, 60.0)))
    said = cluster.kubectl(*DRY_RUN, stdin="# words of the calibration, as in a pod's log\n" + text)
    assert said.count("serverside-applied") == 1


def test_the_api_server_takes_the_job(cluster: ClusterClient, capsys: pytest.CaptureFixture[str]) -> None:
    where = "--image registry.example/worker:1 --model-claim weights --model-path /models/qwen3-8b"
    assert main(["calibrate", "qwen3-8b", "--class", "h200", "--job", *where.split()]) == 0
    said = cluster.kubectl(*DRY_RUN, stdin=capsys.readouterr().out)
    assert "calibrate-qwen3-8b-h200 serverside-applied" in said
