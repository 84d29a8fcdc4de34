"""Masks of pre-training: the tokens hidden from the encoder, and those of them that the decoder predicts.

All masks depend only on the seeds of the samples.
"""

from __future__ import annotations

import math

import torch

from vmae_det.modeling.seeded_random import uniform


def draw_mask(seeds: torch.Tensor, grid: tuple[int, int, int], kind: str, ratio: float) -> torch.Tensor:
    """Return a bool mask (B, N), True where masked, of tokens ordered (t, h, w).

    Args:
        seeds: int64 (B,), one per row.
        kind: "tube" masks the same positions in all time slices, "random" any tokens, "frame" entire time
            slices.
        ratio: fraction of positions, tokens or slices to mask, rounded down. All rows mask the same number.
    """
    t, h, w = grid
    candidates = _count_candidates(grid, kind)
    order = uniform(seeds, candidates).argsort(dim=1, stable=True)  # ties are the same on every device
    mask = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, : int(ratio * candidates)], True)
    if kind == "tube":
        return mask.repeat(1, t)
    if kind == "frame":
        return mask.repeat_interleave(h * w, dim=1)
    return mask


def count_masked(grid: tuple[int, int, int], kind: str, ratio: float) -> int:
    """Return the number of tokens that `draw_mask` masks in every row."""
    candidates = _count_candidates(grid, kind)
    return int(ratio * candidates) * (math.prod(grid) // candidates)


def _count_candidates(grid: tuple[int, int, int], kind: str) -> int:
    """Number of positions, tokens or slices that a mask of this kind is drawn from."""
    t, h, w = grid
    return {"tube": h * w, "random": t * h * w, "frame": t}[kind]


def split_tokens(mask: torch.Tensor, num_masked: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of visible (B, V) and masked (B, M) tokens, each ascending.

    Args:
        mask: bool (B, N). All rows mask the same number.
        num_masked: M. Pass it to avoid waiting for the GPU to count.
    """
    if num_masked is None:
        num_masked = int(mask[0].sum())
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    num_visible = mask.shape[1] - num_masked
    return order[:, :num_visible], order[:, num_visible:]


def running_cells(
    seeds: torch.Tensor, tokens: torch.Tensor, grid: tuple[int, int, int], ratio: float
) -> torch.Tensor:
    """Select the masked `tokens` (B, M) that a running-cell mask keeps for prediction: (B, K), ascending.

    The decoder mask of VideoMAE V2 (Wang et al., 2023). The pattern is from MAR (Qing et al., 2022). Cells of
    2 x 2 positions tile each time slice; the last cells are cut where height or width is odd. The positions
    of a cell are numbered in reading order. The kept positions advance by one in each time slice, modulo 4,
    so that four slices keep each position equally often. The offset of the first slice depends on the seed.

    Each row keeps K = M - int(ratio * M) tokens: those whose turn it is, then those whose turn comes next, in
    random order among equals. With a tube mask, a multiple of four time slices and a ratio of 1/4, 1/2 or
    3/4, these are exactly the masked tokens of the pattern.

    Args:
        seeds: int64 (B,).
        tokens: indices of tokens ordered (t, h, w).
        ratio: fraction of the masked tokens that is not predicted, in (0, 1).
    """
    _, h, w = grid
    num_kept = tokens.shape[1] - int(ratio * tokens.shape[1])
    time, row, column = tokens // (h * w), tokens // w % h, tokens % w  # (B, M) each
    cell_position = 2 * (row % 2) + column % 2
    # Two streams of random numbers that differ from each other and from that of the encoder's mask.
    start, tie_breaker = (uniform(~seeds, 1) * 4).long(), uniform(~seeds ^ 1, tokens.shape[1])
    turn = (cell_position + time + start) % 4
    order = (turn + tie_breaker).argsort(dim=1, stable=True)
    return tokens.gather(1, order[:, :num_kept].sort(dim=1).values)
