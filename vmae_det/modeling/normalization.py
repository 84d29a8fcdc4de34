"""Pixel normalization on the device of the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class PixelNormalization(nn.Module):
    """Normalize pixels in 0..255 by a mean and a standard deviation per color channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, pixels: torch.Tensor, color_dim: int = 1) -> torch.Tensor:
        """Normalize pixels (uint8 or float, 0..255) with colors along `color_dim`. Return floats."""
        mean, std = self._statistics(pixels, color_dim)
        return (pixels - mean) / std

    def inverse(self, pixels: torch.Tensor, color_dim: int = 1) -> torch.Tensor:
        """Convert normalized floats to floats in [0, 1]."""
        mean, std = self._statistics(pixels, color_dim)
        return (pixels * std + mean) / 255

    def _statistics(self, pixels: torch.Tensor, color_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation in a shape that broadcasts to `pixels`."""
        shape = [1] * pixels.ndim
        shape[color_dim] = 3
        return self.mean.view(shape), self.std.view(shape)
