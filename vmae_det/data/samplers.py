"""Samplers: which samples of a dataset make up the batches of this process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
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
            passes, indices = self.order(epoch)
            for number in range(batch, self.batches_per_epoch):
                first = number * self.batch_size + self.rank * self.local_batch_size
                part = slice(first, first + self.local_batch_size)
                yield list(zip(passes[part].tolist(), indices[part].tolist()))
            epoch, batch = epoch + 1, 0

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys of an epoch in order, int64: numbers of passes over the dataset, and indices."""
        indices = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
        return np.full(len(indices), epoch), indices


class MixedTrainSampler(TrainSampler):
    """Infinite batches from several datasets, each with a fixed number of samples in an epoch.

    The order of the datasets in an epoch is random. Each dataset is read in passes, one random permutation
    after the other, which continue from epoch to epoch. So no sample is repeated before all others of its
    dataset were read. A sample that is read twice in an epoch has two keys, hence two augmentations.

    Args:
        sizes: number of samples of each dataset.
        counts: samples of each dataset in an epoch; `batch_size` x `batches_per_epoch` in total.
        batch_size, batches_per_epoch, seed, start: as in `TrainSampler`.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        counts: Sequence[int],
        batch_size: int,
        batches_per_epoch: int,
        seed: int,
        start: int = 0,
    ) -> None:
        super().__init__(sum(counts), batch_size, batches_per_epoch, seed, start)
        self.sizes, self.counts = list(sizes), list(counts)

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys of an epoch in order: numbers of passes over each dataset, and indices."""
        datasets = np.repeat(np.arange(len(self.counts)), self.counts)
        datasets = np.random.default_rng((self.seed, epoch)).permutation(datasets)
        passes, indices = (np.empty(len(datasets), dtype=np.int64) for _ in range(2))
        first = 0
        for number, (size, count) in enumerate(zip(self.sizes, self.counts)):
            positions = np.arange(epoch * count, (epoch + 1) * count)  # in the passes, one after the other
            own_passes = positions // size
            read = range(own_passes[0], own_passes[-1] + 1)
            permutations = np.concatenate([self._permutation(number, one) for one in read])
            passes[datasets == number] = own_passes
            indices[datasets == number] = first + permutations[positions - read[0] * size]
            first += size
        return passes, indices

    def _permutation(self, dataset: int, number: int) -> np.ndarray:
        """Return the order of pass `number` over a dataset."""
        seed = np.random.SeedSequence(self.seed, spawn_key=(dataset, number))
        return np.random.default_rng(seed).permutation(self.sizes[dataset])


def split_by_weight(total: int, weights: Sequence[float]) -> list[int]:
    """Split a number in proportion to weights. Each part is rounded down or up; their sum is `total`."""
    shares = total * np.asarray(weights, dtype=np.float64) / np.sum(weights)
    parts = np.floor(shares).astype(np.int64)
    largest_remainders = np.argsort(parts - shares, kind="stable")
    parts[largest_remainders[: total - parts.sum()]] += 1
    return parts.tolist()


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
