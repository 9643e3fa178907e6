"""Errors that reach a user: each says what happened, to which object and field, and what to do.

LowbeamError            base; `code` is stable, documented and safe to match on
├── BadInput            a file, flag or object is wrong (exit code 2)
├── Impossible          the request is understood and cannot be met (exit code 1)
└── Unreachable         the cluster does not answer (exit code 3)
"""

from __future__ import annotations


class LowbeamError(Exception):
    """Base of the errors that are shown to a user as one or more lines, never as a traceback."""

    code = "LB000"
    exit_code = 1


class BadInput(LowbeamError):
    """A file, flag or object is wrong; the message names it and its field."""

    code = "LB200"
    exit_code = 2


class Impossible(LowbeamError):
    """The request is well-formed and cannot be met; the message says which relaxation would help."""

    code = "LB100"
    exit_code = 1


class Unreachable(LowbeamError):
    """The API server, a worker or Prometheus does not answer."""

    code = "LB300"
    exit_code = 3
