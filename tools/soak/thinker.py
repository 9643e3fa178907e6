"""A tiny decoder with random weights that thinks as long as its budget lets it, and whose answers all have full length.

For tests and the soak: how many tokens an answer has, and how many of them are thinking, is known beforehand.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lowbeam_worker.random_llama import make_random_llama

# As Qwen3.5's: the template opens thinking, or closes it at once.
THINKING_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>"
    "{% if enable_thinking is defined and enable_thinking is false %}</think>{% endif %}{% endif %}"
)


def save_thinker(folder: Path) -> Path:
    """Write the model's files into `folder`."""
    model, tokenizer = make_random_llama(torch.float32)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = THINKING_TEMPLATE
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.eos_token_id = None  # so that every answer has its full length
    tokenizer.eos_token = None
    with torch.no_grad():
        model.lm_head.weight[-2:] = 0  # the best of 500 others is always likelier: never by itself
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
