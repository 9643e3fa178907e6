"""The one place that touches the inside of transformers' continuous batching (tests/worker/test_decoder_contract.py
checks each touch on the installed version).

It decides the sizes of the cache, and tells who was in a step. It never lets transformers size anything by itself: the
default takes most of the host's memory, whatever the container's limit.

Private things that are used, each in one function below:
    manager._generation_step                          wrapped, to time a step
    manager.batch_processor.inputs_and_outputs        who is in the step, with how many tokens; the stream it runs on
    manager.batch_processor.scheduler                 `max_requests_per_batch`, the hot batch limit
    manager.batch_processor.max_batch_tokens          the hot limit of tokens in a step
    manager.logit_processor                           replaced by `Sampling`
    manager.background_thread_status                  `fatal_error`, `local_status`: why and whether the loop ends
    manager.output_router                             handlers of requests whose client left, and where outputs without
                                                      a handler pile up
    manager.batch_processor.cache                     which pages are shared by whom: forgotten when weights change
"""

from __future__ import annotations

import copy
import logging
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager

from lowbeam_worker.cgroup import memory_limit_bytes
from lowbeam_worker.engines import attention
from lowbeam_worker.engines.base import Limits
from lowbeam_worker.engines.sampling import Chooser, Sampling
from lowbeam_worker.memory import DTYPES, decoder_activations
from lowbeam_worker.options import Precision

CAN_PAUSE = hasattr(ContinuousBatchingManager, "pause")
"""transformers 5.17 cannot stop between two steps: there, weights change by a second engine beside the first."""
PAGE_TOKENS = 32
_KNOWN = {field.name for field in fields(ContinuousBatchingConfig)}
_BY_VERSION: dict[str, Any] = {
    # 5.17 calls a page a block, and never switches to another attention by itself.
    "page_size" if "page_size" in _KNOWN else "block_size": PAGE_TOKENS,
    **({"auto_switch_to_flash": False} if "auto_switch_to_flash" in _KNOWN else {}),
}
SPARE_PAGES = 4
"""Pages that no request is promised: the cache keeps one for itself, and sizes are rounded."""
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Member:
    """One request's part of a step."""

    name: str
    tokens: int
    decodes: bool
    """True when it has its prompt behind it: one token in, one token out."""


class StepListener(Protocol):
    """Is told of each step, in the loop's thread."""

    def step_begins(self, now_s: float, members: Sequence[Member]) -> None:
        """The device starts."""

    def step_ends(self, now_s: float) -> None:
        """The device is done, or the step failed."""


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


def decoder_footprint(config: Any, precision: Precision, device: torch.device, batch_limit: int) -> tuple[int, int]:
    """Bytes of (cache, activations) of an engine for this model."""
    dtype = DTYPES.get(precision, torch.float32)
    sizes = choose_sizes(config, dtype, device)
    return decoder_activations(
        config,
        cache_tokens=sizes.cache_tokens + SPARE_PAGES * PAGE_TOKENS,
        step_tokens=sizes.step_tokens,
        requests=batch_limit,
        dtype=dtype,
    )


class _Nowhere(queue.SimpleQueue[Any]):
    """Instead of the router's queue of outputs without a handler, which nobody reads: every request here has one until
    its client leaves."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Let it fall on the floor."""


class ContinuousBatching:
    """One manager of transformers, started; a dead one is replaced by a new object."""

    def __init__(self, model: Any, eos_token_ids: Sequence[int], sizes: Sizes, listener: StepListener) -> None:
        """Start the loop's thread and wait until it can take requests; raises RuntimeError when it dies at once."""
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        attention.register()
        generation = GenerationConfig(do_sample=False, eos_token_id=list(eos_token_ids) or None, max_new_tokens=1)
        self._manager: Any = model.init_continuous_batching(
            generation_config=copy.deepcopy(generation),
            continuous_batching_config=ContinuousBatchingConfig(
                num_blocks=sizes.cache_tokens // PAGE_TOKENS + SPARE_PAGES,
                max_batch_tokens=sizes.step_tokens,
                max_requests_per_batch=sizes.requests,
                # Graphs and double buffering need flash attention, and the wall time of a step to be the device's time.
                use_cuda_graph=False,
                use_async_batching=False,
                **_BY_VERSION,
            ),
        )
        self._manager.logit_processor = Sampling()
        self._manager.output_router.output_queue = _Nowhere()
        self._eos_token_ids = list(eos_token_ids)
        self._of_other_weights: frozenset[str] = frozenset()
        """Requests that have pages from before the last change of weights."""
        self._wrap_step(listener)
        self._manager.start()
        deadline = time.monotonic() + _START_SECONDS
        while self._manager.batch_processor is None:
            if self.why_dead() or time.monotonic() > deadline:
                raise RuntimeError(f"the generation loop did not start: {self.why_dead() or 'no answer'}")
            time.sleep(0.01)
        if CAN_PAUSE:
            self._share_only_pages_of_these_weights(self._manager.batch_processor.cache)

    @property
    def is_ending(self) -> bool:
        """True from the moment of a fatal error on, before `why_dead` knows the reason."""
        status = self._manager.background_thread_status
        return bool(status.local_status != status.DONT_STOP)

    def why_dead(self) -> str | None:
        """What killed the loop, or None while it runs."""
        error = self._manager.background_thread_status.fatal_error
        if error is not None:
            return f"{type(error).__name__}: {error}"
        return None if self._manager.is_running() else "its thread ended"

    def set_limits(self, limits: Limits) -> None:
        """From the next step on."""
        self._manager.batch_processor.scheduler.max_requests_per_batch = limits.batch
        self._manager.batch_processor.max_batch_tokens = limits.step_tokens

    def submit(
        self,
        name: str,
        ids: Sequence[int],
        max_new_tokens: int,
        chooser: Chooser | None,
        on_output: Callable[[Any], None],
        *,
        ignore_eos: bool,
    ) -> bool:
        """Queue a validated request; `on_output` is called in the running event loop. False: the loop takes no more."""
        self._manager.register_result_handler(name, on_output)
        accepted = None
        try:
            accepted = self._manager.add_request(
                list(ids),
                request_id=name,
                max_new_tokens=max_new_tokens,
                streaming=True,
                eos_token_id=[] if ignore_eos else self._eos_token_ids,
                **({} if chooser is None else {"chooser": chooser}),
            )
        finally:
            if accepted is None:
                self._forget(name)
        return accepted is not None

    def cancel(self, name: str) -> None:
        """Free the request's slot and cache; its handler is not called again."""
        self._forget(name)
        self._manager.cancel_request(name)

    def while_paused(self, change: Callable[[], None]) -> None:
        """Change the weights between two steps, with everything in flight kept; blocking.

        RuntimeError: the loop is dead. Pages that were written before stay with their requests and are shared with no
        other: a prompt that comes again is read anew.
        """
        with self._manager.pause():
            try:
                change()
            finally:
                self._stop_sharing_pages()

    def stop(self) -> None:
        """End the thread; requests in it fail."""
        self._manager.stop(block=True, timeout=10, hard_stop=True)

    def _forget(self, name: str) -> None:
        router = self._manager.output_router
        with router._lock:
            router.result_handlers.pop(name, None)

    def _stop_sharing_pages(self) -> None:
        cache = self._manager.batch_processor.cache
        cache.evict_cached_blocks()
        for allocator in cache.cache_allocators.values():
            allocator.ledger.hash_to_block.clear()
            allocator.ledger.block_to_hash.clear()
        self._of_other_weights = frozenset(name for one in cache.cache_allocators.values() for name in one.block_table)

    def _share_only_pages_of_these_weights(self, cache: Any) -> None:
        share = cache.mark_complete_blocks

        def share_if_none_is_older(state: Any, complete_pages: Any) -> None:
            if state.request_id not in self._of_other_weights:
                share(state, complete_pages)

        cache.mark_complete_blocks = share_if_none_is_older

    def _wrap_step(self, listener: StepListener) -> None:
        manager, original = self._manager, self._manager._generation_step

        def step() -> None:
            inside = manager.batch_processor.inputs_and_outputs
            members = [
                Member(str(one.state.request_id), int(one.query_length), decodes=bool(one.state.generated_tokens))
                for one in inside.requests_in_batch
            ]
            listener.step_begins(time.monotonic(), members)
            try:
                with torch.inference_mode():  # dispatches faster than upstream's no_grad
                    original()
                if inside.compute_stream is not None:
                    inside.compute_stream.synchronize()  # costs nothing: the tokens are read right after
            finally:
                listener.step_ends(time.monotonic())

        manager._generation_step = step
