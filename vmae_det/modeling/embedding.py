"""From pixels to tokens: cubes of video, their linear embedding, and position tables."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


def to_cubes(video: torch.Tensor, tubelet_size: int, patch_size: int) -> torch.Tensor:
    """Cut a video (B, 3, T, H, W) into its cubes (B, N, tubelet * patch * patch * 3).

    Cubes are ordered (t, h, w), the values of a cube (frame, row, column, colour).
    """
    batch, channels, frames, height, width = video.shape
    t, h, w = frames // tubelet_size, height // patch_size, width // patch_size
    cubes = video.reshape(batch, channels, t, tubelet_size, h, patch_size, w, patch_size)
    cubes = cubes.permute(0, 2, 4, 6, 3, 5, 7, 1)  # B, t, h, w, tubelet, patch, patch, colour
    return cubes.reshape(batch, t * h * w, -1)


def from_cubes(
    cubes: torch.Tensor, grid: tuple[int, int, int], tubelet_size: int, patch_size: int
) -> torch.Tensor:
    """The inverse of `to_cubes` for a `grid` of (t, h, w) cubes: (B, N, values) to (B, 3, T, H, W)."""
    t, h, w = grid
    video = cubes.reshape(len(cubes), t, h, w, tubelet_size, patch_size, patch_size, 3)
    video = video.permute(0, 7, 1, 4, 2, 5, 3, 6)  # B, colour, t, tubelet, h, patch, w, patch
    return video.reshape(len(cubes), 3, t * tubelet_size, h * patch_size, w * patch_size)


class CubeEmbedding(nn.Module):
    """A linear map from cubes to tokens, with its weights in the shape of the equivalent 3-D convolution."""

    def __init__(self, embed_dim: int, tubelet_size: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, embed_dim, (tubelet_size, patch_size, patch_size))

    def init_as_published(self) -> None:
        """Draw weights and bias as PyTorch does those of a convolution (VideoMAE)."""
        self.proj.reset_parameters()

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        """Embed cubes (B, N, values), ordered as `to_cubes` gives them, as (B, N, C)."""
        weight = self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)  # colour goes last, as in a cube
        return F.linear(cubes, weight, self.proj.bias)


def take_rows(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Rows `indices` (B, M) of each item of x (B, N, C), as (B, M, C); copies whole rows, unlike `gather`."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (first + indices).flatten()).view(*indices.shape, -1)


def flat_positions(grid: tuple[int, int, int], dim: int) -> torch.Tensor:
    """The published table (t * h * w, dim): sines and cosines of a token's number among the flattened ones.

    Sines at even places, cosines at odd ones, frequencies as in "Attention Is All You Need".
    """
    t, h, w = grid
    return _sines(torch.arange(t * h * w), 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim))


def axis_positions(grid: tuple[int, int, int], dim: int) -> torch.Tensor:
    """A table (t * h * w, dim) with a third of the width each for time, row and column.

    Neighbours in any direction lie close together in it, which a small model in a short run does not find out
    from the flattened numbers. Wavelengths go from 8 to 800 positions.
    """
    axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    third = dim // 6 * 2
    tables = []
    for axis, width in zip(axes, (dim - 2 * third, third, third)):
        frequencies = torch.pi / 4 * 100 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        tables.append(_sines(axis.flatten(), frequencies))
    return torch.cat(tables, dim=1)


def _sines(places: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    angles = places[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


POSITIONS = {"flat": flat_positions, "axes": axis_positions}


def resize_positions(
    positions: torch.Tensor, grid: tuple[int, int, int], new_grid: tuple[int, int, int]
) -> torch.Tensor:
    """Resize a position table (N, C) of a (t, h, w) grid to another height and width, time slice by time
    slice.

    Bicubic without corner alignment, as in the published detector. Both grids have the same number of slices.
    """
    known = all(isinstance(size, int) for size in new_grid)  # not while a graph for all sizes is exported
    if known and grid == new_grid:
        return positions
    if grid[0] != new_grid[0]:
        raise ValueError(f"the position table has {grid[0]} time slices, the clip {new_grid[0]}")
    table = positions.reshape(*grid, -1).permute(0, 3, 1, 2)  # t, C, h, w
    table = F.interpolate(table, size=new_grid[1:], mode="bicubic", align_corners=False)
    return table.permute(0, 2, 3, 1).flatten(0, 2)


def grid_of_table(num_tokens: int, like: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """The (t, h, w) grid of a table of `num_tokens`, for a model whose own is `like`; None if none fits.

    A table does not say it: the same number of time slices, then the same height and width, are tried.
    """
    t, h, w = like
    side = math.isqrt(num_tokens // t)
    if num_tokens == t * h * w:
        return like
    if num_tokens and num_tokens == t * side * side:
        return t, side, side
    slices = num_tokens // (h * w)
    return (slices, h, w) if num_tokens and num_tokens == slices * h * w else None


def stretch_positions(positions: torch.Tensor, slices: int, new_slices: int) -> torch.Tensor:
    """Resize a position table (N, C) of `slices` time slices to `new_slices`, linearly over time."""
    if slices == new_slices:
        return positions
    table = positions.reshape(slices, -1).T[None]  # 1, h * w * C, t
    table = F.interpolate(table, size=new_slices, mode="linear", align_corners=False)
    return table[0].T.reshape(-1, positions.shape[1])
