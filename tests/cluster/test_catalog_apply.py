"""The built-in catalogue holds the same kinds as the cluster: the API server accepts every object of it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from lowbeam.catalog.builtin import DATA_FILES
from tools.localcluster.client import ClusterClient

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "operator/lowbeam/catalog/data" / name for name in DATA_FILES]


@pytest.fixture(scope="module", autouse=True)
def kinds(cluster: ClusterClient) -> None:
    """Our CRDs, whichever test comes first."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_api_server_accepts_the_built_in_catalogue(file: Path, cluster: ClusterClient) -> None:
    said = cluster.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(file))
    assert said.count("serverside-applied") == len(orjson.loads(file.read_bytes())["items"])


def test_the_objects_of_the_guide_are_accepted_too(cluster: ClusterClient) -> None:
    text = (ROOT / "docs/catalogue.md").read_text(encoding="utf-8")
    block = text.split("```yaml\n")[1].split("```")[0]
    said = cluster.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=block)
    assert said.count("serverside-applied") == 3
