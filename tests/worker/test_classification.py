"""TEI's /predict with a tiny classifier: the scores of transformers, best first."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from lowbeam_worker.options import Task
from tests.worker.conftest import LocalWorker, local_worker, options

pytestmark = pytest.mark.asyncio(loop_scope="session")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "plot"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def classifier(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalWorker]:
    folder = tmp_path_factory.mktemp("classifier")
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.5,
        id2label={0: "bad", 1: "good", 2: "mixed"},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    async for local in local_worker(options(Task.TEXT_CLASSIFICATION, "judge", str(folder))):
        yield local


def reference(folder: str, text: str) -> dict[str, float]:
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        scores = model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits.softmax(-1)[0]
    return {model.config.id2label[index]: float(score) for index, score in enumerate(scores)}


async def test_scores_are_those_of_transformers_best_first(classifier: LocalWorker) -> None:
    texts = ["good film", "bad plot bad film"]
    answer = (await classifier.serving.post("/predict", json={"inputs": [[text] for text in texts]})).json()
    for text, row in zip(texts, answer, strict=True):
        expected = reference(classifier.worker.options.model_path, text)
        assert {entry["label"]: entry["score"] for entry in row} == pytest.approx(expected, abs=1e-5)
        assert [entry["score"] for entry in row] == sorted((entry["score"] for entry in row), reverse=True)


async def test_one_text_gives_one_list_and_energy_travels_in_the_headers(classifier: LocalWorker) -> None:
    answer = await classifier.serving.post("/predict", json={"inputs": "good film"})
    assert {entry["label"] for entry in answer.json()} == {"bad", "good", "mixed"}
    assert answer.headers["X-Energy-Method"] == "unavailable"


async def test_a_text_that_is_too_long_is_refused_or_cut_as_asked(classifier: LocalWorker) -> None:
    long = "film " * 100
    refused = await classifier.serving.post("/predict", json={"inputs": long})
    cut = await classifier.serving.post("/predict", json={"inputs": long, "truncate": True})
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert cut.status_code == 200
