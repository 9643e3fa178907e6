"""Ports for servers that a test starts, and tells by number where to listen."""

from __future__ import annotations

import socket

_HELD: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody else on this machine is given until these tests end.

    A socket stays bound to it, or the kernel could give it away in the seconds until its server is there. A server that
    reuses addresses, as aiohttp's and Go's do, may listen on it all the same.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _HELD.append(held)
    port: int = held.getsockname()[1]
    return port
