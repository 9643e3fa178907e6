"""One client's connection: uvicorn's, deaf to wishes for another protocol, and with limits for the head of a request.

`Upgrade` is passed over, as RFC 9110 (7.8) allows: Java's HTTP client wishes for h2c with its first request, and the
parser takes the body behind such a head for the other protocol's, so that the request would arrive without it.

A head that is larger than `MAX_HEAD_BYTES` gets 431, and a connection on which none is complete within `HEAD_SECONDS`
is closed: the parser would hold any number of bytes, and uvicorn would wait for ever.
"""

from __future__ import annotations

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Line and headers of a request; the piece in which they begin is not counted."""
HEAD_SECONDS = 75.0
"""From the opening of the connection, or the first byte of a later request."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 26\r\nconnection: close\r\n\r\nThe headers are too large."
)


class Connection(HttpToolsProtocol):
    """What `uvicorn.Config` takes as `http`."""

    _head_is_open = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It left."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but for `Upgrade` and for heads without an end."""
        self._unset_keepalive_if_required()
        was_open = self._head_is_open
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as wish:
                if self.parser.get_method() == b"CONNECT":  # it wants a tunnel, not an answer
                    self.send_400_response("This is no proxy.")
                    return
                data = self._without_upgrade() + data[wish.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("This is no HTTP request.")
                return
        if was_open and self._head_is_open:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head_is_open, self._head_bytes = True, 0
        if self._head_timer is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """A head is there; one that wishes for another protocol is read again."""
        self._head_is_there()
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A body is there."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _without_upgrade(self) -> bytes:
        """The same head for a new parser."""
        line = self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        lines = [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        return b"\r\n".join([b"%s %s HTTP/%s" % line, *lines, b"", b""])

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_there(self) -> None:
        self._head_is_open = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:  # an answer to the request before is on its way
            self._wait_for_head()
