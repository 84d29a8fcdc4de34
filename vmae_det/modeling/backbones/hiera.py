"""Hiera: a hierarchical vision transformer whose blocks come from the package hiera-transformer."""

from __future__ import annotations

import importlib
import math
import warnings
from functools import partial
from types import ModuleType

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vmae_det.config import CfgNode
from vmae_det.modeling.backbones.attention import attention
from vmae_det.modeling.backbones.base import Backbone
from vmae_det.modeling.backbones.blocks import LAYER_NORM_EPS, DropPath
from vmae_det.modeling.backbones.position_embedding import resize_positions, resize_time
from vmae_det.modeling.build import BACKBONE_REGISTRY
from vmae_det.utils.errors import ConfigError

# Values of all video models of the package.
_STAGES = 4
_PATCH_STRIDE = (2, 4, 4)
_PATCH_KERNEL = (3, 7, 7)
_PATCH_PADDING = (1, 3, 3)
_UNIT = 8  # patches per side of a mask unit, in which the first two stages attend
_POOL = 2  # queries are pooled by this factor along height and width at the start of each further stage
_SHRINK = 2 ** (_STAGES - 1)  # the first stage has this fraction of the last stage's channels and heads
PATCH_SIZE = _PATCH_STRIDE[1] * _POOL ** (_STAGES - 1)


@BACKBONE_REGISTRY.register()
class Hiera(Backbone):
    """Hiera (Ryali et al., 2023) on video. Its tokens are those of the last stage: 2 frames x 32 x 32 pixels.

    Each stage has twice the channels and heads, and half the height and width, of the one before.

    Args:
        embed_dim, num_heads: channels of a token and attention heads of the last stage.
        stages: number of blocks of each of the four stages.
        num_frames, crop_size: size of the clips that the position tables are for. The table of space is
            resized for clips of another height and width.
        final_norm: apply a LayerNorm after the last block. The classifier has its own, after pooling.
        recompute: activation checkpointing, as in VideoViT.
    """

    pixel_statistics = ((114.75,) * 3, (57.375,) * 3)  # 0.45 and 0.225 of 255
    is_isotropic = False
    no_weight_decay = ("pos_embed_spatial", "pos_embed_temporal")

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        num_heads: int = 8,
        stages: tuple[int, ...] = (2, 3, 16, 3),
        mlp_ratio: float = 4.0,
        num_frames: int = 16,
        crop_size: int = 224,
        drop_path: float = 0.0,
        final_norm: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__(
            embed_dim=embed_dim,
            tubelet_size=_PATCH_STRIDE[0],
            patch_size=PATCH_SIZE,
            num_frames=num_frames,
            crop_size=crop_size,
        )
        package = _import_package()
        self.recompute = recompute
        self.stages = stages
        dim, heads = embed_dim // _SHRINK, num_heads // _SHRINK
        self.patch_embed = package.PatchEmbed(3, dim, _PATCH_KERNEL, _PATCH_STRIDE, _PATCH_PADDING)
        self.patch_grid = (self.clip_grid[0], *(_UNIT * side for side in self.clip_grid[1:]))
        slices, height, width = self.patch_grid
        self.pos_embed_spatial = nn.Parameter(torch.zeros(1, height * width, dim))
        self.pos_embed_temporal = nn.Parameter(torch.zeros(1, slices, dim))
        norm = partial(nn.LayerNorm, eps=LAYER_NORM_EPS)
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(stages):
            for index in range(depth):
                pools = stage > 0 and index == 0
                block = package.HieraBlock(
                    dim=dim,
                    dim_out=dim * 2 if pools else dim,
                    heads=heads << stage,
                    mlp_ratio=mlp_ratio,
                    norm_layer=norm,
                    q_stride=_POOL**2 if pools else 1,
                    window_size=(_UNIT // _POOL**stage) ** 2,
                )
                # A block that pools attends in the windows of the stage before it.
                is_local = stage - pools < 2
                block.attn = MaskUnitAttention(block.attn, is_local)
                if rate := drop_path * len(self.blocks) / max(sum(stages) - 1, 1):
                    block.drop_path = DropPath(rate)  # the package's is compiled again for each rate
                self.blocks.append(block)
                dim = block.dim_out
        self.norm = norm(embed_dim) if final_norm else nn.Identity()
        self._init_weights()

    @classmethod
    def from_config(cls, cfg: CfgNode, final_norm: bool = True) -> Hiera:
        """Build the backbone that MODEL.BACKBONE and INPUT describe.

        Raises:
            ConfigError: the keys of MODEL.BACKBONE describe no Hiera, or its package is not installed.
        """
        node = cfg.MODEL.BACKBONE
        _check(node)
        return cls(
            embed_dim=node.EMBED_DIM,
            num_heads=node.NUM_HEADS,
            stages=tuple(node.STAGES),
            mlp_ratio=node.MLP_RATIO,
            num_frames=cfg.INPUT.NUM_FRAMES,
            crop_size=cfg.INPUT.CROP_SIZE,
            drop_path=node.DROP_PATH,
            final_norm=final_norm,
            recompute=cfg.MODEL.ACTIVATION_CHECKPOINTING,
        )

    def _init_weights(self) -> None:
        """Initialize as the package does."""
        for table in (self.pos_embed_spatial, self.pos_embed_temporal):
            nn.init.trunc_normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv3d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                nn.init.constant_(module.bias, 0.02)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, t * h * w, C), ordered (t, h, w), of a normalized video (B, 3, T, H, W).

        H and W are any multiples of 32.
        """
        t, h, w = self.grid(video)
        x = self.patch_embed(video)  # (B, t * 8 h * 8 w, C / 8)
        x = x + self._positions((t, _UNIT * h, _UNIT * w)).to(x.dtype)
        x = _unroll(x, (t, h, w))
        recompute = self.recompute and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return self.norm(x)

    def _positions(self, grid: tuple[int, int, int]) -> torch.Tensor:
        """Return the positions (N, C) of a grid of patches (t, h, w).

        Raises:
            ValueError: the clip has another number of frames.
        """
        slices, height, width = self.patch_grid
        if grid[0] != slices:
            raise ValueError(f"the position table has {slices} time slices, the clip {grid[0]}")
        space = resize_positions(self.pos_embed_spatial[0], (1, height, width), (1, *grid[1:]))  # (h * w, C)
        return (self.pos_embed_temporal[0][:, None] + space).flatten(0, 1)

    def fit_weights(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Resize position tables of clips of another size: bicubic in space, linear in time."""
        slices, height, width = self.patch_grid
        fitted = dict(weights)
        tables = {name: weights[name] for name in self.no_weight_decay if name in weights}
        for name, table in tables.items():
            if table.ndim != 3 or len(table) != 1 or not table.shape[1]:
                continue  # refused later, with its shape
            rows, length = table[0].float(), table.shape[1]
            side = math.isqrt(length)
            if name == "pos_embed_temporal":
                rows = resize_time(rows, length, slices)
            elif length == side**2:
                rows = resize_positions(rows, (1, side, side), (1, height, width))
            fitted[name] = rows[None].to(table.dtype)
        return fitted

    def num_layers(self) -> int:
        """Return the number of layers for layer-wise decay: the embedding and the blocks."""
        return 1 + len(self.blocks)

    def layer_of(self, name: str) -> int:
        """Return the layer of a parameter: 0 for the embedding and positions, i + 1 for block i."""
        module, *rest = name.split(".")
        if module == "blocks":
            return int(rest[0]) + 1
        return self.num_layers() if module == "norm" else 0


class MaskUnitAttention(nn.Module):
    """Attention in windows, or global, with pooled queries.

    Computes the same as the package's, with its parameters, but the kernel gets four dimensions: only those
    have flash attention and can be exported to ONNX.

    Args:
        published: module of the package.
        is_local: whether tokens attend only to those of their window.
    """

    def __init__(self, published: nn.Module, is_local: bool) -> None:
        super().__init__()
        self.num_heads, self.q_stride = published.heads, published.q_stride
        self.window = self.q_stride * published.window_size if is_local else 0  # tokens
        self.qkv, self.proj = published.qkv, published.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, C) to (B, N / q_stride, C'). Tokens are ordered (index in the window, window)."""
        batch, tokens, _ = x.shape
        windows = tokens // self.window if self.window else 1
        x = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unflatten(1, (-1, windows))
        # From (B, M, windows, 3, heads, D): three of (B * windows, heads, M, D).
        query, key, value = x.permute(3, 0, 2, 4, 1, 5).flatten(1, 2).unbind()
        if self.q_stride > 1:
            query = query.unflatten(2, (self.q_stride, -1)).amax(dim=2)
        x = attention(query, key, value).unflatten(0, (batch, windows))  # (B, windows, heads, M', D)
        return self.proj(x.permute(0, 3, 1, 2, 4).flatten(3).flatten(1, 2))


def _unroll(x: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """Reorder patches (B, t * 8 h * 8 w, C) so that each pooling takes the maximum over contiguous groups.

    After the three poolings, tokens are ordered (t, h, w). Same order as `Unroll` of the package.
    """
    t, h, w = grid
    x = x.unflatten(1, (t, h, 2, 2, 2, w, 2, 2, 2))
    # The lowest bits of row and column come first: the first pooling removes them.
    return x.permute(0, 5, 9, 4, 8, 3, 7, 1, 2, 6, 10).flatten(1, 9)


def _check(node: CfgNode) -> None:
    if node.CLASS_TOKEN:
        raise ConfigError("MODEL.BACKBONE.CLASS_TOKEN: True, but Hiera has no class token")
    for key, expected in (("PATCH_SIZE", PATCH_SIZE), ("TUBELET_SIZE", _PATCH_STRIDE[0])):
        if node[key] != expected:
            raise ConfigError(f"MODEL.BACKBONE.{key}: the tokens of Hiera need {expected}, got {node[key]}")
    if len(node.STAGES) != _STAGES:
        raise ConfigError(
            f"MODEL.BACKBONE.STAGES: Hiera needs the numbers of blocks of {_STAGES} stages, such as "
            f"[2, 3, 16, 3], got {list(node.STAGES)}"
        )
    if sum(node.STAGES) != node.DEPTH:
        raise ConfigError(
            f"MODEL.BACKBONE.DEPTH: {node.DEPTH}, but MODEL.BACKBONE.STAGES {list(node.STAGES)} have "
            f"{sum(node.STAGES)} blocks"
        )
    for key in ("EMBED_DIM", "NUM_HEADS"):
        if node[key] % _SHRINK:
            raise ConfigError(
                f"MODEL.BACKBONE.{key}: {node[key]} of the last stage of Hiera is not divisible by {_SHRINK}"
            )


def _import_package() -> ModuleType:
    """Import hiera-transformer, or raise ConfigError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it imports timm.models.layers
            return importlib.import_module("hiera")
    except ImportError as error:
        raise ConfigError(
            f"MODEL.BACKBONE.NAME: Hiera needs the package hiera-transformer ({error}); install it with "
            "`pip install hiera-transformer`, or `pip install vmae_det[hiera]`"
        ) from None
