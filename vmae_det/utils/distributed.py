"""Rank, world size and communication between processes. Everything also works with a single process."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed as dist

from vmae_det.utils.errors import UserError


def is_initialized() -> bool:
    """Return whether a process group is initialized."""
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_initialized() else 1


def get_rank() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if is_initialized() else 0


def is_main_process() -> bool:
    """Return whether this is rank 0, which logs and writes files."""
    return get_rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if get_world_size() > 1:
        dist.barrier()


def all_gather_object(value: Any) -> list[Any]:
    """Return the values of all processes, by rank."""
    if get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes. It has no gradient."""
    if get_world_size() > 1:
        tensor = tensor.detach().clone()
        dist.all_reduce(tensor)
    return tensor


def all_gather_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensors (B, ...) of all processes, of one shape, concatenated by rank, without gradient."""
    if get_world_size() == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(get_world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def any_process(flag: bool) -> bool:
    """Return whether `flag` is True on any process. It uses the CPU, so it does not wait for a GPU."""
    return each_in_any_process([flag])[0]


def each_in_any_process(flags: list[bool]) -> list[bool]:
    """Return for each flag whether it is True on any process, in one exchange."""
    if get_world_size() == 1:
        return flags
    tensor = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in tensor.tolist()]


def raise_together(error: UserError | None) -> None:
    """Raise the error of the lowest rank that has one on all processes. All processes must call this."""
    if any_process(error is not None):
        raise next(other for other in all_gather_object(error) if other is not None)
