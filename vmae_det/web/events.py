"""Server-sent events: news for all open pages, and which page shows what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

_KEEP_ALIVE = 15.0  # seconds; a connection that is gone is noticed at the next line
_MAX_WAITING = 1000  # events; a page that reads none is disconnected, and connects again


class Events:
    """Pages that listen, by client and what each shows."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: dict[asyncio.Queue[str | None], tuple[str, str]] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use the event loop of the server."""
        self._loop = loop

    def publish(self, event: dict[str, Any]) -> None:
        """Send an event to all pages, from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._send, json.dumps(event), list(self._listeners))

    def others(self, subject: str, client: str | None) -> int:
        """Return how many other pages show a subject."""
        return len(
            {one for one, shown in list(self._listeners.values()) if shown == subject and one != client}
        )

    async def listen(self, client: str, subject: str) -> AsyncIterator[str]:
        """Yield the lines of an event stream for a page that shows `subject`, such as a video."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(_MAX_WAITING)
        self._listeners[queue] = client, subject
        self._announce(subject)
        try:
            yield ": listening\n\n"
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), _KEEP_ALIVE)
                except asyncio.TimeoutError:
                    yield ": \n\n"
                    continue
                if event is None:
                    return
                yield f"data: {event}\n\n"
        finally:
            del self._listeners[queue]
            self._announce(subject)

    def _announce(self, subject: str) -> None:
        """Tell each page that shows a subject how many others do."""
        for queue, (client, shown) in list(self._listeners.items()):
            if shown == subject:
                clients = self.others(subject, client)
                self._send(json.dumps({"type": "presence", "video": subject, "clients": clients}), [queue])

    def _send(self, event: str, queues: list[asyncio.Queue[str | None]]) -> None:
        for queue in queues:
            if not queue.full():
                queue.put_nowait(event if queue.qsize() < _MAX_WAITING - 1 else None)
