"""How one request's next token is chosen: greedy, or drawn by temperature, top-p and seed; its log-probabilities; the
model's own repetition penalty; and the end of its thinking, where that has a budget.

The manager of transformers takes the largest score of each row. A greedy row is left alone; a sampled row gets Gumbel
noise, whose largest score is an exact draw from the softmax. The noise depends on the request's seed and the position
only, so an answer does not depend on who else is in the batch, nor on a restart of the loop in the middle of it.
Log-probabilities are those of the model itself, before penalty, temperature and top-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.logits_process import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

MOST_LOGPROBS = 20
"""OpenAI's limit of `top_logprobs`."""
GREEDY_BELOW = 1e-5
"""Scores divided by less leave the range of floats, and a draw from them is none; vLLM's limit as well."""


_UNAPPLIED = (
    *("encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "min_length", "min_new_tokens"),
    *("forced_eos_token_id", "exponential_decay_length_penalty", "guidance_scale", "watermarking_config"),
    *("stop_strings", "num_beams", "penalty_alpha", "dola_layers", "constraints", "force_words_ids", "token_healing"),
)
"""Fields of a generation_config.json that change which token a greedy `transformers.generate` takes; not those here."""
_ONE_IS_NEUTRAL = {"encoder_repetition_penalty", "guidance_scale", "num_beams"}


def unapplied(generation_config: Any) -> dict[str, Any]:
    """What a model's generation config asks for that greedy answers have with transformers and not here."""
    stated = {name: getattr(generation_config, name, None) for name in _UNAPPLIED}
    return {name: it for name, it in stated.items() if it and not (it == 1 and name in _ONE_IS_NEUTRAL)}


def repetition_penalty(generation_config: Any) -> RepetitionPenaltyLogitsProcessor | None:
    """What a model's generation config says against repeating itself; None: nothing. Raises ValueError."""
    penalty = getattr(generation_config, "repetition_penalty", None)
    return None if penalty in {None, 1} else RepetitionPenaltyLogitsProcessor(float(penalty))


@dataclass(frozen=True, slots=True)
class ThinkingLimit:
    """After so many tokens of thinking without its end, the end is forced, token by token."""

    tokens: int
    end_ids: tuple[int, ...]
    """What ends thinking in this family of models, such as the id of `</think>`."""
    begin_id: int | None = None
    """What begins it in the answer, which does not think before; None: the answer begins in the middle of it."""


@dataclass(frozen=True, slots=True)
class SamplingWish:
    """How tokens are chosen; a temperature of 0, or below GREEDY_BELOW, is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_logprobs: int | None = None
    """How many alternatives to report for each token; 0: only the chosen one; None: no log-probabilities."""
    thinking: ThinkingLimit | None = None
    ignore_eos: bool = False
    """Go on after an end-of-sequence token, to the length that was asked for."""

    @property
    def is_greedy(self) -> bool:
        """The best token each time."""
        return self.temperature < GREEDY_BELOW

    @property
    def is_plain(self) -> bool:
        """Greedy and nothing else: the manager needs no help."""
        return self.is_greedy and self.top_logprobs is None and self.thinking is None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability of the chosen token and of the most likely ones, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(eq=False, slots=True)
class Chooser:
    """Chooses the tokens of one request, in the loop's thread."""

    wish: SamplingWish
    prompt_tokens: int
    penalty: RepetitionPenaltyLogitsProcessor | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """One for each token chosen so far."""

    def scores(self, row: torch.Tensor, sequence: Sequence[int]) -> torch.Tensor:
        """Scores of which the largest is the next token of `sequence` (prompt and answer so far)."""
        wish, chosen = self.wish, row
        forced = forced_token(sequence[self.prompt_tokens :], wish.thinking) if wish.thinking else None
        if forced is not None:
            chosen = torch.full_like(row, float("-inf"))
            chosen[forced] = 0.0
        elif self.penalty is not None:
            chosen = self.penalty(torch.tensor([sequence], device=row.device), row[None])[0]
        if forced is None and not wish.is_greedy:
            chosen = draw(
                chosen, temperature=wish.temperature, top_p=wish.top_p, seed=wish.seed, position=len(sequence)
            )
        if wish.top_logprobs is not None:
            self.logprobs.append(_logprobs(row, int(chosen.argmax()), wish.top_logprobs))
        return chosen


class Sampling(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc]
    """What the manager calls with the scores of a step; requests without a chooser are greedy."""

    def __init__(self) -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self._rows: list[Any] = []

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Everything was checked before the request came here."""

    def prepare_tensor_args(self, requests_in_batch: Sequence[Any], arg_storage: torch.Tensor) -> torch.Tensor:
        """Remember who gets a token in this step (steps are not overlapped)."""
        self._rows = [member.state for member in requests_in_batch if member.has_new_token]
        return arg_storage

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Scores of which the largest is the chosen token."""
        for index, state in enumerate(self._rows):
            chooser = state.logit_processor_kwargs.get("chooser")
            if chooser is not None:
                scores[index] = chooser.scores(scores[index], [*state.initial_tokens, *state.generated_tokens])
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


def forced_token(answer: Sequence[int], limit: ThinkingLimit) -> int | None:
    """The token that must come next because thinking is over its budget, or None."""
    if limit.begin_id is not None and limit.begin_id not in answer:
        return None
    thought = answer if limit.begin_id is None else answer[answer.index(limit.begin_id) + 1 :]
    over = len(thought) - limit.tokens
    if not 0 <= over < len(limit.end_ids) or _contains(thought[: limit.tokens], limit.end_ids):
        return None
    return limit.end_ids[over]


def _contains(tokens: Sequence[int], part: Sequence[int]) -> bool:
    return any(tuple(tokens[at : at + len(part)]) == tuple(part) for at in range(len(tokens) - len(part) + 1))


def _logprobs(row: torch.Tensor, token: int, top: int) -> TokenLogprobs:
    values = row.log_softmax(-1)
    best = values.topk(min(top, len(values))) if top else None
    alternatives = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best else ()
    return TokenLogprobs(token, float(values[token]), tuple(alternatives))
