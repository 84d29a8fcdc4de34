"""Fixed sine-cosine position tables, and resizing them to another grid of tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def flat_positions(grid: tuple[int, int, int], dim: int) -> torch.Tensor:
    """Return the published table (t * h * w, dim): sines and cosines of the index in the flattened grid.

    Even columns are sines, odd columns cosines, with the frequencies of "Attention Is All You Need".
    """
    t, h, w = grid
    frequencies = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)  # (dim / 2,)
    return _sine_cosine(torch.arange(t * h * w), frequencies)


def axis_positions(grid: tuple[int, int, int], dim: int) -> torch.Tensor:
    """Return a table (t * h * w, dim) in which time, row and column have a third of the width each.

    Neighbors along any axis have similar rows. A small model does not learn this from flat indices in a short
    run. Wavelengths range from 8 to 800 positions.
    """
    axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    third = dim // 6 * 2
    tables = []
    for axis, width in zip(axes, (dim - 2 * third, third, third)):
        frequencies = torch.pi / 4 * 100 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        tables.append(_sine_cosine(axis.flatten(), frequencies))  # (N, width)
    return torch.cat(tables, dim=1)


def _sine_cosine(indices: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Interleaved sines and cosines (N, 2 * F) of indices (N,) at frequencies (F,)."""
    angles = indices[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


POSITION_TABLES = {"flat": flat_positions, "axes": axis_positions}  # by MODEL.BACKBONE.POSITIONS


def resize_positions(
    positions: torch.Tensor, grid: tuple[int, int, int], new_grid: tuple[int, int, int]
) -> torch.Tensor:
    """Resize a position table (N, C) of a (t, h, w) grid to another height and width, per time slice.

    Bicubic without corner alignment, as in the published detector.

    Raises:
        ValueError: the grids have different numbers of time slices.
    """
    is_static = all(isinstance(size, int) for size in new_grid)  # False while exporting for dynamic sizes
    if is_static and grid == new_grid:
        return positions
    if grid[0] != new_grid[0]:
        raise ValueError(f"the position table has {grid[0]} time slices, the clip {new_grid[0]}")
    if not is_static and torch.compiler.is_exporting():
        return _resize_by_matrices(positions, grid, new_grid)
    table = positions.reshape(*grid, -1).permute(0, 3, 1, 2)  # (t, C, h, w)
    table = F.interpolate(table, size=new_grid[1:], mode="bicubic", align_corners=False)
    # A copy, because torch.compile would compile again for a view.
    return table.permute(0, 2, 3, 1).flatten(0, 2).clone()


def _resize_by_matrices(
    positions: torch.Tensor, grid: tuple[int, int, int], new_grid: tuple[int, int, int]
) -> torch.Tensor:
    """Compute `resize_positions` as two matrix multiplications. onnxruntime resizes many channels slowly."""
    time, height, width = grid
    rows, columns = (_resize_matrix(positions, *sizes) for sizes in zip(grid[1:], new_grid[1:]))
    table = rows @ positions.reshape(time, height, -1)  # (t, new h, w C)
    table = columns @ table.unflatten(2, (width, -1))  # (t, new h, new w, C)
    return table.flatten(0, 2)


def _resize_matrix(like: torch.Tensor, size: int, new_size: int) -> torch.Tensor:
    """Return the matrix (new size, size) of a bicubic resize of one axis, as in `resize_positions`."""
    indices = torch.arange(size, device=like.device)
    identity = (indices[:, None] == indices).to(like.dtype)
    return F.interpolate(identity[None, None], (new_size, size), mode="bicubic", align_corners=False)[0, 0]


def resize_time(positions: torch.Tensor, slices: int, new_slices: int) -> torch.Tensor:
    """Resize a position table (N, C) of `slices` time slices to `new_slices`, linearly over time."""
    if slices == new_slices:
        return positions
    table = positions.reshape(slices, -1).T[None]  # (1, h * w * C, t)
    table = F.interpolate(table, size=new_slices, mode="linear", align_corners=False)
    return table[0].T.reshape(-1, positions.shape[1])


def infer_grid(num_tokens: int, model_grid: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """Infer the (t, h, w) grid of a table of `num_tokens` rows that is loaded into a model with `model_grid`.

    A table does not store its grid. Try the model's grid, then the same number of time slices with a square
    grid, then the same height and width. Return None if none fits.
    """
    t, h, w = model_grid
    side = math.isqrt(num_tokens // t)
    if num_tokens == t * h * w:
        return model_grid
    if num_tokens and num_tokens == t * side * side:
        return t, side, side
    slices = num_tokens // (h * w)
    return (slices, h, w) if num_tokens and num_tokens == slices * h * w else None
