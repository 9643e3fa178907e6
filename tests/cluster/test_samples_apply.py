from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tools.localcluster.client import ClusterClient

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "workloads" / "samples").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_api_server_accepts_every_sample_as_it_is(file: Path, cluster: ClusterClient, namespace: str) -> None:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for document in yaml.safe_load_all(file.read_text()):
        if "namespace" in document["metadata"]:
            document["metadata"]["namespace"] = namespace
        said = cluster.kubectl(
            "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(document)
        )
        assert "serverside-applied" in said
        assert "Warning" not in said
