"""Space-time cube embedding: cut a video into cubes of pixels, and embed each cube as a token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def to_cubes(video: torch.Tensor, tubelet_size: int, patch_size: int) -> torch.Tensor:
    """Cut a video (B, 3, T, H, W) into cubes (B, N, tubelet * patch * patch * 3).

    Cubes are ordered (t, h, w). The values of a cube are ordered (frame, row, column, color).
    """
    batch, channels, frames, height, width = video.shape
    t, h, w = frames // tubelet_size, height // patch_size, width // patch_size
    cubes = video.reshape(batch, channels, t, tubelet_size, h, patch_size, w, patch_size)
    cubes = cubes.permute(0, 2, 4, 6, 3, 5, 7, 1)  # (B, t, h, w, tubelet, patch, patch, color)
    return cubes.reshape(batch, t * h * w, -1)


def from_cubes(
    cubes: torch.Tensor, grid: tuple[int, int, int], tubelet_size: int, patch_size: int
) -> torch.Tensor:
    """Invert `to_cubes` for a `grid` of (t, h, w) cubes: (B, N, values) to (B, 3, T, H, W)."""
    t, h, w = grid
    video = cubes.reshape(len(cubes), t, h, w, tubelet_size, patch_size, patch_size, 3)
    video = video.permute(0, 7, 1, 4, 2, 5, 3, 6)  # (B, color, t, tubelet, h, patch, w, patch)
    return video.reshape(len(cubes), 3, t * tubelet_size, h * patch_size, w * patch_size)


class CubeEmbedding(nn.Module):
    """A linear map from cubes to tokens. Its weights have the shape of the equivalent 3-D convolution."""

    def __init__(self, embed_dim: int, tubelet_size: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, embed_dim, (tubelet_size, patch_size, patch_size))

    def init_as_published(self) -> None:
        """Initialize weight and bias with PyTorch's default for convolutions, as VideoMAE does."""
        self.proj.reset_parameters()

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        """Embed cubes (B, N, values), ordered as `to_cubes` returns them, as tokens (B, N, C)."""
        weight = self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)  # (C, values): color last, as in a cube
        return F.linear(cubes, weight, self.proj.bias)


def take_rows(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Select rows `indices` (B, M) of each item of x (B, N, C): (B, M, C).

    It copies entire rows and is faster than `gather`.
    """
    first = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]  # (B, 1)
    return x.flatten(0, 1).index_select(0, (first + indices).flatten()).view(*indices.shape, -1)
