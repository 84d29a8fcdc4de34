"""Work handed from thread to thread: bounded, in order, with errors and an end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The reader of a channel takes nothing more."""


class Channel(Generic[T]):
    """A queue of at most `depth` items between two threads.

    Args:
        lossy: a full channel drops its oldest item instead of having the writer wait.

    Attributes:
        dropped: items that a lossy channel dropped.
    """

    def __init__(self, depth: int, lossy: bool = False) -> None:
        self.dropped = 0
        self._depth, self._lossy = depth, lossy
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Append an item; Closed if nobody wants it any more."""
        with self._changed:
            if self._lossy and len(self._items) >= self._depth:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """There are no more items; the reader meets the error, if any, after those there are."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, most: int = 1) -> list[T]:
        """Wait for an item, then give it and those that are there already, `most` in all; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items or self._ended)
            if not self._items and self._error is not None:
                raise self._error
            items = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._changed.notify_all()
            return items


class Stages:
    """Iterators that run in threads of their own, each feeding the next; `close` ends them all."""

    def __init__(self) -> None:
        self._channels: list[Channel[Any]] = []
        self._threads: list[threading.Thread] = []

    def run(self, items: Iterable[T], depth: int, lossy: bool = False) -> Channel[T]:
        """A channel that a new thread fills with the items, and ends with the error that they raise."""
        channel: Channel[T] = Channel(depth, lossy)
        thread = threading.Thread(target=_fill, args=(channel, items), daemon=True)
        self._channels.append(channel)
        self._threads.append(thread)
        thread.start()
        return channel

    def close(self) -> None:
        """Have all threads end, and wait for them."""
        for channel in self._channels:
            channel.close()
        for thread in self._threads:
            thread.join()


def _fill(channel: Channel[T], items: Iterable[T]) -> None:
    try:
        for item in items:
            channel.put(item)
    except Closed:
        channel.end()
    except BaseException as error:
        channel.end(error)
    else:
        channel.end()
    finally:
        if hasattr(items, "close"):
            items.close()


def batches(channel: Channel[T], most: int) -> Iterator[list[T]]:
    """All items of a channel, as many at a time as are there, `most` in all."""
    while items := channel.take(most):
        yield items
