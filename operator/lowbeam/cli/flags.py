"""Types of flags that argparse has no word for: a wrong value ends the command before it starts, by its flag."""

from __future__ import annotations

from argparse import ArgumentTypeError

from lowbeam.runtime.settings import HIGHEST_PORT


def port(text: str) -> int:
    """A TCP port; 0 has the meaning that the flag's help gives it."""
    if not text.isdecimal() or len(text) > len(str(HIGHEST_PORT)) or int(text) > HIGHEST_PORT:
        raise ArgumentTypeError(f'"{text}" is not a port (0 to {HIGHEST_PORT})')
    return int(text)
