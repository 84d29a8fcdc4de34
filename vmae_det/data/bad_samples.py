"""Bad-sample policy: unreadable videos, and keyframes outside their videos, are logged once and replaced.

The run stops if there are too many.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import torch

from vmae_det.utils import distributed
from vmae_det.utils.errors import DataError, UserError
from vmae_det.video.readers.base import TimeOutsideVideoError

logger = logging.getLogger(__name__)

# Videos to try for one sample, including the first. Enough if half of a dataset cannot be read.
_MAX_ATTEMPTS = 100
# Bad samples to list in the final error. The log contains all.
_MAX_LISTED = 5

_PROBLEMS = {"video": "videos cannot be read", "keyframe": "keyframes are outside their videos"}


class BadSample(NamedTuple):
    """A video or keyframe that could not be used.

    Args:
        kind: "video" if it cannot be read, or "keyframe" if it is outside its video.
        name: path of the video; for a keyframe the same text as `reason`.
        reason: the error message.
    """

    kind: str
    name: str
    reason: str


@dataclass(frozen=True)
class SampleResult:
    """Result of reading one sample, as returned by a worker.

    Args:
        samples: samples cut from the video; empty if it could not be read in testing.
        bad: failed attempts.
        error: error that must stop the run.
    """

    samples: list[dict[str, Any]]
    bad: tuple[BadSample, ...] = ()
    error: UserError | None = None


class FaultTolerantDataset(torch.utils.data.Dataset):
    """Wraps a dataset to return a `SampleResult` instead of raising errors.

    In training, an unreadable video is replaced by another one, which depends only on the seed and the epoch
    and index of the sample. In testing, the sample is skipped.

    Args:
        dataset: raises DataError for a sample whose video cannot be read. `path_of(index)` is that video.
        training: whether to replace unreadable videos.
        seed: seed of the replacements.
        workers: number of loader workers.
    """

    def __init__(self, dataset: Any, training: bool, seed: int, workers: int) -> None:
        self.dataset = dataset
        self.training = training
        self.seed = seed
        self.worker_status = WorkerStatus(workers)
        self.excluded: dict[str, str] = {}  # videos that crashed or blocked a worker, with the reason

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> SampleResult:
        epoch, index = key
        bad: list[BadSample] = []
        for attempt in range(_MAX_ATTEMPTS if self.training else 1):
            if attempt:
                rng = np.random.default_rng((self.seed, *key, attempt))
                index = int(rng.integers(len(self.dataset)))
            path = os.fspath(self.dataset.path_of(index))
            try:
                if path in self.excluded:
                    raise DataError(self.excluded[path], path)
                return SampleResult(self._read(epoch, index), tuple(bad))
            except TimeOutsideVideoError as error:
                bad.append(BadSample("keyframe", str(error), str(error)))
            except DataError as error:
                bad.append(BadSample("video", path, str(error)))
            except UserError as error:
                return SampleResult([], tuple(bad), error)
        error = DataError(f"{_MAX_ATTEMPTS} consecutive clips cannot be read; the last one: {bad[-1].reason}")
        return SampleResult([], tuple(bad), error if self.training else None)

    def _read(self, epoch: int, index: int) -> list[dict[str, Any]]:
        self.worker_status.start_sample(epoch, index)
        try:
            return self.dataset[epoch, index]
        finally:
            self.worker_status.finish_sample()

    def exclude(self, index: int, reason: str) -> None:
        """Never read the video of a sample again. Takes effect in workers that are started later."""
        self.excluded[os.fspath(self.dataset.path_of(index))] = reason


class WorkerStatus:
    """Which sample each loader worker is reading, in memory shared with the training process."""

    def __init__(self, workers: int) -> None:
        # Epoch and index of the sample, and the time at which reading started; 0 between samples.
        self._status = torch.zeros(workers, 3, dtype=torch.float64).share_memory_()

    def start_sample(self, epoch: int, index: int) -> None:
        """Record that this worker starts to read a sample."""
        info = torch.utils.data.get_worker_info()
        if info is not None:
            self._status[info.id] = torch.tensor([epoch, index, monotonic()], dtype=torch.float64)

    def finish_sample(self) -> None:
        """Record that this worker has read its sample."""
        info = torch.utils.data.get_worker_info()
        if info is not None:
            self._status[info.id, 2] = 0

    def current_sample(self, worker: int) -> int | None:
        """Return the index of the sample that a worker is reading, or was reading when it died."""
        _, index, started = self._status[worker].tolist()
        return int(index) if started else None

    def blocked_workers(self, seconds: float) -> list[int]:
        """Return the workers that have been reading one sample for more than some seconds."""
        now = monotonic()
        start_times = self._status[:, 2].tolist()
        return [worker for worker, start in enumerate(start_times) if start and now - start > seconds]

    def reset(self) -> None:
        """Clear the status after the workers have stopped."""
        self._status.zero_()


def collate_results(
    collate: Callable[[list], Any], results: list[SampleResult]
) -> tuple[Any, list[SampleResult]]:
    """Collate the samples of a batch.

    Returns:
        The batch, or None if it is empty; and the results with bad samples or errors, without their samples.
    """
    samples = [result.samples for result in results if result.samples]
    problems = [
        SampleResult([], result.bad, result.error) for result in results if result.bad or result.error
    ]
    return collate(samples) if samples else None, problems


class BadSampleTracker:
    """Collects the bad samples of a dataset from all processes, and stops the run if there are too many.

    Args:
        num_files: number of videos of the dataset.
        num_clips: number of clips of the dataset; for detection, of keyframes.
        max_fraction: maximum fraction of either that may be bad.
        in_step: whether all processes read the same number of batches. If so, they exchange bad samples after
            each batch, otherwise at the end of the dataset.

    Attributes:
        totals: number of videos and keyframes, by the kind of `BadSample`.
        found: bad samples so far, by name.
    """

    def __init__(self, num_files: int, num_clips: int, max_fraction: float, in_step: bool) -> None:
        self.totals = {"video": num_files, "keyframe": num_clips}
        self.max_fraction = max_fraction
        self.in_step = in_step
        self.found: dict[str, BadSample] = {}

    def count(self, kind: str) -> int:
        """Return the number of bad samples of a kind so far."""
        return sum(bad.kind == kind for bad in self.found.values())

    def filter_batches(self, batches: Generator[tuple[Any, list[SampleResult]], None, None]) -> Iterator[Any]:
        """Yield the non-empty batches. An error in one process is raised in all of them.

        Args:
            batches: batches as returned by `collate_results`.
        """
        found: dict[str, BadSample] = {}
        error: UserError | None = None
        with closing(batches):
            while not error:
                try:
                    content, problems = next(batches)
                except StopIteration:
                    break
                except UserError as raised:
                    content, problems, error = None, [], raised
                for bad in (bad for result in problems for bad in result.bad):
                    found.setdefault(bad.name, bad)
                error = next((result.error for result in problems if result.error), error)
                if self.in_step or distributed.get_world_size() == 1:
                    self.synchronize(found, error)
                    found = {}
                elif self._exceeded_kind(self.found | found):
                    break
                if content is not None:
                    yield content
        self.synchronize(found, error)

    def synchronize(self, found: dict[str, BadSample], error: UserError | None = None) -> None:
        """Exchange bad samples with the other processes, which must call this too. Logs each one once.

        Args:
            found: bad samples of this process, by name.
            error: error that must stop the run in this process.

        Raises:
            DataError: there are more than `max_fraction` of all.
            UserError: the error of the first process that has one.
        """
        found = {name: bad for name, bad in found.items() if name not in self.found}
        if not distributed.any_process(bool(found or error)):
            return
        gathered = distributed.all_gather_object((found, error))
        for process_found, _ in gathered:
            for name, bad in process_found.items():
                if name not in self.found:
                    self.found[name] = bad
                    if distributed.is_main_process():
                        logger.warning("skipped: %s", bad.reason)
        if kind := self._exceeded_kind(self.found):
            reasons = [bad.reason for bad in self.found.values() if bad.kind == kind]
            listed, more = "; ".join(reasons[-_MAX_LISTED:]), len(reasons) - _MAX_LISTED
            raise DataError(
                f"{len(reasons)} of {self.totals[kind]} {_PROBLEMS[kind]}, more than "
                f"DATALOADER.MAX_BAD_FRACTION {self.max_fraction:g} allows: {listed}"
                + (f"; and {more} more, see the log" if more > 0 else "")
            )
        for _, process_error in gathered:
            if process_error:
                raise process_error

    def _exceeded_kind(self, found: dict[str, BadSample]) -> str | None:
        """Return a kind of which there are more than allowed."""
        counts = Counter(bad.kind for bad in found.values())
        return next((kind for kind, n in counts.items() if n > self.max_fraction * self.totals[kind]), None)
