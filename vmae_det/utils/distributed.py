"""Which process is this, and what the processes tell each other. All of it works with one process too."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed as dist

from vmae_det.utils.errors import UserError


def is_initialized() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_initialized() else 1


def get_rank() -> int:
    """This process's number among all."""
    return dist.get_rank() if is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that logs and writes."""
    return get_rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if get_world_size() > 1:
        dist.barrier()


def all_gather_object(value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    if get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes; no gradient flows through it."""
    if get_world_size() > 1:
        tensor = tensor.detach().clone()
        dist.all_reduce(tensor)
    return tensor


def any_process(flag: bool) -> bool:
    """Whether `flag` holds in any process. Travels between CPUs, so it does not wait for a GPU."""
    return each_in_any_process([flag])[0]


def each_in_any_process(flags: list[bool]) -> list[bool]:
    """Of each flag, whether it holds in any process; all of them travel at once."""
    if get_world_size() == 1:
        return flags
    tensor = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in tensor.tolist()]


def raise_together(error: UserError | None) -> None:
    """Raise in all processes, which must all call, the error of the first process that has one."""
    if any_process(error is not None):
        raise next(other for other in all_gather_object(error) if other is not None)
