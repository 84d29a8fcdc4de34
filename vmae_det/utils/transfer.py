"""Copy results from a GPU to the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def copy_to_cpu(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors (N_i, ...), which differ only in N_i, on the CPU, without their gradients.

    All are copied together, because each copy from a GPU waits for it.
    """
    if not tensors or tensors[0].device.type == "cpu":
        return [tensor.detach() for tensor in tensors]
    return list(torch.cat(list(tensors)).detach().cpu().split([len(tensor) for tensor in tensors]))
