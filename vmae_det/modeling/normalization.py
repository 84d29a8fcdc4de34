"""Bytes to normalised pixels, on the device of the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class PixelNormalization(nn.Module):
    """Maps pixels in 0..255 to floats of mean 0 and deviation 1 per colour channel, and back to [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, pixels: torch.Tensor, colour_dim: int = 1) -> torch.Tensor:
        """Pixels (uint8 or float, 0..255) to normalised floats; colours lie along `colour_dim`."""
        return (pixels - self._along(self.mean, pixels, colour_dim)) / self._along(
            self.std, pixels, colour_dim
        )

    def inverse(self, pixels: torch.Tensor, colour_dim: int = 1) -> torch.Tensor:
        """Normalised floats to floats in [0, 1]."""
        scaled = pixels * self._along(self.std, pixels, colour_dim) + self._along(
            self.mean, pixels, colour_dim
        )
        return scaled / 255

    @staticmethod
    def _along(values: torch.Tensor, pixels: torch.Tensor, dim: int) -> torch.Tensor:
        shape = [1] * pixels.ndim
        shape[dim] = 3
        return values.view(shape)
