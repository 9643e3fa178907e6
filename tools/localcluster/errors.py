"""The errors a person at a terminal sees. Each message says what happened and what to do next."""

from __future__ import annotations


class LocalClusterError(Exception):
    """Something this package cannot repair by itself."""


class BuildError(LocalClusterError):
    """A part could not be built; the message carries the end of the compiler's output."""


class PartDiedError(LocalClusterError):
    """A part ended, or did not become ready in time; the message carries the end of its log."""


class MissingToolError(LocalClusterError):
    """The machine lacks a program or a right; the message says which and how to get it."""
