"""Samplers: which samples of a dataset make up the batches of this process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from vmae_det.utils import distributed


class TrainSampler(Sampler):
    """Infinite batches of (epoch, index) for one process.

    The order of an epoch is one random permutation. It is cut into batches, and each process takes a
    contiguous part of each batch. So step s of a run uses the same samples for any number of processes.

    Args:
        num_samples: size of the dataset.
        batch_size: clips of one forward pass over all processes.
        batches_per_epoch: number of batches; the rest of an epoch is dropped.
        seed: seed of the permutations.
        start: number of batches to skip when resuming.
    """

    def __init__(
        self, num_samples: int, batch_size: int, batches_per_epoch: int, seed: int, start: int = 0
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.seed = seed
        self.start = start
        self.local_batch_size = batch_size // distributed.get_world_size()
        self.rank = distributed.get_rank()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, batch = divmod(self.start, self.batches_per_epoch)
        while True:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
            for number in range(batch, self.batches_per_epoch):
                first = number * self.batch_size + self.rank * self.local_batch_size
                yield [(epoch, int(index)) for index in order[first : first + self.local_batch_size]]
            epoch, batch = epoch + 1, 0


class TestSampler(Sampler):
    """This process's contiguous part of all (0, index). Each index is used by exactly one process."""

    def __init__(self, num_samples: int) -> None:
        bounds = np.linspace(0, num_samples, distributed.get_world_size() + 1).astype(int)
        rank = distributed.get_rank()
        self.indices = range(bounds[rank], bounds[rank + 1])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((0, index) for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class SkipBatches(Sampler):
    """The batches of another sampler without the first `count`."""

    def __init__(self, batches: Sampler, count: int) -> None:
        self.batches = batches
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.batches, self.count, None)
