"""Bytes to normalised pixels, on the device of the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class PixelNormalization(nn.Module):
    """Maps a uint8 clip (B, 3, T, H, W) to floats of mean 0 and deviation 1 per channel, and back to [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), persistent=False)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """uint8 in 0..255 to normalised floats of the same shape."""
        return (video - self.mean) / self.std

    def inverse(self, video: torch.Tensor) -> torch.Tensor:
        """Normalised floats to floats in [0, 1]."""
        return (video * self.std + self.mean) / 255
