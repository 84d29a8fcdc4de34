"""Peak memory and CPU time of this process."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes; 0 on Windows, where it is not known.

    On Linux, getrusage also counts the memory of the parent process; /proc/self/status does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cpu_seconds() -> float:
    """Return the user and system time of all threads of this process."""
    return time.process_time()


class Stopwatch:
    """Adds up the seconds that the stages of a pipeline take. Only one thread at a time may measure a stage.

    Args:
        clock: returns seconds: wall-clock time, or CPU time (`cpu_seconds`) if the stages run one at a time.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of a `with` block to a stage."""
        start = self._clock()
        try:
            yield
        finally:
            self.seconds[stage] += self._clock() - start

    def measure_each(self, items: Iterable[T], stage: str) -> Iterator[T]:
        """Yield the items, and add the time that it takes to produce them to a stage."""
        iterator = iter(items)
        try:
            while True:
                with self.measure(stage):
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
