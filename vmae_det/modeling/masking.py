"""Which tokens pre-training hides from the encoder, and which of them the decoder predicts.

All is drawn from the seeds of the samples.
"""

from __future__ import annotations

import math

import torch

from vmae_det.modeling.seeded_random import uniform


def draw_mask(seeds: torch.Tensor, grid: tuple[int, int, int], kind: str, ratio: float) -> torch.Tensor:
    """A bool mask (B, N), True where masked, tokens ordered (t, h, w); each row follows from its seed alone.

    Args:
        seeds: int64 (B,).
        kind: "tube" masks the same positions in all time slices, "random" any tokens, "frame" whole slices.
        ratio: fraction of positions (tokens, slices) masked, rounded down: every row masks the same number.
    """
    t, h, w = grid
    choices = _choices(grid, kind)
    order = uniform(seeds, choices).argsort(dim=1)
    mask = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, : int(ratio * choices)], True)
    if kind == "tube":
        return mask.repeat(1, t)
    if kind == "frame":
        return mask.repeat_interleave(h * w, dim=1)
    return mask


def count_masked(grid: tuple[int, int, int], kind: str, ratio: float) -> int:
    """How many tokens `draw_mask` masks in every row."""
    choices = _choices(grid, kind)
    return int(ratio * choices) * (math.prod(grid) // choices)


def _choices(grid: tuple[int, int, int], kind: str) -> int:
    """What a mask of this kind chooses among: positions, tokens, or slices."""
    t, h, w = grid
    return {"tube": h * w, "random": t * h * w, "frame": t}[kind]


def split_tokens(mask: torch.Tensor, num_masked: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of visible (B, V) and masked (B, M) tokens, each ascending; every row masks the same number.

    Where that is given as `num_masked`, a GPU need not be waited for to learn the shapes.
    """
    if num_masked is None:
        num_masked = int(mask[0].sum())
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    num_visible = mask.shape[1] - num_masked
    return order[:, :num_visible], order[:, num_visible:]


@torch.compiler.disable  # compiled by torch 2.15 it crashes on the CPU
def running_cells(
    seeds: torch.Tensor, tokens: torch.Tensor, grid: tuple[int, int, int], ratio: float
) -> torch.Tensor:
    """Those of the hidden `tokens` (B, M) that a running-cell mask leaves to predict: (B, K), ascending.

    The decoder's mask of VideoMAE V2 (Wang et al., 2023; the pattern is MAR's, Qing et al., 2022). Cells of
    2 x 2 positions tile a time slice; a grid of odd height or width cuts the last ones. The positions that
    are kept follow one another in the reading order of a cell, as in a ring, and move on by one from slice to
    slice, so that in four slices each is kept equally often. Where in the ring follows from the seed.

    Every row keeps K = M - int(ratio * M) tokens: those whose turn it is, then those whose turn comes next,
    at random among equals. With a tube mask, a multiple of four time slices, and a ratio of a quarter, a half
    or three quarters, these are exactly the hidden tokens of the pattern.

    Args:
        seeds: int64 (B,).
        tokens: numbers of tokens, ordered (t, h, w).
        ratio: fraction that is not predicted, in (0, 1).
    """
    _, h, w = grid
    number = tokens.shape[1] - int(ratio * tokens.shape[1])
    time, row, column = tokens // (h * w), tokens // w % h, tokens % w
    place = 2 * (row % 2) + column % 2
    # Numbers apart from those that the encoder's mask comes from, and from each other.
    start, ties = (uniform(~seeds, 1) * 4).long(), uniform(~seeds ^ 1, tokens.shape[1])
    turn = (place + time + start) % 4
    order = (turn + ties).argsort(dim=1)
    return tokens.gather(1, order[:, :number].sort(dim=1).values)
