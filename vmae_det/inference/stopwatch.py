"""Where the time of a pipeline goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Seconds by part; each part is to be measured by one thread at a time.

    Args:
        clock: gives seconds; the wall's, or the CPU time of the process where nothing runs side by side.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        began = self._clock()
        try:
            yield
        finally:
            self.seconds[name] += self._clock() - began

    def of(self, items: Iterable[T], name: str) -> Iterator[T]:
        """The items, with the time that it takes to get each of them counted."""
        iterator = iter(items)
        try:
            while True:
                with self.part(name):
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
