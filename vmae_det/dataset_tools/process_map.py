"""A function over many files in processes of their own: a crash, or a hang, costs one file."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any

from tqdm import tqdm

# Fork would copy the locks of other libraries' threads, perhaps held.
_CONTEXT = multiprocessing.get_context("spawn")


class WorkerDied(Exception):
    """The process of a file ended, or had to be ended, before it answered."""


class _Worker:
    """A process that answers one item at a time."""

    def __init__(self, function: Callable[[str], Any]) -> None:
        self.pipe, other = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(function, other), daemon=True)
        self.process.start()
        other.close()
        self.item = ""
        self.deadline = 0.0
        self.started = False

    def give(self, item: str, seconds: float) -> None:
        if not self.started:  # imports take a while, which is not the item's fault
            self.started = self.pipe.recv()
        self.item, self.deadline = item, monotonic() + seconds
        self.pipe.send(item)

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _serve(function: Callable[[str], Any], pipe: Connection) -> None:
    try:
        pipe.send(True)
        while True:
            pipe.send(function(pipe.recv()))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def run_apart(
    function: Callable[[str], Any], items: Iterable[str], workers: int, seconds: float, description: str
) -> Iterator[tuple[str, Any]]:
    """(item, answer) of each item, in any order, with a progress bar; WorkerDied stands for an answer that
    never came.

    Args:
        function: picklable, run in the workers; what it raises ends its worker.
        seconds: how long an answer may take.
    """
    waiting = list(items)[::-1]
    busy: list[_Worker] = []
    bar = tqdm(total=len(waiting), desc=description, unit="video", disable=None, leave=False)
    try:
        busy += [_Worker(function) for _ in range(min(workers, len(waiting)))]
        for worker in busy:
            worker.give(waiting.pop(), seconds)
        while busy:
            ready = wait([worker.pipe for worker in busy], timeout=1)
            for worker in [w for w in busy if w.pipe in ready or monotonic() > w.deadline]:
                item, answer = worker.item, _answer(worker, ready)
                busy.remove(worker)
                if isinstance(answer, WorkerDied):
                    worker.stop()
                    worker = _Worker(function) if waiting else None
                if waiting:
                    worker.give(waiting.pop(), seconds)
                    busy.append(worker)
                elif worker is not None:
                    worker.stop()
                bar.update()
                yield item, answer
    finally:
        bar.close()
        for worker in busy:
            worker.stop()


def _answer(worker: _Worker, ready: list[Any]) -> Any:
    if worker.pipe not in ready:
        return WorkerDied("the decoder hangs")
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        return WorkerDied(f"the decoder crashed (exit status {worker.process.exitcode})")
