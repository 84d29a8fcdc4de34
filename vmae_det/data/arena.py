"""Where loader processes leave the pixels of their batches: memory that is shared once and used again.

New shared memory for each batch costs more than the batch: the system has to find and clear its pages, and
to take them back.
"""

from __future__ import annotations

import itertools
import mmap
import sys
from typing import Any
from weakref import WeakValueDictionary

import torch

# By default, a process that the launcher has spawned would spawn its own, which share no memory with it.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"

_arenas: WeakValueDictionary[int, Arena] = WeakValueDictionary()
_numbers = itertools.count()


class Arena:
    """A ring of slots for each loader process, which puts each of its batches into the next one.

    Args:
        slot_bytes: what a batch takes at most; what does not fit into a slot travels as torch sends it.
        slots: of each process: one more than it can have on the way.
        workers: number of processes.
    """

    def __init__(self, slot_bytes: int, slots: int, workers: int) -> None:
        self.slot_bytes = slot_bytes
        self.slots = slots
        self.number = next(_numbers)
        self._memory = _shared_bytes(workers * slots * slot_bytes)
        self._turn = 0  # each process counts its own
        _arenas[self.number] = self

    def put(self, content: dict[str, Any], worker: int) -> dict[str, Any]:
        """The batch of a loader process with its lists of clips, uint8 tensors of one shape each, stacked.

        To be called once for every batch of the process, whatever is in it.
        """
        start = (worker * self.slots + self._turn) * self.slot_bytes
        end = start + self.slot_bytes
        self._turn = (self._turn + 1) % self.slots
        stacked = {}
        for key, clips in content.items():
            shape = len(clips), *clips[0].shape
            size = len(clips) * clips[0].numel()
            if start + size > end:
                stacked[key] = torch.stack(clips)
                continue
            torch.stack(clips, out=self.view(start, shape))
            stacked[key] = _Placed(self.number, start, shape)
            start += size
        return stacked

    def release(self, value: Any) -> Any:
        """A copy of what lies in the arena, so that its slot can be used again; anything else as it is."""
        if not torch.is_tensor(value):
            return value
        own = self._memory.untyped_storage().data_ptr()
        return value.clone() if value.untyped_storage().data_ptr() == own else value

    def view(self, start: int, shape: tuple[int, ...]) -> torch.Tensor:
        """The bytes from `start` on, as uint8 of a shape."""
        return self._memory[start : start + torch.Size(shape).numel()].view(shape)


class _Placed:
    """A tensor that lies in an arena: travels as its place, and arrives as the tensor."""

    def __init__(self, *place: Any) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, self._place


def _find(number: int, start: int, shape: tuple[int, ...]) -> torch.Tensor:
    return _arenas[number].view(start, shape)


def _shared_bytes(size: int) -> torch.Tensor:
    """Memory that the processes started from this one share, uint8 (size,)."""
    if START_METHOD == "fork":
        return torch.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=torch.uint8)  # no share of /dev/shm
    return torch.empty(size, dtype=torch.uint8).share_memory_()
