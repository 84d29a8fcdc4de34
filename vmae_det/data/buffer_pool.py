"""Shared-memory buffer pool through which loader workers return the pixels of their batches.

Allocating shared memory for each batch takes longer than reading the batch, because the operating system must
find, clear and release its pages.
"""

from __future__ import annotations

import itertools
import mmap
import sys
import weakref
from typing import Any

import numpy as np
import torch

# Set explicitly: in a spawned process the default is "spawn", whose workers do not inherit the memory.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"

_pools: weakref.WeakValueDictionary[int, BufferPool] = weakref.WeakValueDictionary()
_pool_ids = itertools.count()


class BufferPool:
    """Fixed slots of shared memory for each loader worker.

    A slot becomes free when the tensors in it and all their views have been deleted. A batch that finds no
    free slot, or does not fit, is sent the way torch sends tensors.

    Args:
        slot_bytes: size of a batch.
        slots: number of slots per worker.
        workers: number of workers.
        start_method: how the workers are started.
    """

    def __init__(self, slot_bytes: int, slots: int, workers: int, start_method: str = START_METHOD) -> None:
        self.slot_bytes = slot_bytes
        self.pool_id = next(_pool_ids)
        self._memory = _shared_bytes(workers * slots * slot_bytes, start_method)
        # Number of tensors in each slot. Set by its worker, decremented by the receiving process.
        self._in_use = torch.zeros(workers, slots, dtype=torch.int32).share_memory_()
        _pools[self.pool_id] = self

    def put(self, content: dict[str, list[torch.Tensor]], worker: int) -> dict[str, Any]:
        """Stack lists of clips into a free slot of a worker.

        Args:
            content: lists of uint8 tensors, each list of one shape.
            worker: number of the worker.

        Returns:
            For each key an object that unpickles as the stacked tensor.
        """
        sizes = {key: len(clips) * clips[0].numel() for key, clips in content.items()}
        free = (self._in_use[worker] == 0).nonzero().flatten().tolist()
        if not free or sum(sizes.values()) > self.slot_bytes:
            return {key: torch.stack(clips) for key, clips in content.items()}
        slot = worker, free[0]
        start = (worker * self._in_use.shape[1] + free[0]) * self.slot_bytes
        self._in_use[slot] = len(content)
        references = {}
        for key, clips in content.items():
            shape = len(clips), *clips[0].shape
            torch.stack(clips, out=self._memory[start : start + sizes[key]].view(shape))
            references[key] = _BufferReference(self.pool_id, slot, start, shape)
            start += sizes[key]
        return references

    def get(self, slot: tuple[int, int], start: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a stored tensor. It occupies its slot until it and all its views have been deleted."""
        pixels = self._memory.numpy()[start : start + int(np.prod(shape))]
        weakref.finalize(pixels, self._release, slot).atexit = False
        return torch.from_numpy(pixels).view(shape)

    def _release(self, slot: tuple[int, int]) -> None:
        self._in_use[slot] -= 1


class _BufferReference:
    """Pickles as a position in a buffer pool and unpickles as the tensor stored there."""

    def __init__(self, pool_id: int, *position: Any) -> None:
        self._arguments = pool_id, position

    def __reduce__(self) -> tuple[Any, ...]:
        return _resolve, self._arguments


def _resolve(pool_id: int, position: tuple[Any, ...]) -> torch.Tensor:
    return _pools[pool_id].get(*position)


def _shared_bytes(size: int, start_method: str) -> torch.Tensor:
    """Allocate memory that is shared with child processes, uint8 (size,)."""
    if start_method == "fork":
        return torch.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=torch.uint8)  # does not use /dev/shm
    return torch.empty(size, dtype=torch.uint8).share_memory_()


def pickle_as_bytes(value: Any) -> Any:
    """Wrap the tensors of a batch, also in its lists, so that they are pickled by value.

    torch allocates shared memory for each tensor, which takes longer than copying a small one.
    """
    if torch.is_tensor(value):
        return _SmallTensor(value)
    if isinstance(value, dict):
        return {key: pickle_as_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [pickle_as_bytes(item) for item in value]
    return value


class _SmallTensor:
    """Pickles as a NumPy array and unpickles as the tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.from_numpy, (self._tensor.numpy(),)
