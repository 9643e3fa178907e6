"""Which architectures an encoder task serves: those whose answers are the same in company as alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForTokenClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    FNetConfig,
    FNetForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    MPNetModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from lowbeam_worker.engines.encoder import Forward
from lowbeam_worker.heads import class_logits, span_logits, summaries, token_logits
from lowbeam_worker.models import CannotLoadError, Loaded, load
from lowbeam_worker.options import Precision, Task
from lowbeam_worker.rows import TokenRow
from lowbeam_worker.sentence import embedder, read_recipe
from tests.worker.tiny import MAX_TOKENS, SPECIAL, WORDS, save

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TOKENS: dict[str, Any] = {"vocab_size": len(SPECIAL) + len(WORDS), "pad_token_id": 0}
PLACES: dict[str, Any] = {"max_position_embeddings": MAX_TOKENS + 2}
"""MPNet and RoBERTa begin to count after the id of padding."""
DISTILLED: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
TWO_SIDED: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": MAX_TOKENS,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 3,
    "forced_eos_token_id": 3,
}
SHORT, LONG = [2, 7, 9, 3], [2, *range(4, 24), 3]


def read(folder: Path, task: Task) -> Loaded:
    return load(str(folder), task, Precision.FP32, torch.device("cpu"), allow_downloads=False)


def embed(loaded: Loaded) -> Forward:
    return embedder(loaded, read_recipe(None))


@pytest.mark.parametrize(
    ("task", "kind", "config", "head"),
    [
        (Task.FEATURE_EXTRACTION, MPNetModel, MPNetConfig(**SIZES, **TOKENS, **PLACES), embed),
        (Task.TEXT_RANKING, MPNetForSequenceClassification, MPNetConfig(**SIZES, **TOKENS, **PLACES), class_logits),
        (Task.TOKEN_CLASSIFICATION, BertForTokenClassification, BertConfig(**SIZES, **TOKENS), token_logits),
        (
            Task.QUESTION_ANSWERING,
            DistilBertForQuestionAnswering,
            DistilBertConfig(**DISTILLED, **TOKENS),
            span_logits,
        ),
        (
            Task.TEXT_CLASSIFICATION,
            RobertaForSequenceClassification,
            RobertaConfig(**SIZES, **TOKENS, **PLACES),
            class_logits,
        ),
        (
            Task.TEXT_CLASSIFICATION,
            DebertaV2ForSequenceClassification,
            DebertaV2Config(**SIZES, **TOKENS),
            class_logits,
        ),
        (Task.SUMMARIZATION, BartForConditionalGeneration, BartConfig(**TWO_SIDED, **TOKENS), summaries),
    ],
)
def test_a_row_in_company_is_answered_as_alone(
    task: Task, kind: Any, config: Any, head: Callable[[Loaded], Forward], tmp_path: Path
) -> None:
    forward = head(read(save(kind(config), tmp_path), task))
    wish = (("max_new_tokens", 6), ("num_beams", 1)) if task is Task.SUMMARIZATION else ()
    short, long = TokenRow(SHORT, generation=wish), TokenRow(LONG, generation=wish)
    alone, together = forward([short])[0], forward([long, short])[1]
    if alone.ndim == 2 or task is Task.SUMMARIZATION:
        together = together[: len(alone)]
    assert np.abs(alone - together).max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "config", "reason"),
    [
        (
            XLNetForSequenceClassification,
            XLNetConfig(d_model=32, n_layer=1, n_head=2, d_inner=64, **TOKENS),
            "xlnet: it reads the end of a row",
        ),
        (
            FNetForSequenceClassification,
            FNetConfig(hidden_size=32, num_hidden_layers=1, intermediate_size=64, **TOKENS),
            "fnet: it mixes all tokens of a row and takes no mask",
        ),
    ],
)
def test_a_model_that_sees_padding_is_refused_with_the_reason(
    kind: Any, config: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CannotLoadError, match=reason) as refused:
        read(save(kind(config), tmp_path), Task.TEXT_CLASSIFICATION)
    assert "Mount its folder" not in str(refused.value)


def test_only_a_model_that_is_not_here_is_to_be_mounted(tmp_path: Path) -> None:
    save(MPNetModel(MPNetConfig(**SIZES, **TOKENS)), tmp_path)
    with pytest.raises(CannotLoadError) as here:
        read(tmp_path, Task.TEXT_GENERATION)
    assert "Mount its folder" not in str(here.value)
    with pytest.raises(CannotLoadError, match="Mount its folder and name it with --model-path"):
        read(tmp_path / "elsewhere", Task.FEATURE_EXTRACTION)


@pytest.mark.parametrize("padding", [None, 5, -1])
@pytest.mark.parametrize("row", [[7, 9], [7, 5, 9], [7, 9, 5], [7, 0, 9, 0]])
def test_a_decoder_that_classifies_answers_in_company_as_transformers_alone(
    padding: int | None, row: list[int], tmp_path: Path
) -> None:
    """Its padding is not the tokenizer's (0), and either may stand in a text."""
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=len(SPECIAL) + len(WORDS), num_labels=3)
    config.pad_token_id = padding
    loaded = read(save(GPT2ForSequenceClassification(config), tmp_path), Task.TEXT_CLASSIFICATION)
    with torch.inference_mode():
        expected = loaded.model(input_ids=torch.tensor([row])).logits[0].numpy()
    given = class_logits(loaded)([list(range(8, 20)), row])[1]
    assert np.abs(given - expected).max() < 1e-4
