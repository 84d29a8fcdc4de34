"""Videos that cannot be read, and keyframes outside of theirs: each is named once, another one takes its
place, and too many end the run."""

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

# Videos that are tried for one sample, the first included: enough where half of a set cannot be read.
_ATTEMPTS = 100
# Videos that the error at the end shows; the log has them all.
_SHOWN = 5


class BadSample(NamedTuple):
    """Something that was tried in vain.

    Args:
        kind: "video", which cannot be read, or "keyframe", which lies outside its video.
        name: the video's path; of a keyframe, all that `reason` says.
        reason: why.
    """

    kind: str
    name: str
    reason: str


_PROBLEMS = {"video": "videos cannot be read", "keyframe": "keyframes lie outside their videos"}


@dataclass(frozen=True)
class SampleResult:
    """What became of one sample, as it travels from a loader process to the training process.

    Args:
        samples: those cut from the video; none where it could not be read in testing.
        bad: what was tried in vain.
        error: what ends the run.
    """

    samples: list[dict[str, Any]]
    bad: tuple[BadSample, ...] = ()
    error: UserError | None = None


class BadSampleTracker:
    """The videos of a dataset that could not be read so far, and its keyframes outside of videos, in any
    process.

    Args:
        num_files: of the dataset.
        num_clips: of the dataset: keyframes, where it has any.
        max_fraction: of either that may be bad.
        in_step: all processes read the same number of batches, and tell each other of bad videos with each;
            else they do so at the end of the set.
    """

    def __init__(self, num_files: int, num_clips: int, max_fraction: float, in_step: bool) -> None:
        self.totals = {"video": num_files, "keyframe": num_clips}
        self.max_fraction = max_fraction
        self.in_step = in_step
        self.found: dict[str, BadSample] = {}

    def count(self, kind: str) -> int:
        """How many of a kind of `BadSample` there are so far."""
        return sum(bad.kind == kind for bad in self.found.values())

    def watch(self, batches: Generator[tuple[Any, list[SampleResult]], None, None]) -> Iterator[Any]:
        """What batches hold, without those that hold nothing; all processes end in the error of one.

        Args:
            batches: a batch or None, and the answers of its samples that hold more than samples.
        """
        found: dict[str, BadSample] = {}
        error: UserError | None = None
        with closing(batches):
            while not error:
                try:
                    content, notable = next(batches)
                except StopIteration:
                    break
                except UserError as raised:
                    content, notable, error = None, [], raised
                for bad in (bad for answer in notable for bad in answer.bad):
                    found.setdefault(bad.name, bad)
                error = next((answer.error for answer in notable if answer.error), error)
                if self.in_step or distributed.get_world_size() == 1:
                    self.share(found, error)
                    found = {}
                elif self._too_many(self.found | found):
                    break
                if content is not None:
                    yield content
        self.share(found, error)

    def share(self, found: dict[str, BadSample], error: UserError | None = None) -> None:
        """Take note of what this process has met and what the others have, which call this too.

        Each is logged the first time that it is met.

        Args:
            found: by name.
            error: what ends the run in this process.

        Raises:
            DataError: there are more than `max_fraction` of all.
            UserError: of the first process that has one.
        """
        found = {name: bad for name, bad in found.items() if name not in self.found}
        if not distributed.any_process(bool(found or error)):
            return
        shared = distributed.all_gather_object((found, error))
        for others, _ in shared:
            for name, bad in others.items():
                if name not in self.found:
                    self.found[name] = bad
                    if distributed.is_main_process():
                        logger.warning("left out: %s", bad.reason)
        if kind := self._too_many(self.found):
            reasons = [bad.reason for bad in self.found.values() if bad.kind == kind]
            shown, more = "; ".join(reasons[-_SHOWN:]), len(reasons) - _SHOWN
            raise DataError(
                f"{len(reasons)} of {self.totals[kind]} {_PROBLEMS[kind]}, more than "
                f"DATALOADER.MAX_BAD_FRACTION {self.max_fraction:g} allows: {shown}"
                + (f"; and {more} more, in the log" if more > 0 else "")
            )
        for _, others_error in shared:
            if others_error:
                raise others_error

    def _too_many(self, found: dict[str, BadSample]) -> str | None:
        """The kind of which there are more than may be."""
        counts = Counter(bad.kind for bad in found.values())
        return next((kind for kind, n in counts.items() if n > self.max_fraction * self.totals[kind]), None)


class WorkerStatus:
    """What each loader process reads at the moment, in memory that the training process sees, too."""

    def __init__(self, workers: int) -> None:
        # The sample's epoch and index, and when its reading began; 0 between samples.
        self._lines = torch.zeros(workers, 3, dtype=torch.float64).share_memory_()

    def begin(self, epoch: int, index: int) -> None:
        """This process starts to read a sample."""
        info = torch.utils.data.get_worker_info()
        if info is not None:
            self._lines[info.id] = torch.tensor([epoch, index, monotonic()], dtype=torch.float64)

    def end(self) -> None:
        """This process has read it."""
        info = torch.utils.data.get_worker_info()
        if info is not None:
            self._lines[info.id, 2] = 0

    def reading(self, worker: int) -> int | None:
        """The index of the sample that a process is at, or was when it died."""
        _, index, since = self._lines[worker].tolist()
        return int(index) if since else None

    def stuck(self, seconds: float) -> list[int]:
        """The processes that have been reading one sample for longer than that."""
        now = monotonic()
        since = self._lines[:, 2].tolist()
        return [worker for worker, start in enumerate(since) if start and now - start > seconds]

    def clear(self) -> None:
        """Forget the processes, which have ended."""
        self._lines.zero_()


class FaultTolerantDataset(torch.utils.data.Dataset):
    """A dataset that answers, whatever its videos are like.

    In training the place of an read_error video is taken by another one, which follows from the sample's
    epoch and index alone; in testing it stays empty.

    Args:
        dataset: raises DataError for a sample whose video it cannot read; `path_of(index)` is that video.
        training: whether to replace.
        seed: of the replacements.
        workers: number of loader processes.
    """

    def __init__(self, dataset: Any, training: bool, seed: int, workers: int) -> None:
        self.dataset = dataset
        self.training = training
        self.seed = seed
        self.board = WorkerStatus(workers)
        self.condemned: dict[str, str] = {}  # videos that killed a process, with the reason

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> SampleResult:
        epoch, index = key
        bad: list[BadSample] = []
        for attempt in range(_ATTEMPTS if self.training else 1):
            if attempt:
                rng = np.random.default_rng((self.seed, *key, attempt))
                index = int(rng.integers(len(self.dataset)))
            path = os.fspath(self.dataset.path_of(index))
            try:
                if path in self.condemned:
                    raise DataError(self.condemned[path], path)
                return SampleResult(self._read(epoch, index), tuple(bad))
            except TimeOutsideVideoError as error:
                bad.append(BadSample("keyframe", str(error), str(error)))
            except DataError as error:
                bad.append(BadSample("video", path, str(error)))
            except UserError as error:
                return SampleResult([], tuple(bad), error)
        error = DataError(f"{_ATTEMPTS} clips in a row cannot be read; the last: {bad[-1].reason}")
        return SampleResult([], tuple(bad), error if self.training else None)

    def _read(self, epoch: int, index: int) -> list[dict[str, Any]]:
        self.board.begin(epoch, index)
        try:
            return self.dataset[epoch, index]
        finally:
            self.board.end()

    def condemn(self, index: int, reason: str) -> None:
        """Never read the video of a sample again; loader processes that start later know it."""
        path = os.fspath(self.dataset.path_of(index))
        self.condemned[path] = reason


def collate_results(
    collate: Callable[[list], Any], answers: list[SampleResult]
) -> tuple[Any, list[SampleResult]]:
    """A batch of what was read, None where that is nothing; and the answers that hold more than samples."""
    samples = [answer.samples for answer in answers if answer.samples]
    notable = [SampleResult([], answer.bad, answer.error) for answer in answers if answer.bad or answer.error]
    return collate(samples) if samples else None, notable
