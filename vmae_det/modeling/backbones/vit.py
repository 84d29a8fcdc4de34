"""VideoViT: a vanilla vision transformer on video with joint space-time attention."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vmae_det.config import CfgNode
from vmae_det.modeling.backbones.base import Backbone, Grid
from vmae_det.modeling.backbones.blocks import LAYER_NORM_EPS, Block, init_transformer
from vmae_det.modeling.backbones.patch_embedding import CubeEmbedding, take_rows, to_cubes
from vmae_det.modeling.backbones.position_embedding import (
    POSITION_TABLES,
    infer_grid,
    resize_positions,
    resize_time,
)
from vmae_det.modeling.backbones.token_dropout import (
    TokenDropoutBlock,
    default_drop_blocks,
    fill_dropped,
    kept_index,
    kept_share,
    keyframe_first,
)
from vmae_det.modeling.build import BACKBONE_REGISTRY

logger = logging.getLogger(__name__)


@BACKBONE_REGISTRY.register()
class VideoViT(Backbone):
    """A vision transformer: cube embedding, fixed sine-cosine positions, transformer blocks.

    Args:
        num_frames, crop_size: size of the clips that the position table is computed for. It is resized for
            clips of another height and width.
        positions: "flat", as published, or "axes" (see `position_embedding`).
        class_token: put a learned token before those of the grid. It takes part in attention and is dropped
            before the last norm. Its position is part of it.
        final_norm: apply a LayerNorm after the last block. The classifier has its own, after pooling.
        recompute: activation checkpointing: keep only the input of each block for the backward pass and
            recompute the rest.
        keep_rate: fraction of the tokens that each of `drop_blocks` keeps (see `token_dropout`). 1: all.
        drop_blocks: blocks that drop tokens, counted from 1. Empty: those of `default_drop_blocks`.
    """

    compile_regions = ("encode", "encode_blocks", "encode_and_drop")
    is_maskable = True
    can_drop_tokens = True
    returns_blocks = True

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        patch_size: int = 16,
        tubelet_size: int = 2,
        num_frames: int = 16,
        crop_size: int = 224,
        positions: str = "flat",
        class_token: bool = False,
        drop_path: float = 0.0,
        final_norm: bool = True,
        recompute: bool = False,
        keep_rate: float = 1.0,
        drop_blocks: tuple[int, ...] = (),
    ) -> None:
        super().__init__(
            embed_dim=embed_dim,
            tubelet_size=tubelet_size,
            patch_size=patch_size,
            num_frames=num_frames,
            crop_size=crop_size,
        )
        self.recompute = recompute
        self.keep_rate = keep_rate
        self.patch_embed = CubeEmbedding(embed_dim, tubelet_size, patch_size)
        self.position_kind = positions
        self.register_buffer("positions", self.position_table(embed_dim), persistent=False)
        if class_token:
            self.class_token = nn.Parameter(torch.empty(embed_dim).normal_(std=0.02))
            self.num_extra_tokens = 1
        rates = [drop_path * block / max(depth - 1, 1) for block in range(depth)]
        kinds = dict.fromkeys(range(1, depth + 1), Block)
        if keep_rate < 1:
            for drops, number in enumerate(drop_blocks or default_drop_blocks(depth), start=1):
                share = kept_share(keep_rate, drops)
                kinds[number] = partial(TokenDropoutBlock, share, self.num_extra_tokens)
        self.blocks = nn.ModuleList(
            kind(embed_dim, num_heads, mlp_ratio, rate)
            for kind, rate in zip(kinds.values(), rates, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS) if final_norm else nn.Identity()
        init_transformer(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, final_norm: bool = True) -> VideoViT:
        """Build the backbone that MODEL.BACKBONE and INPUT describe."""
        node = cfg.MODEL.BACKBONE
        return cls(
            embed_dim=node.EMBED_DIM,
            depth=node.DEPTH,
            num_heads=node.NUM_HEADS,
            mlp_ratio=node.MLP_RATIO,
            patch_size=node.PATCH_SIZE,
            tubelet_size=node.TUBELET_SIZE,
            num_frames=cfg.INPUT.NUM_FRAMES,
            crop_size=cfg.INPUT.CROP_SIZE,
            positions=node.POSITIONS,
            class_token=node.CLASS_TOKEN,
            drop_path=node.DROP_PATH,
            final_norm=final_norm,
            recompute=cfg.MODEL.ACTIVATION_CHECKPOINTING,
            keep_rate=node.TOKEN_KEEP_RATE,
            drop_blocks=tuple(node.TOKEN_DROP_BLOCKS),
        )

    def position_table(self, dim: int) -> torch.Tensor:
        """Compute a position table (N, dim) of the kind and grid of this backbone."""
        return POSITION_TABLES[self.position_kind](self.clip_grid, dim)

    def resize_table(self, table: torch.Tensor) -> torch.Tensor:
        """Resize a loaded position table (M, C) to the grid of this backbone: (N, C).

        Bicubic in space, linear in time. A warning states the grid of the table if another one fits too.

        Raises:
            ValueError: no grid fits M, or the table has another width.
        """
        grid = infer_grid(len(table), self.clip_grid) if table.ndim == 2 else None
        if grid is None or table.shape[1] != self.embed_dim or not table.is_floating_point():
            raise ValueError(
                f"a table {tuple(table.shape)} of {table.dtype} fits no grid like {self.clip_grid} "
                f"of width {self.embed_dim}"
            )
        cells = self.clip_grid[1:]
        slices, rest = divmod(len(table), math.prod(cells))
        if grid[1:] != cells and not rest:
            logger.warning(
                "the position table in the file has %d rows, interpreted as %s (time, height, width); if "
                "they are %s, the results are wrong",
                *(len(table), grid, (slices, *cells)),
            )
        table = resize_positions(table.float(), grid, (grid[0], *self.clip_grid[1:]))
        return resize_time(table, grid[0], self.clip_grid[0])

    def set_positions(self, table: torch.Tensor) -> None:
        """Replace the computed position table (N, C). A table that differs is saved in checkpoints."""
        if not torch.allclose(table.to(self.positions), self.positions, atol=1e-5):
            self.register_buffer("positions", table.to(self.positions).clone(), persistent=True)

    def cubes(self, video: torch.Tensor) -> torch.Tensor:
        """Cut a video (B, 3, T, H, W) into the cubes of its tokens (B, N, values)."""
        return to_cubes(video, self.tubelet_size, self.patch_size)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, N, C), ordered (t, h, w), of a normalized video (B, 3, T, H, W).

        A token that was dropped is the mean of the other tokens of its cell (see `fill_dropped`).
        """
        if self.keep_rate == 1:
            return self.encode(self.cubes(video), self.token_positions(self.grid(video)))
        tokens, index, _ = self._forward_and_drop(video)
        return fill_dropped(tokens, index, self.grid(video))

    def mean_token(self, video: torch.Tensor) -> torch.Tensor:
        """Return the mean (B, C) of the tokens of a normalized video (B, 3, T, H, W), except dropped ones."""
        tokens = self(video) if self.keep_rate == 1 else self._forward_and_drop(video)[0]
        return tokens.mean(dim=1)

    def forward_blocks(
        self, video: torch.Tensor, blocks: Sequence[int], time_slice: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return `forward(video)`, and the tokens of a time slice after some blocks, in one pass.

        Raises:
            ValueError: there is token dropout, and the time slice is not the middle one.
        """
        grid = self.grid(video)
        if self.keep_rate < 1:
            if time_slice != grid[0] // 2:
                raise ValueError(
                    f"some tokens of time slice {time_slice} are dropped; expected {grid[0] // 2}"
                )
            tokens, index, kept = self._forward_and_drop(video, tuple(blocks))
            return fill_dropped(tokens, index, grid), kept
        area = math.prod(grid[1:])
        cubes, positions = self.cubes(video), self.token_positions(grid)
        return self.encode_blocks(cubes, positions, tuple(blocks), time_slice * area, area)

    def _forward_and_drop(
        self, video: torch.Tensor, blocks: tuple[int, ...] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Return the results of `encode_and_drop` for a normalized video (B, 3, T, H, W)."""
        grid = self.grid(video)
        return self.encode_and_drop(self.cubes(video), self.token_positions(grid), grid, blocks)

    def token_order(self, grid: Grid, device: torch.device) -> torch.Tensor:
        """Return the indices (N,) in a grid (t, h, w) of the tokens in the first block, except extra ones."""
        if self.keep_rate < 1:
            return keyframe_first(grid, device)
        return torch.arange(math.prod(grid), device=device)

    def token_positions(self, grid: Grid) -> torch.Tensor:
        """Return the position table (N, C), resized to a grid of tokens (t, h, w)."""
        return resize_positions(self.positions, self.clip_grid, grid)

    def encode(self, cubes: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, N, C) of normalized cubes (B, N, values).

        Args:
            cubes: all cubes of a video or any subset. Tokens attend only to each other.
            positions: (N, C) or (B, N, C).
        """
        return self._run_blocks(*self.block_inputs(cubes, positions))[0]

    def encode_blocks(
        self, cubes: torch.Tensor, positions: torch.Tensor, blocks: tuple[int, ...], first: int, count: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return `encode(cubes, positions)`, and `count` tokens from `first` on after each of `blocks`."""
        inputs = self.block_inputs(cubes, positions)
        return self._run_blocks(*inputs, blocks=blocks, first=first, count=count)

    def encode_and_drop(
        self, cubes: torch.Tensor, positions: torch.Tensor, grid: Grid, blocks: tuple[int, ...] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Return the tokens that are left, their indices, and those of the keyframe after each of `blocks`.

        Args:
            cubes: normalized (B, N, values), all of a video.
            positions: (N, C).
            grid: (t, h, w).
            blocks: numbers of blocks, from 1 on.

        Returns:
            Tokens (B, K, C), first those of the keyframe; their indices (B, K) in the grid; and for each of
            `blocks` the tokens (B, h * w, C) of the keyframe's time slice, without a norm.
        """
        extra, cells = self.num_extra_tokens, grid[1] * grid[2]
        x, *rotation = self.block_inputs(cubes, positions)
        index = self.token_order(grid, x.device)  # (N,)
        x = torch.cat([x[:, :extra], x[:, extra:].index_select(1, index)], dim=1)  # (B, extra + N, C)
        rotation = [r.index_select(1, index).unsqueeze(1) for r in rotation]  # (2, 1, N, D)
        rotation = [r.expand(-1, x.shape[0], -1, -1) for r in rotation]  # (2, B, N, D)
        index = index.expand(x.shape[0], -1)  # (B, N)
        keyframe: dict[int, torch.Tensor] = {}
        for number, block in enumerate(self.blocks, start=1):
            if isinstance(block, TokenDropoutBlock):
                x, rows = self._run_block(block, x, *rotation, grid=grid)
                index = kept_index(index, rows, extra)
                rotation = [torch.stack([take_rows(half, rows) for half in r]) for r in rotation]
            else:
                x = self._run_block(block, x, *rotation)
            if number in blocks:
                keyframe[number] = x[:, extra : extra + cells]
        return self.norm(x[:, extra:]), index, [keyframe[number] for number in blocks]

    def block_inputs(self, cubes: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the input of the first block (B, N, C), and the further arguments of all blocks.

        The input includes the extra tokens. The arguments are those of `encode`.
        """
        x = self.patch_embed(cubes)  # (B, N, C)
        x = x + positions.to(x.dtype)
        if self.num_extra_tokens:
            x = torch.cat([self.class_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)  # (B, 1 + N, C)
        return (x,)

    def _run_blocks(
        self,
        x: torch.Tensor,
        *args: torch.Tensor,
        blocks: tuple[int, ...] = (),
        first: int = 0,
        count: int = 0,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Apply all blocks and the last norm. See `encode_blocks` for the arguments and the result."""
        kept: dict[int, torch.Tensor] = {}
        for number, block in enumerate(self.blocks, start=1):
            x = self._run_block(block, x, *args)
            if number in blocks:
                kept[number] = x[:, self.num_extra_tokens + first :][:, :count]
        return self.norm(x[:, self.num_extra_tokens :]), [kept[number] for number in blocks]

    def _run_block(self, block: nn.Module, *args: torch.Tensor, **kwargs: Grid) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False, **kwargs)
        return block(*args, **kwargs)

    def num_layers(self) -> int:
        """Return the number of layers for layer-wise decay: the embedding and the blocks."""
        return 1 + len(self.blocks)

    def layer_of(self, name: str) -> int:
        """Return the layer of a parameter, given its name in this module.

        The embedding and the class token are layer 0, block i is i + 1, and what follows the blocks is
        `num_layers()`.
        """
        module, *rest = name.split(".")
        if module == "blocks":
            return int(rest[0]) + 1
        return 0 if module in ("patch_embed", "class_token") else self.num_layers()
