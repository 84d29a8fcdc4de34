"""The vanilla vision transformer on video, with joint space-time attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn
from torch.utils.checkpoint import checkpoint

from vmae_det.config import CfgNode
from vmae_det.modeling.attention import attention
from vmae_det.modeling.build import BACKBONE_REGISTRY
from vmae_det.modeling.embedding import (
    POSITIONS,
    CubeEmbedding,
    grid_of_table,
    resize_positions,
    stretch_positions,
    to_cubes,
)

LAYER_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention.

    The published models have no bias on keys. One on all three changes nothing: softmax is invariant to it.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, last: int | None = None) -> torch.Tensor:
        """(B, N, C) to (B, N, C), or with `last` to (B, last, C): what the last tokens find among all."""
        if last is None:
            query, key, value = self._heads(x, 0, 3)  # each B, heads, N, C / heads
        else:
            query, key, value = *self._heads(x[:, -last:], 0, 1), *self._heads(x, 1, 3)
        x = attention(query, key, value)
        return self.proj(x.transpose(1, 2).flatten(2))

    def _heads(self, x: torch.Tensor, first: int, end: int) -> tuple[torch.Tensor, ...]:
        """From `first` to `end` of queries, keys, values of x (B, N, C), each (B, heads, N, C / heads)."""
        if end - first == 3:
            x = self.qkv(x)
        else:
            rows = slice(first * x.shape[-1], end * x.shape[-1])
            x = F.linear(x, self.qkv.weight[rows], self.qkv.bias[rows])
        return x.unflatten(-1, (end - first, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: torch.Tensor, last: int | None = None) -> torch.Tensor:
        """(B, N, C) to (B, N, C), or with `last` to (B, last, C): the last tokens alone, for less work."""
        kept = x if last is None else x[:, -last:]
        x = kept + self.drop_path(self.attn(self.norm1(x), last))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def init_transformer(module: nn.Module) -> None:
    """Weights as in the published models: Xavier uniform for linear maps, zeros for biases, ones for
    norms."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv3d):
            nn.init.xavier_uniform_(layer.weight.data.flatten(1))
            nn.init.zeros_(layer.bias)


@BACKBONE_REGISTRY.register()
class VideoViT(nn.Module):
    """Cubes of video as tokens, fixed sine-cosine positions, and transformer blocks.

    Args:
        num_frames, crop_size: the clip whose (t, h, w) grid the position table is made for; clips of another
            height and width get it resized.
        positions: "flat" as published, or "axes"; see `embedding`.
        final_norm: whether a LayerNorm follows the last block. The classifier has its own, after pooling.
        recompute: keep each block's input alone for the backward pass, and work out the rest again there.
    """

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
        drop_path: float = 0.0,
        final_norm: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.tubelet_size = tubelet_size
        self.table_grid = (num_frames // tubelet_size, crop_size // patch_size, crop_size // patch_size)
        self.patch_embed = CubeEmbedding(embed_dim, tubelet_size, patch_size)
        self.position_kind = positions
        self.register_buffer("positions", self.position_table(embed_dim), persistent=False)
        rates = [drop_path * block / max(depth - 1, 1) for block in range(depth)]
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS) if final_norm else nn.Identity()
        init_transformer(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, final_norm: bool = True) -> VideoViT:
        """The backbone that MODEL.BACKBONE and INPUT describe."""
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
            drop_path=node.DROP_PATH,
            final_norm=final_norm,
            recompute=cfg.MODEL.ACTIVATION_CHECKPOINTING,
        )

    def position_table(self, dim: int) -> torch.Tensor:
        """The positions of all tokens (N, dim), of the kind that this backbone has."""
        return POSITIONS[self.position_kind](self.table_grid, dim)

    def resize_table(self, table: torch.Tensor) -> torch.Tensor:
        """A position table (M, C) from elsewhere, for the grid of this backbone's own (N, C).

        Bicubic in space, linear in time. ValueError if it is no table of M positions in a grid of this width.
        """
        grid = grid_of_table(len(table), self.table_grid) if table.ndim == 2 else None
        if grid is None or table.shape[1] != self.embed_dim or not table.is_floating_point():
            raise ValueError(
                f"a table {tuple(table.shape)} of {table.dtype} fits no grid like {self.table_grid} "
                f"of width {self.embed_dim}"
            )
        table = resize_positions(table.float(), grid, (grid[0], *self.table_grid[1:]))
        return stretch_positions(table, grid[0], self.table_grid[0])

    def set_positions(self, table: torch.Tensor) -> None:
        """Use a position table (N, C) in place of the computed one, and save it if they differ."""
        if not torch.allclose(table.to(self.positions), self.positions, atol=1e-5):
            self.register_buffer("positions", table.to(self.positions).clone(), persistent=True)

    def grid(self, video: torch.Tensor) -> tuple[int, int, int]:
        """Number of tokens (t, h, w) of a video (B, 3, T, H, W)."""
        _, _, frames, height, width = video.shape
        return frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    def cubes(self, video: torch.Tensor) -> torch.Tensor:
        """Cut a video (B, 3, T, H, W) into the pixels of its tokens, (B, N, values)."""
        return to_cubes(video, self.tubelet_size, self.patch_size)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, C) of a normalised video (B, 3, T, H, W), ordered (t, h, w)."""
        positions = resize_positions(self.positions, self.table_grid, self.grid(video))
        return self.encode(self.cubes(video), positions)

    def encode(self, cubes: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, C) of normalised cubes (B, N, values) at `positions`, (N, C) or (B, N, C).

        The cubes may be any subset of a video's: tokens attend to these alone.
        """
        x = self.patch_embed(cubes)
        x = x + positions.to(x.dtype)
        recompute = self.recompute and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return self.norm(x)

    def num_layers(self) -> int:
        """Layers for layer-wise decay: the embedding, then the blocks."""
        return 1 + len(self.blocks)

    def layer_of(self, name: str) -> int:
        """The layer that a parameter (by its name in this module) belongs to: 0 for the embedding."""
        kind, *rest = name.split(".")
        return {"patch_embed": 0}.get(kind, self.num_layers()) if kind != "blocks" else int(rest[0]) + 1
