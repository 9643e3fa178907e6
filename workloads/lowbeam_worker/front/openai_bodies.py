"""Bodies of OpenAI's routes, field by field (front/reading.py has the rules)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lowbeam_worker.front.reading import FEW, MAX_ROWS, Body, Strings, TokenIds, only

_MOST_STOPS = 4
_MOST_STOP_CHARACTERS = 512
Stop = Annotated[str, Field(min_length=1, max_length=_MOST_STOP_CHARACTERS)]


class EmbeddingsBody(Body):
    """POST /v1/embeddings."""

    model: str
    input: str | Strings | TokenIds | Annotated[list[TokenIds], FEW]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], FEW]
    name: None = None

    def for_template(self) -> dict[str, str]:
        """What a chat template takes; `developer` is OpenAI's newer name of `system`."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Body):
    """What a stream carries besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    """vLLM's: with `include_usage`, each event says how many tokens there are so far. Load generators count by it."""
    include_obfuscation: Annotated[bool, only(False)] = False


class TextFormat(Body):
    """The only answer format here."""

    type: Literal["text"]


class TemplateOptions(Body):
    """What a client may tell a chat template; vLLM's name and shape for it."""

    enable_thinking: bool | None = None


class SamplingBody(Body):
    """What chat and completions share."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True, max_length=_MOST_STOPS)] | None = None
    ignore_eos: bool = False
    """vLLM's: the answer goes on to its full length. Load generators ask for it, to get the length they want."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Annotated[int, only(1)] = 1
    frequency_penalty: Annotated[float, only(0)] | None = None
    presence_penalty: Annotated[float, only(0)] | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> SamplingBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream=true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop sequences as a tuple."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def answer_tokens(self) -> tuple[str, int | None]:
        """The field that limits the answer, and the longest answer that is wanted; None: the worker's default."""
        return "max_tokens", self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives to report per token; None: no log-probabilities."""
        raise NotImplementedError


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], FEW, Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: TextFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    thinking_token_budget: Annotated[int, Field(ge=0)] | None = None
    chat_template_kwargs: TemplateOptions | None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _few_parts(cls, given: Any) -> Any:
        contents = [one.get("content") for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        if (parts := sum(len(one) for one in contents if isinstance(one, list))) > MAX_ROWS:
            raise ValueError(f"they have {parts} parts; a request has at most {MAX_ROWS}")
        return given

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        return self

    @property
    def answer_tokens(self) -> tuple[str, int | None]:
        """`max_completion_tokens` is OpenAI's newer name of `max_tokens` and wins."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return "max_tokens", self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """`logprobs` switches them on, `top_logprobs` adds alternatives."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(SamplingBody):
    """POST /v1/completions. Several prompts are several requests; a list of one is that one."""

    prompt: Annotated[str, Field(min_length=1)] | TokenIds
    best_of: Annotated[int, only(1)] = 1
    echo: Annotated[bool, only(False)] = False
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, given: Any) -> Any:
        if not isinstance(given, list) or not given or isinstance(given[0], int):
            return given
        if len(given) > 1:
            raise ValueError("several prompts are several requests; send one text, or one list of token ids")
        return given[0]

    @property
    def wanted_logprobs(self) -> int | None:
        """OpenAI's older form: a number."""
        return self.logprobs
