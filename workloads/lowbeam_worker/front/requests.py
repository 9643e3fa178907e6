"""The request bodies that this worker understands, field by field; anything else is refused by name.

A field of OpenAI's or TEI's API that we do not act on is accepted only with the value that means "not used".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from lowbeam_worker.refusal import Refusal, invalid

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_ROWS = 2048
"""As many inputs as OpenAI takes in one embeddings request."""

TokenIds = Annotated[list[Annotated[int, Field(strict=True)]], Field(min_length=1)]
Text = Annotated[str, Field(strict=True)]


class Body(BaseModel):
    """Base: unknown fields are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EmbeddingsBody(Body):
    """POST /v1/embeddings."""

    model: str
    input: Text | list[Text] | TokenIds | list[TokenIds]
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


class PredictBody(Body):
    """POST /predict, as in text-embeddings-inference: one text, one pair, or a list of lists of one or two texts."""

    inputs: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=2)]
        | list[Annotated[list[Text], Field(min_length=1, max_length=2)]]
    )
    truncate: bool = False
    raw_scores: Literal[False] = False


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: None = None

    def for_template(self) -> dict[str, str]:
        """What a chat template takes; `developer` is OpenAI's newer name of `system`."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Body):
    """What a stream carries besides text."""

    include_usage: bool = False


class TextFormat(Body):
    """The only answer format here."""

    type: Literal["text"]


class SamplingBody(Body):
    """What chat and completions share."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
        | None
    ) = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Literal[1] = 1
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop sequences as a tuple."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def answer_tokens(self) -> int | None:
        """The longest answer that the client wants; None: the worker's own limit."""
        return self.max_tokens


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False] = False
    response_format: TextFormat | None = None

    @property
    def answer_tokens(self) -> int | None:
        """`max_completion_tokens` is OpenAI's newer name of `max_tokens` and wins."""
        return self.max_completion_tokens or self.max_tokens


class CompletionBody(SamplingBody):
    """POST /v1/completions. Several prompts are several requests."""

    prompt: Annotated[str, Field(strict=True, min_length=1)] | TokenIds
    best_of: Literal[1] = 1
    echo: Literal[False] = False


Kind = TypeVar("Kind", bound=Body)


async def read_body(request: Request, kind: type[Kind]) -> Kind:
    """The validated body; raises a Refusal that names the first wrong field."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY_BYTES:
            raise Refusal(413, f"The body is larger than {MAX_BODY_BYTES} bytes.", kind="invalid_request_error")
    try:
        document: Any = orjson.loads(bytes(raw))
    except orjson.JSONDecodeError as error:
        raise invalid(f"The body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise invalid("The body must be a JSON object.")
    try:
        return kind.model_validate({key: value for key, value in document.items() if value is not None})
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> Refusal:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"] if not str(part).startswith(("list[", "function-", "constrained-"))]
    field = path[0] if path else None
    name = ".".join(path)
    if first["type"] == "missing":
        return invalid(f"The field {name!r} is missing.", name)
    if first["type"] == "extra_forbidden":
        return invalid(f"The field {name!r} is not supported by this worker.", name, "unsupported_parameter")
    if first["type"] in {"literal_error", "none_required"}:
        message = f"{name!r} has a value that this worker does not support: {first['msg']}."
        return invalid(message, name, "unsupported_value")
    return invalid(f"{field!r} is not valid: {first['msg']}.", field)
