"""How much a chat model thinks before it answers: by its template's switch, by effort, by a budget of tokens.

What counts, from the strongest: the profile's ceiling, the request's `thinking_token_budget`, its `reasoning_effort`,
its `chat_template_kwargs.enable_thinking`, the profile's default, what the worker was started with. A budget of 0
switches thinking off where the model's template has a switch for it. A request that asks a model without thinking to
think is refused.

Whether an answer begins in the middle of thinking is told by what the template puts in front of it alone: messages may
have the marks of thinking in their text. Where the template leaves it to the model, thinking begins with the mark that
the model writes, and without one there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lowbeam_worker.engines.sampling import ThinkingLimit
from lowbeam_worker.front.openai_bodies import ChatBody
from lowbeam_worker.limits import AnswerLimits
from lowbeam_worker.refusal import Refusal, invalid

MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Begin and end of thinking: Qwen, DeepSeek, GLM and SmolLM; Magistral."""
EFFORT_PERCENT = {"minimal": 10, "low": 20, "medium": 50, "high": 80}
"""Share of the answer's tokens that an effort means, as OpenRouter maps it for models with a budget."""
_USUAL_SWITCH = "enable_thinking"
_EFFORT = "reasoning_effort"


@dataclass(frozen=True, slots=True)
class Thinking:
    """What is decided for one request before its prompt is rendered."""

    template: dict[str, Any]
    """Variables for the chat template."""
    budget: int | None
    """Most tokens of thinking; None: as many as the model likes."""


class ThinkingModel:
    """What a model's tokenizer and template know about thinking."""

    def __init__(self, tokenizer: Any, defaults: Mapping[str, bool | str]) -> None:
        """`defaults`: variables of the template for requests that say nothing; a truth value names the switch."""
        vocabulary, template = tokenizer.get_vocab(), str(tokenizer.chat_template or "")
        self._marks = next(((begin, end) for begin, end in MARKS if end in vocabulary), None)
        self._begin_id, self._end_id = (vocabulary.get(mark) for mark in self._marks or ("", ""))
        switches = {name: value for name, value in defaults.items() if isinstance(value, bool)}
        self._switch = next(iter(switches), _USUAL_SWITCH)
        self._usual = switches.get(self._switch)
        self._has_switch = self._switch in template
        self._has_effort = _EFFORT in template
        self._defaults = {name: value for name, value in defaults.items() if name in template}

    @property
    def can_limit(self) -> bool:
        """True where a budget of tokens can be kept."""
        return self._end_id is not None

    def decide(self, body: ChatBody, limits: AnswerLimits, answer_tokens: int) -> Thinking:
        """For one request; Refusal where it asks for what the model cannot do."""
        switch = body.chat_template_kwargs.enable_thinking if body.chat_template_kwargs else None
        effort, budget = body.reasoning_effort, body.thinking_token_budget
        if problem := self._cannot(switch, effort, budget):
            raise problem
        template = dict(self._defaults)
        if limits.usual_thinking is None and (switch, effort, budget) == (None, None, None):
            switch = self._usual
        if budget is None and effort == "none":
            budget = 0
        elif budget is None and effort is not None and not self._has_effort:
            budget = max(1, answer_tokens * EFFORT_PERCENT[effort] // 100)
        granted = limits.thinking(0 if switch is False else budget)
        if self._has_switch and (granted == 0 or switch is not None or self._switch in template):
            template[self._switch] = granted != 0
        if self._has_effort and effort not in {None, "none"}:
            template[_EFFORT] = effort
        return Thinking(template, granted)

    def limit(self, decided: Thinking, opening: str) -> ThinkingLimit | None:
        """For the engine; None where the answer does not think, or may think as long as it likes."""
        if decided.budget is None or self._end_id is None or self._is_closed(opening):
            return None
        if self.is_open(opening):
            return ThinkingLimit(decided.budget, (self._end_id,))
        if self._begin_id is None:
            return None  # nobody could tell where it begins
        return ThinkingLimit(decided.budget, (self._end_id,), self._begin_id)

    def opening(self, render: Callable[[bool], str]) -> tuple[str, str]:
        """The prompt, and the end of it that the template put there for the answer.

        `render` gives the prompt with or without it; where a model knows no thinking it is not asked twice.
        """
        prompt = render(True)
        if self._marks is None:
            return prompt, ""
        return prompt, _beyond(prompt, render(False))

    def thinks(self, decided: Thinking, opening: str) -> bool:
        """True when the answer begins in the middle of thinking, or may begin it."""
        if self._marks is None or self._is_closed(opening):
            return False
        return self.is_open(opening) or decided.template.get(self._switch) is not False

    def is_open(self, opening: str) -> bool:
        """True when the answer begins in the middle of thinking."""
        return self._marks is not None and opening.rfind(self._marks[0]) > opening.rfind(self._marks[1])

    def _is_closed(self, opening: str) -> bool:
        return self._marks is not None and opening.rfind(self._marks[1]) > opening.rfind(self._marks[0])

    def tokens(self, answer: list[int], *, is_open: bool) -> int:
        """Tokens of thinking in an answer, its marks included."""
        if not is_open and self._begin_id not in answer:
            return 0
        thought = answer if is_open else answer[answer.index(self._begin_id) :]
        return thought.index(self._end_id) + 1 if self._end_id in thought else len(thought)

    def _cannot(self, switch: bool | None, effort: str | None, budget: int | None) -> Refusal | None:
        what = "this model does not think before it answers"
        if switch is not None and not self._has_switch:
            return _unsupported(
                "chat_template_kwargs.enable_thinking", "the model's chat template has no switch for it"
            )
        if effort not in {None, "none"} and not (self._has_effort or self.can_limit):
            return _unsupported("reasoning_effort", what)
        if budget and not self.can_limit:
            return _unsupported("thinking_token_budget", what)
        return None


def _beyond(prompt: str, without: str) -> str:
    """What `prompt` has from where it differs: some templates end a prompt that wants no answer with a mark."""
    if prompt.startswith(without):
        return prompt[len(without) :]
    differ = (at for at, (one, other) in enumerate(zip(prompt, without, strict=False)) if one != other)
    return prompt[next(differ, len(prompt)) :]


def _unsupported(field: str, why: str) -> Refusal:
    return invalid(f"{field!r} cannot be honoured: {why}.", field, "unsupported_parameter")
