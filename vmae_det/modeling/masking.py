"""Which tokens pre-training hides: tube, random and frame masks, drawn from the seeds of the samples."""

from __future__ import annotations

import torch

from vmae_det.modeling.randomness import uniform


def draw_mask(seeds: torch.Tensor, grid: tuple[int, int, int], kind: str, ratio: float) -> torch.Tensor:
    """A bool mask (B, N), True where masked, tokens ordered (t, h, w); each row follows from its seed alone.

    Args:
        seeds: int64 (B,).
        kind: "tube" masks the same positions in all time slices, "random" any tokens, "frame" whole slices.
        ratio: fraction of positions (tokens, slices) masked, rounded down: every row masks the same number.
    """
    t, h, w = grid
    choices = {"tube": h * w, "random": t * h * w, "frame": t}[kind]
    order = uniform(seeds, choices).argsort(dim=1)
    mask = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, : int(ratio * choices)], True)
    if kind == "tube":
        return mask.repeat(1, t)
    if kind == "frame":
        return mask.repeat_interleave(h * w, dim=1)
    return mask


def split_tokens(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of visible (B, V) and masked (B, M) tokens, each ascending; every row masks the same number."""
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    num_visible = mask.shape[1] - int(mask[0].sum())
    return order[:, :num_visible], order[:, num_visible:]
