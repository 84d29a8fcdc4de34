"""Bounded queues between threads, and pipelines of iterators that run in separate threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class ChannelClosed(Exception):
    """The consumer of a channel accepts no more items."""


class Channel(Generic[T]):
    """A bounded queue between two threads, which also transports the end of the items, or an error.

    Args:
        depth: maximum number of items in the queue.
        drop_oldest: whether `put` drops the oldest item of a full queue instead of waiting.

    Attributes:
        dropped: number of dropped items.
    """

    def __init__(self, depth: int, drop_oldest: bool = False) -> None:
        self.dropped = 0
        self._depth, self._drop_oldest = depth, drop_oldest
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Append an item. Raises ChannelClosed if the consumer has closed the channel."""
        with self._changed:
            if self._drop_oldest and len(self._items) >= self._depth:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if self._closed:
                raise ChannelClosed
            self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end of the items. `get` raises the error, if any, after the remaining items."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Accept no more items."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def get(self, max_items: int = 1) -> list[T]:
        """Wait for an item. Return it and further available ones, at most `max_items`; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items or self._ended)
            if not self._items and self._error is not None:
                raise self._error
            items = [self._items.popleft() for _ in range(min(max_items, len(self._items)))]
            self._changed.notify_all()
            return items


class ThreadPipeline:
    """Iterators that run in one thread each and pass their items on through channels."""

    def __init__(self) -> None:
        self._channels: list[Channel[Any]] = []
        self._threads: list[threading.Thread] = []

    def run(self, items: Iterable[T], depth: int, drop_oldest: bool = False) -> Channel[T]:
        """Start a thread that puts the items, and any error of the iterator, into a channel; return it."""
        channel: Channel[T] = Channel(depth, drop_oldest)
        thread = threading.Thread(target=_fill, args=(channel, items), daemon=True)
        self._channels.append(channel)
        thread.start()
        self._threads.append(thread)
        return channel

    def close(self) -> None:
        """Stop all threads and wait for them."""
        for channel in self._channels:
            channel.close()
        for thread in self._threads:
            thread.join()


def _fill(channel: Channel[T], items: Iterable[T]) -> None:
    try:
        for item in items:
            channel.put(item)
    except ChannelClosed:
        channel.end()
    except BaseException as error:
        channel.end(error)
    else:
        channel.end()
    finally:
        if hasattr(items, "close"):
            items.close()


def batches(channel: Channel[T], max_items: int) -> Iterator[list[T]]:
    """Yield all items of a channel in lists of the available ones, at most `max_items` each."""
    while items := channel.get(max_items):
        yield items
