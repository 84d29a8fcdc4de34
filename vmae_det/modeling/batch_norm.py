"""Batch normalization with the statistics of the batches of all processes, on any device."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.utils import distributed


class SyncBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` of features (B, C) that averages over all processes in training.

    With one process it is `nn.BatchNorm1d`. With several, results, gradients and running statistics are those
    of one process with all of their features. Each process must have the same number. Unlike
    `torch.nn.SyncBatchNorm` it also runs on the CPU. It computes in float32.
    """

    def __init__(self, num_features: int, affine: bool = True) -> None:
        super().__init__(num_features, affine=affine)
        self.num_batches_tracked = None  # only for averages without a momentum; an EMA cannot average it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (B, C): float32 (B, C)."""
        x = x.float()
        if not self.training or distributed.get_world_size() == 1:
            return super().forward(x)
        count = len(x) * distributed.get_world_size()
        mean = _SumOverProcesses.apply(x.sum(dim=0)) / count
        centered = x - mean
        variance = _SumOverProcesses.apply(centered.square().sum(dim=0)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        x = centered * (variance + self.eps).rsqrt()
        return x * self.weight + self.bias if self.affine else x


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes. Its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(_: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        return distributed.all_reduce_sum(x)

    @staticmethod
    def backward(_: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        return distributed.all_reduce_sum(gradient)
