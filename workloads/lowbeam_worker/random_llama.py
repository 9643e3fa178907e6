"""A Llama-like model with random weights and a tokenizer trained on the spot: for tests and demos without downloads.

Its answers mean nothing, and /v1/models says so. The seed is fixed: two workers give the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_SEED = 20260
_VOCABULARY = 512
_CONTEXT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of the model; the vocabulary stays that of the tokenizer."""

    hidden: int
    layers: int
    heads: int


TINY = Shape(hidden=64, layers=2, heads=4)
"""0.12 million parameters: everything but the arithmetic."""
SMALL = Shape(hidden=256, layers=6, heads=8)
"""3.7 million parameters: for benchmarks, where arithmetic must count."""
_CORPUS = (
    "A system is efficient when it does what is needed with the least energy.",
    "The operator lowers the beam, and the largest model is not the default.",
    "def answer(question: str) -> str:\n    return question.strip().lower()\n",
    "Power is scarce; quality has a floor, and watts have a cap.",
)
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ("<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")


def make_random_llama(dtype: torch.dtype, shape: Shape = TINY) -> tuple[Any, Any]:
    """Model and tokenizer; the process's random state is left as it was."""
    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=2 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads // 2,
        max_position_embeddings=_CONTEXT_TOKENS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Larger than usual: with tiny weights every token would be as likely as the others and greedy search would
        # loop.
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=dtype)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model, tokenizer


def _tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=_SPECIAL[0],
        pad_token=_SPECIAL[1],
        additional_special_tokens=list(_SPECIAL[2:]),
        chat_template=_TEMPLATE,
        model_max_length=_CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )
