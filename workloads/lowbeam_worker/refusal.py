"""The one way in which a request is refused: an HTTP status and OpenAI's error body.

    Refusal
    ├── invalid(...)        400  the request is wrong, or asks for something this worker does not do
    ├── too_long(...)       400  context_length_exceeded
    ├── wrong_model(...)    404
    ├── too_slow(...)       408  the body did not arrive in time
    ├── too_large(...)      413
    ├── overloaded(...)     429  queue, admission rate or power budget; with Retry-After
    ├── engine_failed(...)  500  the engine died under this request
    └── unavailable(...)    503  loading or draining, with Retry-After

A field that this worker does not support is refused, never ignored: a client must not pay for an answer it did not ask
for.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

RETRY_AFTER_SECONDS = 1
_MOST_QUOTED_CHARACTERS = 100


class Refusal(Exception):
    """An answer other than 200, in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The same as an HTTP response."""
        later = self.retry_after_seconds
        headers = {} if later is None else {"Retry-After": str(later)}
        if self.status == HTTPStatus.REQUEST_TIMEOUT:  # the rest of the body may still come, in a year
            headers["Connection"] = "close"
        return Response(orjson.dumps(self.body()), self.status, headers, "application/json")


def shortened(given: str) -> str:
    """What a client wrote, for quoting it: an answer is not as long as the longest name that a body has room for."""
    return given if len(given) <= _MOST_QUOTED_CHARACTERS else given[:_MOST_QUOTED_CHARACTERS] + "..."


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """400: say what is wrong with which field, and what would be accepted."""
    return Refusal(400, message, param=param, code=code)


def too_long(message: str, param: str) -> Refusal:
    """400 with OpenAI's code for it, so that clients cut their prompt instead of trying again."""
    return invalid(message, param, "context_length_exceeded")


def wrong_model(asked: str, served: Sequence[str]) -> Refusal:
    """404: this worker serves one model, under its name and perhaps one that stays when the model changes."""
    names = " or ".join(map(repr, served))
    message = f"The model {shortened(asked)!r} is not served here; this worker serves {names}."
    return Refusal(404, message, param="model", code="model_not_found")


def too_slow(seconds: float) -> Refusal:
    """408: the client did not send its body; it may not hold a place for ever."""
    return Refusal(408, f"The body did not arrive within {seconds:g} s; send the request again.", code="body_timeout")


def too_large(limit_bytes: int) -> Refusal:
    """413: not even read to its end."""
    return Refusal(413, f"The body is larger than {limit_bytes} bytes; send less at once.", code="body_too_large")


def overloaded(message: str, code: str = "queue_full", retry_after_seconds: int = RETRY_AFTER_SECONDS) -> Refusal:
    """429: the queue is full, or an operator's limit holds this request back."""
    return Refusal(429, message, kind="rate_limit_error", code=code, retry_after_seconds=retry_after_seconds)


def engine_failed(message: str) -> Refusal:
    """500: the engine failed while this request was in it; the request may be sent again."""
    return Refusal(500, message, kind="server_error", code="engine_failed")


def unavailable(message: str) -> Refusal:
    """503: not ready yet, or going away."""
    return Refusal(503, message, kind="server_error", code="not_ready", retry_after_seconds=RETRY_AFTER_SECONDS)
