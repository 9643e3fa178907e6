"""Models of a few hundred kB, made on the spot: weights from numpy's seeded generator, so that every version of torch
and transformers gets the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BartConfig, BertConfig, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (
    *("the", "a", "is", "in", "on", "of", "at", "and", "to", "who", "what", "where", "when", "cat", "dog", "sits"),
    *("lives", "works", "mat", "good", "bad", "film", "plot", "city", "paris", "london", "berlin", "anna", "bob"),
    *("carl", "power", "watts", "energy", "example", "this", "question", "answer", "it", "was", "not", "very"),
    *("##s", "##ing", "##ed", "##er", "##lin", ".", ",", "?"),
)
MAX_TOKENS = 48


def tokenizer() -> PreTrainedTokenizerFast:
    """Word pieces of a handful of words."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=50))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=MAX_TOKENS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def save_bert(kind: type[Any], folder: Path, *, seed: int = 1, **more: Any) -> Path:
    """A BERT with the head of `kind`, e.g. BertForTokenClassification."""
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS,
        **more,
    )
    return save(kind(config), folder, seed)


def save_bart(kind: type[Any], folder: Path, *, seed: int = 1) -> Path:
    """A BART: encoder and decoder."""
    config = BartConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        forced_eos_token_id=3,
    )
    return save(kind(config), folder, seed)


def save(model: Any, folder: Path, seed: int = 1, **tokenizers: Any) -> Path:
    """Weights of its own, and the tokenizer beside them."""
    random = np.random.RandomState(seed)  # its stream is the same in every version
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "norm" not in name.lower():
                parameter.copy_(torch.from_numpy(random.normal(0, 0.4, tuple(parameter.shape))))
    model.save_pretrained(folder)
    words = tokenizer()
    for name, value in tokenizers.items():
        setattr(words, name, value)
    words.save_pretrained(folder)
    return folder
