"""Batches from loader processes that may die: a crash or a hang costs one video, not the run."""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import connection
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Sampler

from vmae_det.data.bad_samples import BadSampleTracker, FaultTolerantDataset, collate_results
from vmae_det.data.buffer_pool import START_METHOD, BufferPool
from vmae_det.utils.cpu import keep_freed_memory
from vmae_det.utils.errors import UserError

# What a reader's own mistakes end a process by; anything else comes from outside.
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
PREFETCH = 2  # batches that each process has ready
_SLOTS = PREFETCH + 2  # one for the batch in use, one for that which takes its place
_KEPT = 32 << 20  # bytes of the largest block that a loader process keeps for the next clip
_DYING = 10.0  # seconds that the system may take to end a process


class WorkerError(UserError):
    """A loader process was ended from outside."""


class FaultTolerantLoader:
    """Batches of a dataset, read by processes that are started anew when a video kills one of them.

    The batches are the same whatever happens to the processes, but for the videos that are left out.

    Args:
        dataset: answers in place of raising.
        batches: lists of the dataset's keys, in the same order whenever it is iterated.
        collate: a batch from lists of samples.
        bad_samples: takes note of the videos that could not be read; None: nobody does.
        workers: number of processes; 0 reads in this one, where a crash ends the run.
        seconds: that the reading of one sample may take before its process is ended.
        finish: called with the number and the content of each batch, gives what is yielded.
        slot_bytes: what the clips of a batch take, for which `collate` is given a BufferPool; 0: unknown.
    """

    def __init__(
        self,
        dataset: FaultTolerantDataset,
        batches: Sampler,
        collate: Callable[[list], Any],
        bad_samples: BadSampleTracker | None,
        *,
        workers: int,
        seconds: float,
        finish: Callable[[int, Any], Any],
        slot_bytes: int = 0,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.collate = collate
        self.bad_samples = bad_samples
        self.workers = workers
        self.seconds = seconds
        self.finish = finish
        self.slot_bytes = slot_bytes

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        if self.bad_samples is None:
            return (content for content, _ in self._batches() if content is not None)
        return self.bad_samples.watch(self._batches())

    def _batches(self) -> Generator[tuple[Any, list], None, None]:
        """Each batch, None where nothing of it could be read, and the answers that hold more than samples."""
        done = 0
        while True:
            processes = _Processes(self, done)
            try:
                for content, notable in processes:
                    number, done = done, done + 1
                    yield None if content is None else self.finish(number, content), notable
                return
            except _Died:
                self.dataset.board.clear()
            finally:
                processes.close()


class _Died(Exception):
    """A process has died of a video, which is condemned."""


class _Processes:
    """The loader processes of one start, from a batch on."""

    def __init__(self, loader: FaultTolerantLoader, first: int) -> None:
        self.loader = loader
        workers, collate = loader.workers, loader.collate
        self.arena = None
        if loader.slot_bytes and workers:
            self.arena = BufferPool(loader.slot_bytes, _SLOTS, workers)
            collate = functools.partial(collate, arena=self.arena)
        # A generator of its own, so that torch draws nothing from the one that the run's numbers come from.
        torch_loader = DataLoader(
            loader.dataset,
            batch_sampler=_From(loader.batches, first),
            num_workers=workers,
            multiprocessing_context=START_METHOD if workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_prepare_worker,
            prefetch_factor=PREFETCH if workers else None,
            collate_fn=functools.partial(collate_results, collate),
            generator=torch.Generator(),
        )
        with _shared_memory() if workers else nullcontext():
            self.iterator = iter(torch_loader)
        self.closed = threading.Event()
        self.hung: set[int] = set()
        if workers:
            _leave_dead_children_to_us()
            threading.Thread(target=self._watch, daemon=True).start()

    def __iter__(self) -> Iterator[tuple[Any, list]]:
        while True:
            try:
                yield next(self.iterator)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if not isinstance(error, RuntimeError):
                    # A dying process closes its sockets some time before it counts as dead.
                    connection.wait([process.sentinel for process in self.iterator._workers], timeout=_DYING)
                self._find_the_dead()
                raise

    def _watch(self) -> None:
        """End processes that are stuck in a sample."""
        while not self.closed.wait(min(1.0, self.loader.seconds / 4)):
            for number in self.loader.dataset.board.stuck(self.loader.seconds):
                if number not in self.hung:
                    self.hung.add(number)
                    self.iterator._workers[number].kill()

    def _find_the_dead(self) -> None:
        """Raise what the death of a process means; return where none has died."""
        board = self.loader.dataset.board
        for number, process in enumerate(getattr(self.iterator, "_workers", ())):
            if not process.exitcode:
                continue
            index = board.reading(number)
            if number in self.hung:
                reason = f"hangs: not read in {self.loader.seconds:g} s (DATALOADER.TIMEOUT)"
            elif -process.exitcode in _CRASHES:
                reason = f"crashes the reader ({signal.Signals(-process.exitcode).name})"
            else:
                reason = ""
            if reason and index is not None:
                self.loader.dataset.condemn(index, reason)
                raise _Died
            raise WorkerError(self._obituary(number, process, index))

    def _obituary(self, number: int, process: Any, index: int | None) -> str:
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        where = "" if index is None else f" while it read {self.loader.dataset.dataset.path_of(index)}"
        hint = "; was memory short? DATALOADER.NUM_WORKERS lower may help" if code == -signal.SIGKILL else ""
        return f"loader process {number} (pid {process.pid}) {how}{where}{hint}"

    def close(self) -> None:
        """End the processes."""
        self.closed.set()
        shut_down = getattr(self.iterator, "_shutdown_workers", None)
        if shut_down:
            shut_down()


class _From(Sampler):
    """The batches of a sampler from number `first` on."""

    def __init__(self, batches: Sampler, first: int) -> None:
        self.batches = batches
        self.first = first

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.batches, self.first, None)


@contextmanager
def _shared_memory() -> Iterator[None]:
    """Processes that are forked in this block share what is in memory now for as long as it can be.

    The garbage collector would else write to every object, and what was freed be handed out anew, in each.
    """
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc alone has it
    yield
    gc.unfreeze()


def _prepare_worker(_: int) -> None:
    keep_freed_memory(_KEPT)
    torch.set_num_threads(1)  # the worker processes are the parallelism
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process decides what an interrupt means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave_dead_children_to_us() -> None:
    """Without torch's handler, which raises in the middle of whatever the training process does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
