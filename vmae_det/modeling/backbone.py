"""VideoViT: a vanilla vision transformer on video with joint space-time attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from vmae_det.config import CfgNode
from vmae_det.modeling.attention import attention
from vmae_det.modeling.build import BACKBONE_REGISTRY
from vmae_det.modeling.patch_embedding import CubeEmbedding, to_cubes
from vmae_det.modeling.position_embedding import POSITION_TABLES, infer_grid, resize_positions, resize_time

LAYER_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention.

    The published models have no bias on keys. A key bias has no effect, because softmax is invariant to it.
    One bias for queries, keys and values is used.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, last: int | None = None) -> torch.Tensor:
        """Map (B, N, C) to (B, N, C); with `last`, compute only the last tokens: (B, last, C)."""
        if last is None:
            query, key, value = self._project(x, 0, 3)  # (B, heads, N, C / heads) each
        else:
            query, key, value = *self._project(x[:, -last:], 0, 1), *self._project(x, 1, 3)
        x = attention(query, key, value)  # (B, heads, N or last, C / heads)
        return self.proj(x.transpose(1, 2).flatten(2))

    def _project(self, x: torch.Tensor, first: int, end: int) -> tuple[torch.Tensor, ...]:
        """Project x (B, N, C) to the slice `first`:`end` of (queries, keys, values).

        Each has shape (B, heads, N, C / heads).
        """
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
        """Map (..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): drop a residual branch for random clips of a batch.

    The rate is a tensor, unlike in timm. torch.compile compiles a block again for each Python number.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.register_buffer("keep_prob", torch.tensor(1 - drop_prob), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, ...) to (B, ...): zero for dropped clips; the others are scaled to keep the mean."""
        if not self.training:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) < self.keep_prob
        return x * (kept / self.keep_prob).to(x.dtype)


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
        """Map (B, N, C) to (B, N, C); with `last`, compute only the last tokens: (B, last, C)."""
        shortcut = x if last is None else x[:, -last:]
        x = shortcut + self.drop_path(self.attn(self.norm1(x), last))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def init_transformer(module: nn.Module) -> None:
    """Initialize as the published models: Xavier uniform weights, biases 0, LayerNorm weights 1."""
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
    """A vision transformer: cube embedding, fixed sine-cosine positions, transformer blocks.

    Args:
        num_frames, crop_size: size of the clips that the position table is computed for. It is resized for
            clips of another height and width.
        positions: "flat", as published, or "axes" (see `position_embedding`).
        final_norm: apply a LayerNorm after the last block. The classifier has its own, after pooling.
        recompute: activation checkpointing: keep only the input of each block for the backward pass and
            recompute the rest.

    Attributes:
        table_grid: (t, h, w) of the position table.
    """

    compile_regions = ("encode",)

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
            drop_path=node.DROP_PATH,
            final_norm=final_norm,
            recompute=cfg.MODEL.ACTIVATION_CHECKPOINTING,
        )

    def position_table(self, dim: int) -> torch.Tensor:
        """Compute a position table (N, dim) of the kind and grid of this backbone."""
        return POSITION_TABLES[self.position_kind](self.table_grid, dim)

    def resize_table(self, table: torch.Tensor) -> torch.Tensor:
        """Resize a loaded position table (M, C) to the grid of this backbone: (N, C).

        Bicubic in space, linear in time.

        Raises:
            ValueError: no grid fits M, or the table has another width.
        """
        grid = infer_grid(len(table), self.table_grid) if table.ndim == 2 else None
        if grid is None or table.shape[1] != self.embed_dim or not table.is_floating_point():
            raise ValueError(
                f"a table {tuple(table.shape)} of {table.dtype} fits no grid like {self.table_grid} "
                f"of width {self.embed_dim}"
            )
        table = resize_positions(table.float(), grid, (grid[0], *self.table_grid[1:]))
        return resize_time(table, grid[0], self.table_grid[0])

    def set_positions(self, table: torch.Tensor) -> None:
        """Replace the computed position table (N, C). A table that differs is saved in checkpoints."""
        if not torch.allclose(table.to(self.positions), self.positions, atol=1e-5):
            self.register_buffer("positions", table.to(self.positions).clone(), persistent=True)

    def grid(self, video: torch.Tensor) -> tuple[int, int, int]:
        """Return the grid of tokens (t, h, w) of a video (B, 3, T, H, W)."""
        _, _, frames, height, width = video.shape
        return frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    def cubes(self, video: torch.Tensor) -> torch.Tensor:
        """Cut a video (B, 3, T, H, W) into the cubes of its tokens (B, N, values)."""
        return to_cubes(video, self.tubelet_size, self.patch_size)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, N, C), ordered (t, h, w), of a normalized video (B, 3, T, H, W)."""
        positions = resize_positions(self.positions, self.table_grid, self.grid(video))
        return self.encode(self.cubes(video), positions)

    def encode(self, cubes: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, N, C) of normalized cubes (B, N, values).

        Args:
            cubes: all cubes of a video or any subset. Tokens attend only to each other.
            positions: (N, C) or (B, N, C).
        """
        x = self.patch_embed(cubes)  # (B, N, C)
        x = x + positions.to(x.dtype)
        recompute = self.recompute and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return self.norm(x)

    def num_layers(self) -> int:
        """Return the number of layers for layer-wise decay: the embedding and the blocks."""
        return 1 + len(self.blocks)

    def layer_of(self, name: str) -> int:
        """Return the layer of a parameter, given its name in this module.

        The embedding is layer 0, block i is i + 1, and what follows the blocks is `num_layers()`.
        """
        module, *rest = name.split(".")
        if module == "blocks":
            return int(rest[0]) + 1
        return 0 if module == "patch_embed" else self.num_layers()
