"""The socket behind a port of the worker or of the node agent: every address of the machine, IPv6 and IPv4."""

from __future__ import annotations

import errno
import socket

_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""The kernel knows IPv6, and this machine or this pod has it switched off."""


def listen(port: int) -> socket.socket:
    """A socket that listens on `port` (0: any free one); IPv4 only where there is no IPv6. Raises OSError."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    return socket.create_server(("", port))
