"""Listening sockets on the addresses of pods.

Decides which are open. Part of the emulator (tests and demos only).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import structlog
from aiohttp import web

log = structlog.get_logger(__name__)

_BACKLOG = 16


class PodPorts:
    """One socket per pod address, all with the same routes."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None)
        self._sites: dict[str, tuple[int, web.TCPSite]] = {}
        self._refused: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        self._sites.clear()

    async def follow(self, ports: Mapping[str, int]) -> None:
        """Listen on exactly these addresses, each at its port; one that cannot be bound is logged once and tried again
        each time."""
        for address, (port, site) in list(self._sites.items()):
            if ports.get(address) != port:
                await site.stop()
                del self._sites[address]
        self._refused &= set(ports)
        for address in sorted(set(ports) - set(self._sites)):
            site = web.TCPSite(self._runner, address, ports[address], backlog=_BACKLOG)
            try:
                await site.start()
            except OSError as error:
                # A site registers itself before it binds; without this the next try would be refused.
                await site.stop()
                if address not in self._refused:
                    log.warning(
                        "cannot listen on a pod's address; the pod stays silent",
                        address=address,
                        port=ports[address],
                        error=error.strerror,
                        advice="make KWOK's pod range local: ip route add local RANGE dev lo",
                    )
                self._refused.add(address)
                continue
            self._sites[address] = (ports[address], site)
            self._refused.discard(address)

    def listening(self) -> set[str]:
        """Addresses that are bound."""
        return set(self._sites)


def called_address(request: web.Request) -> str:
    """The pod address that a request came in at."""
    if request.transport is None:
        raise web.HTTPServiceUnavailable
    address: str = request.transport.get_extra_info("sockname")[0]
    return address


def hang_up(request: web.Request) -> web.HTTPException:
    """Drop the connection without an answer; raise what comes back."""
    if request.transport is not None:
        request.transport.abort()
    return web.HTTPServiceUnavailable()
