"""Fault-tolerant data loader: if a video crashes or blocks a worker, only that video is lost."""

from __future__ import annotations

import ctypes
import functools
import gc
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
from vmae_det.data.samplers import SkipBatches
from vmae_det.utils.cpu import keep_freed_memory
from vmae_det.utils.errors import UserError

# Signals caused by a fault in a reader. Other signals come from outside.
_CRASHES = [
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
    if hasattr(signal, name)  # Windows has no SIGBUS
]
PREFETCH = 2  # batches that each worker prepares in advance
_SLOTS = PREFETCH + 2  # one for the batch in use, and one for the batch being built
KEPT_BLOCK = 32 << 20  # bytes of the largest memory block that a worker keeps for the next clip
_EXIT_TIMEOUT = 10.0  # seconds that a killed process may take to exit


class WorkerError(UserError):
    """A loader worker was killed from outside."""


class FaultTolerantLoader:
    """Iterates over the batches of a dataset. Workers are restarted if a video crashes or blocks one of them.

    The batches do not depend on what happens to the workers, except for the skipped videos.

    Args:
        dataset: returns a `SampleResult` instead of raising errors.
        batches: lists of keys of the dataset, in the same order in each iteration.
        collate: builds a batch from lists of samples. With `slot_bytes` it gets a keyword argument `pool`.
        bad_samples: records the bad samples; None ignores them.
        workers: number of workers. 0 reads in this process, where a crash stops the run.
        seconds: timeout for reading one sample.
        finish: called with the number and the content of each batch; its result is yielded.
        slot_bytes: size of the clips of a batch, for the buffer pool; 0 if unknown.
        pin_memory: copy batches to pinned memory, from which copies to a GPU are fast.
        uses_cuda: whether the workers use the current CUDA device. They are then spawned, because a forked
            process cannot use CUDA.
    """

    def __init__(
        self,
        dataset: FaultTolerantDataset,
        batches: Sampler,
        collate: Callable[..., Any],
        bad_samples: BadSampleTracker | None,
        *,
        workers: int,
        seconds: float,
        finish: Callable[[int, Any], Any],
        slot_bytes: int = 0,
        pin_memory: bool = False,
        uses_cuda: bool = False,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.collate = collate
        self.bad_samples = bad_samples
        self.workers = workers
        self.seconds = seconds
        self.finish = finish
        self.slot_bytes = slot_bytes
        self.pin_memory = pin_memory
        self.uses_cuda = uses_cuda

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        if self.bad_samples is None:
            return (content for content, _ in self._results() if content is not None)
        return self.bad_samples.filter_batches(self._results())

    def _results(self) -> Generator[tuple[Any, list], None, None]:
        """Yield batches as returned by `collate_results`, after `finish`."""
        done = 0
        while True:
            pool = _WorkerPool(self, done)
            try:
                for content, problems in pool:
                    number, done = done, done + 1
                    yield None if content is None else self.finish(number, content), problems
                return
            except _WorkerDied:
                self.dataset.worker_status.reset()
            finally:
                pool.close()


class _WorkerDied(Exception):
    """A worker died while reading a video, which is now excluded."""


class _WorkerPool:
    """One set of workers, which reads from batch number `first` on."""

    def __init__(self, loader: FaultTolerantLoader, first: int) -> None:
        self.loader = loader
        workers, collate = loader.workers, loader.collate
        start_method, device = ("spawn", _cuda_device()) if loader.uses_cuda else (START_METHOD, None)
        self.buffers = None
        if loader.slot_bytes and workers:
            self.buffers = BufferPool(loader.slot_bytes, _SLOTS, workers, start_method)
            collate = functools.partial(collate, pool=self.buffers)
        # A separate generator, so that torch draws no numbers from the global generator of the run.
        torch_loader = DataLoader(
            loader.dataset,
            batch_sampler=SkipBatches(loader.batches, first),
            num_workers=workers,
            multiprocessing_context=start_method if workers else None,
            pin_memory=loader.pin_memory,
            worker_init_fn=functools.partial(_init_worker, device=device),
            prefetch_factor=PREFETCH if workers else None,
            collate_fn=functools.partial(collate_results, collate),
            generator=torch.Generator(),
        )
        with _shared_pages() if workers else nullcontext():
            self.iterator = iter(torch_loader)
        self.closed = threading.Event()
        self.timed_out: set[int] = set()
        if workers:
            _disable_torch_sigchld_handler()
            threading.Thread(target=self._kill_blocked_workers, daemon=True).start()

    def __iter__(self) -> Iterator[tuple[Any, list]]:
        while True:
            try:
                yield next(self.iterator)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if not isinstance(error, RuntimeError):
                    # A dying process closes its sockets some time before it has an exit code.
                    sentinels = [process.sentinel for process in self.iterator._workers]
                    connection.wait(sentinels, timeout=_EXIT_TIMEOUT)
                self._raise_if_died()
                raise

    def _kill_blocked_workers(self) -> None:
        """Kill workers that exceed the timeout of a sample. Runs in a thread."""
        timeout = self.loader.seconds
        while not self.closed.wait(min(1.0, timeout / 4)):
            for number in self.loader.dataset.worker_status.blocked_workers(timeout):
                if number not in self.timed_out:
                    self.timed_out.add(number)
                    self.iterator._workers[number].kill()

    def _raise_if_died(self) -> None:
        """Raise the error for a dead worker; return if none has died.

        Raises:
            _WorkerDied: a video crashed or blocked the worker.
            WorkerError: it was killed from outside.
        """
        dataset = self.loader.dataset
        for number, process in enumerate(getattr(self.iterator, "_workers", ())):
            if not process.exitcode:
                continue
            index = dataset.worker_status.current_sample(number)
            if number in self.timed_out:
                reason = f"hangs: not read in {self.loader.seconds:g} s (DATALOADER.TIMEOUT)"
            elif -process.exitcode in _CRASHES:
                reason = f"crashes the reader ({signal.Signals(-process.exitcode).name})"
            else:
                reason = ""
            if reason and index is not None:
                dataset.exclude(index, reason)
                raise _WorkerDied
            raise WorkerError(self._describe_death(number, process, index))

    def _describe_death(self, number: int, process: Any, index: int | None) -> str:
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        where = "" if index is None else f" while reading {self.loader.dataset.dataset.path_of(index)}"
        remedy = "; if memory is short, reduce DATALOADER.NUM_WORKERS" if how.endswith("SIGKILL") else ""
        return f"loader worker {number} (pid {process.pid}) {how}{where}{remedy}"

    def close(self) -> None:
        """Stop the workers."""
        self.closed.set()
        shut_down = getattr(self.iterator, "_shutdown_workers", None)
        if shut_down:
            shut_down()


@contextmanager
def _shared_pages() -> Iterator[None]:
    """Keep memory pages shared between this process and the workers forked in this block.

    Otherwise each worker copies pages when its garbage collector writes to objects and it reuses free memory.
    Objects stay frozen if the program had frozen objects before.
    """
    frozen_before = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc only
    yield
    if not frozen_before:
        gc.unfreeze()


def _cuda_device() -> int | None:
    """Return the current CUDA device; None if this process does not use CUDA, as with MODEL.DEVICE cpu."""
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None


def _init_worker(_: int, device: int | None) -> None:
    keep_freed_memory(KEPT_BLOCK)
    torch.set_num_threads(1)  # the workers are the parallelism
    cv2.setNumThreads(0)
    if device is not None:
        torch.cuda.set_device(device)  # a spawned process starts with device 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process handles interrupts
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _disable_torch_sigchld_handler() -> None:
    """Disable torch's handler, which raises an error at an arbitrary point of the training process."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
