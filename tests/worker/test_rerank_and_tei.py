"""TEI's routes: /embed with the real MiniLM, /rerank and /predict with tiny models, /info of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from lowbeam_worker.models import CannotLoadError
from lowbeam_worker.options import Task
from tests.worker.conftest import LocalWorker, local_worker, options
from tests.worker.tiny import MAX_TOKENS, save_bert

pytestmark = pytest.mark.asyncio(loop_scope="session")
TEXTS = ["the cat sits on the mat .", "power is energy", "bob lives in berlin", "the film was not good"]


def logits(local: LocalWorker, *text: str) -> np.ndarray[Any, Any]:
    folder = local.worker.options.model_path
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return np.asarray(model(**AutoTokenizer.from_pretrained(folder)(*text, return_tensors="pt")).logits[0])


async def test_rerank_scores_pairs_as_the_model_does_and_sorts_them(ranker: LocalWorker) -> None:
    expected = {index: float(logits(ranker, "who lives in berlin ?", text)[0]) for index, text in enumerate(TEXTS)}
    raw = await ranker.post("/rerank", query="who lives in berlin ?", texts=TEXTS, raw_scores=True)
    assert [entry["index"] for entry in raw] == sorted(expected, key=lambda index: -expected[index])
    assert {entry["index"]: entry["score"] for entry in raw} == pytest.approx(expected, abs=1e-4)
    scores = await ranker.post("/rerank", query="who lives in berlin ?", texts=TEXTS, return_text=True)
    for entry in scores:
        assert entry["score"] == pytest.approx(1 / (1 + np.exp(-expected[entry["index"]])), abs=1e-4)
        assert entry["text"] == TEXTS[entry["index"]]


async def test_the_order_of_a_pair_matters_to_the_model(ranker: LocalWorker) -> None:
    there = await ranker.post("/rerank", query=TEXTS[0], texts=[TEXTS[1]], raw_scores=True)
    back = await ranker.post("/rerank", query=TEXTS[1], texts=[TEXTS[0]], raw_scores=True)
    assert there[0]["score"] != pytest.approx(back[0]["score"], abs=1e-3)


async def test_a_model_with_several_labels_does_not_rank(judge: LocalWorker) -> None:
    with pytest.raises(CannotLoadError, match="serve it as text-classification"):
        async for _ in local_worker(options(Task.TEXT_RANKING, "judge", judge.worker.options.model_path)):
            pass


async def test_predict_gives_raw_scores_and_reads_pairs(judge: LocalWorker) -> None:
    raw = await judge.post("/predict", inputs=["power is energy", "energy is power"], raw_scores=True)
    expected = logits(judge, "power is energy", "energy is power")
    assert {entry["label"]: entry["score"] for entry in raw} == pytest.approx(
        dict(zip(["bad", "good", "mixed"], map(float, expected), strict=True)), abs=1e-4
    )


async def test_embed_gives_the_vectors_of_the_openai_route_and_normalises_only_where_asked(minilm: LocalWorker) -> None:
    openai = await minilm.post("/v1/embeddings", model="minilm", input=TEXTS)
    embed = np.array(await minilm.post("/embed", inputs=TEXTS))
    assert np.abs(embed - [entry["embedding"] for entry in openai["data"]]).max() < 1e-6
    raw = np.array(await minilm.post("/embed", inputs=TEXTS[0], normalize=False))
    assert raw.shape == (1, 384)
    assert np.linalg.norm(raw) != pytest.approx(1, abs=0.01)
    assert np.abs(raw[0] / np.linalg.norm(raw) - embed[0]).max() < 1e-5


async def test_dimensions_keep_the_first_ones_at_length_one(minilm: LocalWorker) -> None:
    full = np.array((await minilm.post("/v1/embeddings", model="minilm", input="x"))["data"][0]["embedding"])
    cut = np.array(
        (await minilm.post("/v1/embeddings", model="minilm", input="x", dimensions=64))["data"][0]["embedding"]
    )
    assert cut == pytest.approx(full[:64] / np.linalg.norm(full[:64]), abs=1e-6)
    assert np.array(await minilm.post("/embed", inputs="x", dimensions=64))[0] == pytest.approx(cut, abs=1e-6)


async def test_a_text_is_cut_on_the_side_that_is_asked_for(minilm: LocalWorker) -> None:
    long = "cat " * 600 + "dog"
    right = await minilm.post("/embed", inputs=long, truncate=True)
    left = await minilm.post("/embed", inputs=long, truncate=True, truncation_direction="Left")
    assert right == await minilm.post("/embed", inputs="cat " * 900, truncate=True)
    assert left != right
    refused = await minilm.serving.post("/embed", json={"inputs": long})
    assert refused.json()["error"]["code"] == "context_length_exceeded"


async def test_info_says_what_is_served_and_how_much_of_it(
    minilm: LocalWorker, ranker: LocalWorker, judge: LocalWorker, llama: LocalWorker
) -> None:
    embedding, ranking, classes, text = [
        (await local.serving.get("/info")).json() for local in (minilm, ranker, judge, llama)
    ]
    assert embedding["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (embedding["model_id"], embedding["model_dtype"], embedding["max_client_batch_size"]) == (
        "minilm",
        "fp32",
        2048,
    )
    assert ranking["max_input_length"] == MAX_TOKENS
    assert list(ranking["model_type"]) == ["reranker"]
    assert classes["model_type"]["classifier"]["label2id"] == {"bad": 0, "good": 1, "mixed": 2}
    assert text["routes"] == ["/v1/chat/completions", "/v1/completions"]


async def test_an_empty_query_is_refused(ranker: LocalWorker) -> None:
    answer = await ranker.serving.post("/rerank", json={"query": " ", "texts": ["a"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "query")
    none = await ranker.serving.post("/rerank", json={"query": "a", "texts": []})
    assert (none.status_code, none.json()["error"]["param"]) == (400, "texts")


async def test_models_without_safetensors_are_refused_unless_allowed(tmp_path: Path) -> None:
    from lowbeam_worker.models import choose_device, load  # noqa: PLC0415 - torch after the thread variables
    from lowbeam_worker.options import Precision  # noqa: PLC0415

    folder = save_bert(BertForSequenceClassification, tmp_path)
    weights = BertForSequenceClassification.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    arguments = (str(folder), Task.TEXT_CLASSIFICATION, Precision.FP32, choose_device("cpu"))
    with pytest.raises(CannotLoadError, match="safetensors"):
        load(*arguments, allow_downloads=False)
    assert load(*arguments, allow_downloads=False, allow_pickle=True).model.config.hidden_size == 32


async def test_code_in_a_models_folder_is_never_run(tmp_path: Path) -> None:
    from lowbeam_worker.models import choose_device, load  # noqa: PLC0415
    from lowbeam_worker.options import Precision  # noqa: PLC0415

    ran = tmp_path / "ran"
    (tmp_path / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"}}'
    )
    (tmp_path / "mine.py").write_text(f"open({str(ran)!r}, 'w')\n")
    with pytest.raises(CannotLoadError, match="cannot be loaded"):
        load(str(tmp_path), Task.FEATURE_EXTRACTION, Precision.FP32, choose_device("cpu"), allow_downloads=False)
    assert not ran.exists()
