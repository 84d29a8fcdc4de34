"""Sharded tensors (PyTorch's DTensor). Every function also accepts regular tensors."""

from __future__ import annotations

import torch


def is_sharded(tensor: torch.Tensor) -> bool:
    """Return whether the tensor is a DTensor, of which this process holds only a local shard."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return the full tensor, gathered if it is sharded. All processes must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def local_shard(tensor: torch.Tensor) -> torch.Tensor:
    """Return the shard that this process holds. It shares memory with `tensor`."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def full_state_dict(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state dict with the full tensor under each name. All processes must call this."""
    return {name: full_tensor(tensor) for name, tensor in state_dict.items()}


def copy_full_tensor(full: torch.Tensor, target: torch.Tensor) -> None:
    """Copy a full tensor, which every process has, into `target`; if that is sharded, each process copies its
    local shard."""
    if is_sharded(target):
        from torch.distributed.tensor import distribute_tensor

        full = full.to(target.device)
        full = distribute_tensor(full, target.device_mesh, target.placements, src_data_rank=None)
    target.detach().copy_(full)
