"""A batch limit above what one request may hold: batches are filled by several."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertForSequenceClassification

from lowbeam_worker.front.reading import MAX_ROWS
from lowbeam_worker.options import Task
from tests.worker.conftest import local_worker, options
from tests.worker.tiny import save_bert

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("begins_with", [8, 2 * MAX_ROWS])
async def test_a_worker_starts_and_changes_model_with_a_wide_batch_limit(tmp_path: Path, begins_with: int) -> None:
    first, second = (str(save_bert(BertForSequenceClassification, tmp_path / name)) for name in ("first", "second"))
    given = options(Task.TEXT_CLASSIFICATION, "first", first, batch_limit=begins_with)
    async for local in local_worker(given):
        wide = await local.control.patch("/control/profile", json={"generation": 1, "batchLimit": 2 * MAX_ROWS})
        assert wide.status_code == 200, wide.text
        body = {"generation": 2, "model": "second", "modelPath": second}
        changed = await local.control.patch("/control/profile", json=body)
        assert changed.status_code == 200, changed.text
        assert changed.json()["profile"]["batchLimit"] == 2 * MAX_ROWS
