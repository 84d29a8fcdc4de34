"""Samplers of training and test batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from vmae_det.utils import distributed


class TrainSampler(Sampler):
    """Endless batches of (epoch, index) for one process, from any batch on.

    Args:
        num_samples: size of the dataset.
        batch_size: of one forward pass, over all processes.
        batches_per_epoch: what remains of an epoch after them is dropped.
        seed: of the order.
        start: number of batches to leave out, for resuming.
    """

    def __init__(
        self, num_samples: int, batch_size: int, batches_per_epoch: int, seed: int, start: int = 0
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.seed = seed
        self.start = start
        self.share = batch_size // distributed.get_world_size()
        self.rank = distributed.get_rank()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, batch = divmod(self.start, self.batches_per_epoch)
        while True:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
            for number in range(batch, self.batches_per_epoch):
                first = number * self.batch_size + self.rank * self.share
                own = order[first : first + self.share]
                yield [(epoch, int(index)) for index in own]
            epoch, batch = epoch + 1, 0


class TestSampler(Sampler):
    """This process's share of all (0, index), in order: each index falls to exactly one process."""

    def __init__(self, num_samples: int) -> None:
        cuts = np.linspace(0, num_samples, distributed.get_world_size() + 1).astype(int)
        rank = distributed.get_rank()
        self.indices = range(cuts[rank], cuts[rank + 1])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((0, index) for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)
