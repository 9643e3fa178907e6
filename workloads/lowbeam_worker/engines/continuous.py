"""The one place that touches the inside of transformers' continuous batching (verified on 5.23).

It decides the sizes of the cache, how one token is sampled, and who was in a step. It never lets transformers size
anything by itself: the default takes most of the host's memory, whatever the container's limit.

Private things that are used, each in one function below:
    manager._generation_step                          wrapped, to time a step
    manager.batch_processor.inputs_and_outputs        who is in the step, with how many tokens
    manager.batch_processor.scheduler                 `max_requests_per_batch`, the hot batch limit
    manager.logit_processor                           replaced by `Sampling`
    manager.background_thread_status.fatal_error      why the loop died
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.logits_process import LogitsProcessorList

from lowbeam_worker.cgroup import memory_limit_bytes

PAGE_TOKENS = 32
SPARE_PAGES = 4
"""Pages that no request is promised: the cache keeps one for itself, and sizes are rounded."""
_START_SECONDS = 60.0

StepListener = Callable[[float, float, Sequence[tuple[str, int]]], None]
"""Called with (start, end, [(request id, tokens)]) of each step; end is 0.0 when the step begins."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is reserved when the engine starts; none of it changes while it runs."""

    cache_tokens: int
    """Tokens that the key-value cache can promise to requests."""
    step_tokens: int
    """Most tokens in one step; longer prompts are read in pieces."""
    requests: int
    """Ceiling of the batch limit: some buffers have this size."""


def choose_sizes(config: Any, dtype: torch.dtype, device: torch.device) -> Sizes:
    """Sizes that fit the container: a quarter of its memory on a CPU, 60 % of the free memory on a GPU.

    The attention mask of SDPA has step_tokens x cache_tokens elements, which bounds both.
    """
    if device.type == "cuda":
        step_tokens, requests, most_tokens = 2048, 1024, 65536
        budget_bytes = int(torch.cuda.mem_get_info(device)[0] * 0.6)
    else:
        step_tokens, requests, most_tokens = 512, 512, 16384
        budget_bytes = min(1 << 30, (memory_limit_bytes() or 1 << 40) // 4)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = (2 * config.num_hidden_layers * heads * head_size + step_tokens) * dtype.itemsize
    tokens = min(most_tokens, budget_bytes // token_bytes) // PAGE_TOKENS * PAGE_TOKENS
    return Sizes(max(tokens, PAGE_TOKENS), step_tokens, requests)


class ContinuousBatching:
    """One manager of transformers, started; a dead one is replaced by a new object."""

    def __init__(self, model: Any, eos_token_ids: Sequence[int], sizes: Sizes, listener: StepListener) -> None:
        """Start the loop's thread and wait until it can take requests; raises RuntimeError when it dies at once."""
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)
        generation = GenerationConfig(do_sample=False, eos_token_id=list(eos_token_ids) or None, max_new_tokens=1)
        self._manager: Any = model.init_continuous_batching(
            generation_config=copy.deepcopy(generation),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE_TOKENS,
                num_blocks=sizes.cache_tokens // PAGE_TOKENS + SPARE_PAGES,
                max_batch_tokens=sizes.step_tokens,
                max_requests_per_batch=sizes.requests,
                # Graphs and double buffering need flash attention, and the wall time of a step to be the device's time.
                use_cuda_graph=False,
                use_async_batching=False,
                auto_switch_to_flash=False,
            ),
        )
        self._manager.logit_processor = Sampling()
        self._eos_token_ids = list(eos_token_ids)
        self._wrap_step(listener)
        self._manager.start()
        deadline = time.monotonic() + _START_SECONDS
        while self._manager.batch_processor is None:
            if self.why_dead() or time.monotonic() > deadline:
                raise RuntimeError(f"the generation loop did not start: {self.why_dead() or 'no answer'}")
            time.sleep(0.01)

    def why_dead(self) -> str | None:
        """What killed the loop, or None while it runs."""
        error = self._manager.background_thread_status.fatal_error
        if error is not None:
            return f"{type(error).__name__}: {error}"
        return None if self._manager.is_running() else "its thread ended"

    def set_batch_limit(self, limit: int) -> None:
        """Most requests in a step, from the next step on."""
        self._manager.batch_processor.scheduler.max_requests_per_batch = limit

    def submit(
        self,
        name: str,
        ids: Sequence[int],
        max_new_tokens: int,
        sampling: dict[str, Any],
        on_output: Callable[[Any], None],
    ) -> bool:
        """Queue a validated request; `on_output` is called in the running event loop. False: the loop takes no more."""
        self._manager.register_result_handler(name, on_output)
        accepted = self._manager.add_request(
            list(ids),
            request_id=name,
            max_new_tokens=max_new_tokens,
            streaming=True,
            eos_token_id=self._eos_token_ids,
            **sampling,
        )
        if accepted is None:
            self._forget(name)
        return accepted is not None

    def cancel(self, name: str) -> None:
        """Free the request's slot and cache; its handler is not called again."""
        self._forget(name)
        self._manager.cancel_request(name)

    def stop(self) -> None:
        """End the thread; requests in it fail."""
        self._manager.stop(block=True, timeout=10, hard_stop=True)

    def _forget(self, name: str) -> None:
        router = self._manager.output_router
        with router._lock:
            # An output without handler would pile up in the router's queue for ever: let it fall on the floor.
            if name in router.result_handlers:
                router.result_handlers[name] = (lambda _: None, router.result_handlers[name][1])

    def _wrap_step(self, listener: StepListener) -> None:
        manager, original = self._manager, self._manager._generation_step

        def step() -> None:
            members = [
                (str(member.state.request_id), int(member.query_length))
                for member in manager.batch_processor.inputs_and_outputs.requests_in_batch
            ]
            began = time.monotonic()
            listener(began, 0.0, members)
            try:
                original()
            finally:
                listener(began, time.monotonic(), members)

        manager._generation_step = step


class Sampling(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc]
    """Temperature, top-p and seed per request, in one batch with greedy requests.

    The manager takes the largest score. A greedy row is left alone; a sampled row gets Gumbel noise, whose largest
    score is an exact draw from the softmax. The noise depends on the request's seed and the position only, so an answer
    does not depend on who else is in the batch.
    """

    def __init__(self) -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self._rows: list[tuple[dict[str, Any], int]] = []

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Everything was checked before the request came here."""

    def prepare_tensor_args(self, requests_in_batch: Sequence[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        """Remember who gets a token in this step (steps are not overlapped)."""
        self._rows = [
            (member.state.logit_processor_kwargs, len(member.state.initial_tokens) + member.state.generated_len())
            for member in requests_in_batch
            if member.has_new_token
        ]
        return arg_storage

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Scores of which the largest is the chosen token."""
        for index, (wish, position) in enumerate(self._rows):
            if wish:
                scores[index] = draw(scores[index], position=position, **wish)
        return scores


def draw(scores: torch.Tensor, *, temperature: float, top_p: float, seed: int, position: int) -> torch.Tensor:
    """Noisy scores whose argmax is a draw from softmax(scores / temperature), cut to the nucleus of `top_p`."""
    scores = scores / temperature
    if top_p < 1.0:
        ordered, order = scores.sort(descending=True)
        shares = ordered.softmax(-1)
        outside = shares.cumsum(-1) - shares >= top_p  # the best token always stays
        scores = scores.index_fill(0, order[outside], float("-inf"))
    # The generator lives on the CPU: the same seed gives the same answer on every device.
    generator = torch.Generator().manual_seed((seed * 1_000_003 + position) % (1 << 63))
    uniform = torch.rand(scores.shape, generator=generator).clamp_(min=1e-20).to(scores.device)
    return scores - (-uniform.log()).log()
