"""Token dropout (EVAD, Chen et al., 2023): blocks that drop the tokens which attention uses least.

With token dropout, the sequence of tokens has this order from the first block on:

    extra tokens (such as a class token) | tokens of the keyframe's time slice | other tokens, ascending

The first two parts are never dropped. The publishers' code is https://github.com/MCG-NJU/EVAD.
"""

from __future__ import annotations

from fractions import Fraction

import torch

from vmae_det.modeling.backbones.attention import attention_received
from vmae_det.modeling.backbones.base import Grid
from vmae_det.modeling.backbones.blocks import Block
from vmae_det.modeling.backbones.patch_embedding import take_rows

KEYFRAME_WEIGHT = 4.0  # of the keyframe's queries in the ranking, as published


def default_drop_blocks(depth: int) -> tuple[int, ...]:
    """Return the blocks that drop tokens, counted from 1: the first of the last three quarters of the depth.

    They are 4, 7 and 10 of 12, and 7, 13 and 19 of 24, as published.
    """
    return tuple(sorted({depth * quarter // 4 + 1 for quarter in (1, 2, 3)}))


def kept_share(keep_rate: float, drops: int) -> tuple[int, int]:
    """Return the fraction of all tokens that is left after `drops` blocks that drop tokens."""
    return Fraction(keep_rate**drops).limit_denominator(10**6).as_integer_ratio()


def count_kept(grid: Grid, share: tuple[int, int]) -> int:
    """Return a share of the tokens of a grid (t, h, w), rounded up, but at least those of one time slice.

    The sizes may be symbolic: in an exported model the number is a formula of height and width.
    """
    (t, h, w), (numerator, denominator) = grid, share
    others = numerator * t - denominator  # of `denominator`, in each cell
    if others <= 0:
        return h * w
    # Not -(-a // b): ONNX rounds the quotient of integers towards zero.
    return h * w + (others * (h * w) + denominator - 1) // denominator


class TokenDropoutBlock(Block):
    """A transformer block that drops tokens between attention and MLP. It has the parameters of `Block`.

    Args:
        share: fraction of the tokens of the grid that it leaves (see `kept_share`).
        num_extra_tokens: tokens before those of the grid.
        args: those of `Block`.
    """

    def __init__(self, share: tuple[int, int], num_extra_tokens: int, *args: float) -> None:
        super().__init__(*args)
        self.share = share
        self.num_extra_tokens = num_extra_tokens

    def forward(
        self, x: torch.Tensor, rotation: torch.Tensor | None = None, *, grid: Grid | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Map tokens (B, N, C), in the order above, to those left (B, K, C) and their rows in x (B, K).

        Args:
            rotation: as of `Attention.forward`.
            grid: (t, h, w) of all tokens of the video. None: as `Block`, map any (B, N, C) to (B, N, C).
        """
        if grid is None:
            return super().forward(x, rotation)
        cells, kept = grid[1] * grid[2], count_kept(grid, self.share)
        first, end = self.num_extra_tokens, self.num_extra_tokens + cells  # the keyframe's tokens
        projected = self.attn.project(self.norm1(x), rotation)
        attended, received = attention_received(*projected, first, end, KEYFRAME_WEIGHT)
        rows = _best_rows(received, end, kept - cells)  # (B, K)
        # Drop before the projection, which treats each token alone: the result is the same.
        attended = take_rows(attended.transpose(1, 2).flatten(2), rows)  # (B, K, C)
        x = take_rows(x, rows) + self.drop_path(self.attn.proj(attended))
        return x + self.drop_path(self.mlp(self.norm2(x))), rows


def _best_rows(scores: torch.Tensor, fixed: int, count: int) -> torch.Tensor:
    """Return the first `fixed` rows, then the `count` rows of the highest scores (B, N) among the others.

    Both are ascending: (B, fixed + count). Of equal rows, the earlier ones are returned.
    """
    others = scores[:, fixed:]
    if torch.compiler.is_exporting():  # ONNX has no stable sort, but its TopK keeps the earlier of equal rows
        best = others.topk(count, dim=1).indices
    else:
        best = others.argsort(dim=1, descending=True, stable=True)[:, :count]
    first = torch.arange(fixed, device=scores.device).expand(scores.shape[0], -1)
    return torch.cat([first, best.sort(dim=1).values + fixed], dim=1)


def keyframe_first(grid: Grid, device: torch.device) -> torch.Tensor:
    """Return the indices (N,) of the tokens of a grid (t, h, w), those of the keyframe's time slice first."""
    t, h, w = grid
    index = torch.arange(t * h * w, device=device).unflatten(0, (t, h * w))
    return torch.cat([index[t // 2 : t // 2 + 1], index[: t // 2], index[t // 2 + 1 :]]).flatten()


def kept_index(index: torch.Tensor, rows: torch.Tensor, num_extra_tokens: int) -> torch.Tensor:
    """Return the indices in the grid (B, K) of the tokens that a block keeps.

    Args:
        index: those of the tokens before the block (B, N), without extra tokens.
        rows: second result of the block, with extra tokens.
    """
    return index.gather(1, rows[:, num_extra_tokens:] - num_extra_tokens)


def fill_dropped(tokens: torch.Tensor, index: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Put tokens back into their grid. A dropped token becomes the mean of the kept tokens of its cell.

    The mean and the maximum over time are thus those over the kept tokens of each cell.

    Args:
        tokens: the kept tokens (B, K, C), among them all of one time slice.
        index: their indices (B, K) in the grid.
        grid: (t, h, w).

    Returns:
        (B, t * h * w, C), ordered (t, h, w).
    """
    t, h, w = grid
    batch, _, channels = tokens.shape
    is_kept = tokens.new_zeros(batch, t * h * w).scatter(1, index, 1.0)[..., None]  # (B, N, 1)
    index = index[..., None].expand(-1, -1, channels)
    full = tokens.new_zeros(batch, t * h * w, channels).scatter(1, index, tokens)  # (B, N, C)
    full, is_kept = full.unflatten(1, (t, h * w)), is_kept.unflatten(1, (t, h * w))
    mean = full.sum(dim=1, keepdim=True) / is_kept.sum(dim=1, keepdim=True)  # (B, 1, h * w, C)
    return torch.where(is_kept > 0, full, mean).flatten(1, 2)
