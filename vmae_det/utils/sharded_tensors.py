"""Tensors of which each process holds a part (PyTorch's DTensor), beside those that each holds all of."""

from __future__ import annotations

import torch


def is_shared(tensor: torch.Tensor) -> bool:
    """Whether this process holds a part of it only."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that processes may share; all of them call."""
    return tensor.full_tensor() if is_shared(tensor) else tensor


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, in its memory."""
    return tensor.to_local() if is_shared(tensor) else tensor


def whole_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`whole` of each tensor by name."""
    return {name: whole(tensor) for name, tensor in state.items()}


def fill(target: torch.Tensor, value: torch.Tensor) -> None:
    """Set a tensor, shared or not, to a whole one that all processes have."""
    if is_shared(target):
        from torch.distributed.tensor import distribute_tensor

        value = value.to(target.device)
        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    target.detach().copy_(value)
