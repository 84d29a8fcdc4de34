"""HTTP/1.1 of a local server: uvicorn's, with a time limit for headers, and with lingering closes.

If a server closes a connection on which the client still sends, the system resets the connection, and the
client may lose the answer. So the server first ends only its own side (RFC 9112, section 9.6). Then it
ignores what arrives until the client closes, too. The amount and the time are limited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADER_SECONDS = 20.0  # for the headers of a request, from the connection or the previous response on
_LINGER_SECONDS = 10.0  # to read on after the answer
_LINGER_IDLE_SECONDS = 2.0  # without a byte
_LINGER_BYTES = 2**28


class Protocol(H11Protocol):
    """A connection. Its transport lingers if the client has not sent its body, or sends something else."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start with a transport that lingers."""

        def is_sending() -> bool:
            return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

        self._transport = _LingeringTransport(transport, self.loop, is_sending)
        super().connection_made(self._transport)  # type: ignore[arg-type]
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Parse data. Ignore it after the last answer."""
        if self._transport.is_closing():
            self._transport.ignore(len(data))
        else:
            super().data_received(data)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._expect_headers()

    def shutdown(self) -> None:
        """Close the connection, after the answer that is being sent."""
        if self._transport.is_closing():
            self._transport.abort()
        else:
            super().shutdown()

    def _expect_headers(self) -> None:
        previous = self.cycle

        def close() -> None:
            if self.cycle is previous:
                self.transport.close()

        self.loop.call_later(_HEADER_SECONDS, close)


class _LingeringTransport:
    """A transport that closes in two steps.

    Args:
        is_sending: whether the client may still send.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, is_sending: Callable[[], bool]
    ) -> None:
        self._transport, self._loop, self._is_sending = transport, loop, is_sending
        self._lingers = False
        self._ignored, self._last, self._end = 0, 0.0, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        if not self._is_sending():
            self._transport.close()
            return
        self._lingers = True
        self._last = self._loop.time()
        self._end = self._last + _LINGER_SECONDS
        self._transport.write_eof()
        self._transport.resume_reading()
        self._watch()

    def ignore(self, size: int) -> None:
        """Count the bytes that arrived after `close`."""
        self._ignored += size
        self._last = self._loop.time()
        if self._ignored > _LINGER_BYTES:
            self._transport.abort()

    def _watch(self) -> None:
        if self._transport.is_closing():
            return
        wait = min(self._last + _LINGER_IDLE_SECONDS, self._end) - self._loop.time()
        if wait <= 0:
            self._transport.abort()
        else:
            self._loop.call_later(wait, self._watch)
