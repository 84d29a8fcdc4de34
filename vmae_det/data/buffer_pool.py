"""Where loader processes leave the pixels of their batches: memory that is shared once and used again.

New shared memory for each batch costs more than the batch: the system has to find and clear its pages, and
to take them back.
"""

from __future__ import annotations

import itertools
import mmap
import sys
import weakref
from typing import Any

import numpy as np
import torch

# By default, a process that the launcher has spawned would spawn its own, which share no memory with it.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"

_arenas: weakref.WeakValueDictionary[int, BufferPool] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class BufferPool:
    """Some slots for each loader process. A slot is free again when nothing refers to its tensors any more.

    Args:
        slot_bytes: what a batch takes. What finds no slot, or does not fit, travels as torch sends it.
        slots: of each process.
        workers: number of processes.
    """

    def __init__(self, slot_bytes: int, slots: int, workers: int) -> None:
        self.slot_bytes = slot_bytes
        self.number = next(_numbers)
        self._memory = _shared_bytes(workers * slots * slot_bytes)
        # Tensors in each slot: set by its process, counted down by the one that receives them.
        self._held = torch.zeros(workers, slots, dtype=torch.int32).share_memory_()
        _arenas[self.number] = self

    def put(self, content: dict[str, list[torch.Tensor]], worker: int) -> dict[str, Any]:
        """Lists of clips, uint8 tensors of one shape each, stacked into a free slot of a loader process."""
        sizes = {key: len(clips) * clips[0].numel() for key, clips in content.items()}
        free = (self._held[worker] == 0).nonzero().flatten().tolist()
        if not free or sum(sizes.values()) > self.slot_bytes:
            return {key: torch.stack(clips) for key, clips in content.items()}
        slot = worker, free[0]
        start = (worker * self._held.shape[1] + free[0]) * self.slot_bytes
        self._held[slot] = len(content)
        placed = {}
        for key, clips in content.items():
            shape = len(clips), *clips[0].shape
            torch.stack(clips, out=self._memory[start : start + sizes[key]].view(shape))
            placed[key] = _Placed(self.number, slot, start, shape)
            start += sizes[key]
        return placed

    def take(self, slot: tuple[int, int], start: int, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor that was put there; it holds its slot until it and all its views are gone."""
        pixels = self._memory.numpy()[start : start + int(np.prod(shape))]
        weakref.finalize(pixels, self._release, slot).atexit = False
        return torch.from_numpy(pixels).view(shape)

    def _release(self, slot: tuple[int, int]) -> None:
        self._held[slot] -= 1


def pickle_as_bytes(value: Any) -> Any:
    """Tensors of a batch, and in its lists, so wrapped that they travel as bytes within the message.

    torch makes shared memory for each, however small, which takes longer than the bytes.
    """
    if torch.is_tensor(value):
        return _Bytes(value)
    if isinstance(value, dict):
        return {key: pickle_as_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [pickle_as_bytes(item) for item in value]
    return value


class _Bytes:
    """A small tensor: travels as NumPy's array, and arrives as the tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.from_numpy, (self._tensor.numpy(),)


class _Placed:
    """A tensor that lies in an arena: travels as its place, and arrives as the tensor."""

    def __init__(self, number: int, *place: Any) -> None:
        self._place = number, place

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, self._place


def _find(number: int, place: tuple[Any, ...]) -> torch.Tensor:
    return _arenas[number].take(*place)


def _shared_bytes(size: int) -> torch.Tensor:
    """Memory that the processes started from this one share, uint8 (size,)."""
    if START_METHOD == "fork":
        return torch.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=torch.uint8)  # no share of /dev/shm
    return torch.empty(size, dtype=torch.uint8).share_memory_()
