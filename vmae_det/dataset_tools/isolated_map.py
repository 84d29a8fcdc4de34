"""Map a function over many files in separate processes. A crash or hang is limited to one file.

`concurrent.futures` is not enough: a crashed worker breaks its whole pool, and a running call cannot be
stopped.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any

from tqdm import tqdm

# Fork would copy locks that threads of other libraries may hold.
_CONTEXT = multiprocessing.get_context("spawn")


class WorkerFailure(Exception):
    """The worker process of an item crashed or timed out."""


class _Worker:
    """A process that handles one item at a time."""

    def __init__(self, function: Callable[[str], Any]) -> None:
        self.pipe, child_pipe = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_worker_loop, args=(function, child_pipe), daemon=True)
        self.process.start()
        child_pipe.close()
        self.item = ""
        self.timeout = 0.0
        self.deadline = 0.0
        self.is_ready = False

    def submit(self, item: str, timeout: float) -> None:
        if not self.is_ready:  # imports take a while; they do not count towards the timeout
            self.is_ready = self.pipe.recv()
        self.item, self.timeout, self.deadline = item, timeout, monotonic() + timeout
        self.pipe.send(item)

    def result(self, ready: list[Any]) -> Any:
        """Return the result of the current item, or a WorkerFailure.

        Args:
            ready: pipes that can be read.
        """
        if self.pipe not in ready:
            return WorkerFailure(f"decoding timed out after {self.timeout:g} s")
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return WorkerFailure(f"the decoder crashed (exit status {self.process.exitcode})")

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _worker_loop(function: Callable[[str], Any], pipe: Connection) -> None:
    try:
        pipe.send(True)
        while True:
            pipe.send(function(pipe.recv()))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def isolated_map(
    function: Callable[[str], Any], items: Iterable[str], workers: int, timeout: float, description: str
) -> Iterator[tuple[str, Any]]:
    """Yield (item, result) of each item, in any order, with a progress bar.

    The result is a `WorkerFailure` if the function crashes or times out; the other items continue.

    Args:
        function: picklable; called in the workers. An exception that it raises crashes its worker.
        workers: number of processes.
        timeout: seconds that one call can take.
        description: text of the progress bar.
    """
    waiting = list(items)[::-1]
    busy: list[_Worker] = []
    bar = tqdm(total=len(waiting), desc=description, unit="video", disable=None, leave=False)
    try:
        busy += [_Worker(function) for _ in range(min(workers, len(waiting)))]
        for worker in busy:
            worker.submit(waiting.pop(), timeout)
        while busy:
            ready = wait([worker.pipe for worker in busy], timeout=1)
            for worker in [w for w in busy if w.pipe in ready or monotonic() > w.deadline]:
                item, result = worker.item, worker.result(ready)
                busy.remove(worker)
                if isinstance(result, WorkerFailure):
                    worker.stop()
                    worker = _Worker(function) if waiting else None
                if waiting:
                    worker.submit(waiting.pop(), timeout)
                    busy.append(worker)
                elif worker is not None:
                    worker.stop()
                bar.update()
                yield item, result
    finally:
        bar.close()
        for worker in busy:
            worker.stop()
