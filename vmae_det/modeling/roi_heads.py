"""RoI heads: action logits from a feature map and person boxes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.config.checks import num_classes
from vmae_det.modeling.backbones.blocks import LAYER_NORM_EPS, Mlp, init_transformer
from vmae_det.modeling.boxes import clip_indices, to_rois
from vmae_det.modeling.build import ROI_HEAD_REGISTRY
from vmae_det.utils.errors import ConfigError


@ROI_HEAD_REGISTRY.register()
class MaxPoolRoIHead(nn.Module):
    """RoIAlign, maximum over its cells, dropout and one linear layer.

    The head of the published VideoMAE detector (not aligned, no dropout) and of SlowFast (aligned,
    dropout 0.5). `context` and `num_layers` are those of MMAction2's detectors (`with_global` of
    SingleRoIExtractor3D, `mlp_head` of BBoxHeadAVA).

    Args:
        in_dim: channels of the feature map.
        scale: cells of the feature map per pixel.
        resolution: cells per side of a region.
        sampling_ratio: samples per cell and side; 0 adapts to the size of the box.
        aligned: shift boxes by half a cell, as RoIAlign's second version does.
        context: append the features of the whole frame, pooled like those of a person.
        num_layers: linear layers, with ReLU between them. Dropout is before the last one.
        hidden_dim: width of the hidden layers; 0: that of the pooled features.

    Attributes:
        feature_dim: width of the pooled features.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        scale: float,
        *,
        resolution: int = 7,
        sampling_ratio: int = 0,
        aligned: bool = False,
        dropout: float = 0.0,
        context: bool = False,
        num_layers: int = 1,
        hidden_dim: int = 0,
    ) -> None:
        super().__init__()
        from torchvision.ops import RoIAlign  # slow to import, and only detectors need it

        self.roi_align = RoIAlign(resolution, scale, sampling_ratio, aligned)
        # Its boxes are whole frames, in cells of the map.
        self.frame_align = RoIAlign(resolution, 1.0, sampling_ratio, aligned) if context else None
        self.feature_dim = 2 * in_dim if context else in_dim
        widths = [self.feature_dim, *[hidden_dim or self.feature_dim] * (num_layers - 1)]
        self.hidden = nn.Sequential()
        for width, next_width in pairwise(widths):
            self.hidden.extend([nn.Linear(width, next_width), nn.ReLU()])
        init_transformer(self.hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(widths[-1], num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    @torch.no_grad()
    def init_as_published(self) -> None:
        """Scale the weights to a standard deviation of 2e-5, as VideoMAE-Action-Detection does."""
        self.classifier.weight.mul_(0.001)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_dim: int, scale: float, **options: Any) -> MaxPoolRoIHead:
        """Build the head that MODEL.ROI_HEAD describes.

        See the class for `in_dim` and `scale`. `options` are further arguments of a subclass.
        """
        node = cfg.MODEL.ROI_HEAD
        return cls(
            in_dim,
            num_classes(cfg, "ROI_HEAD"),
            scale,
            resolution=node.RESOLUTION,
            sampling_ratio=node.SAMPLING_RATIO,
            aligned=node.ALIGNED,
            dropout=node.DROPOUT,
            context=node.CONTEXT,
            num_layers=node.NUM_LAYERS,
            hidden_dim=node.HIDDEN_DIM,
            **options,
        )

    def pool(self, features: torch.Tensor, boxes: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Return the features (R, feature_dim) of R boxes on a map (B, C, h, w).

        Args:
            boxes: list of (N_i, 4) xyxy pixels, or (R, 5) with the index of the clip in the first column.
        """
        # Pixels and indices of clips above 256 are not exact in half precision.
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        rois, features = _as_rois(boxes, dtype), features.to(dtype)
        pooled = self.roi_align(features, rois).amax(dim=(2, 3))
        if self.frame_align is None:
            return pooled
        return torch.cat([pooled, self._pool_frames(features).index_select(0, rois[:, 0].long())], dim=1)

    def _pool_frames(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features (B, C) of whole frames, pooled from a map (B, C, h, w) like those of boxes."""
        count, _, height, width = features.shape
        corners = [features.new_full((count,), value) for value in (0, 0, width, height)]
        frames = to_rois(torch.stack(corners, dim=1), torch.arange(count, device=features.device))
        return self.frame_align(features, frames).amax(dim=(2, 3))

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits (R, classes) of pooled features (R, feature_dim)."""
        return self.classifier(self.dropout(self.hidden(pooled)))

    def forward(self, features: torch.Tensor, boxes: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Return logits (R, classes). See `pool` for the arguments."""
        return self.classify(self.pool(features, boxes))


@ROI_HEAD_REGISTRY.register()
class AttentionRoIHead(MaxPoolRoIHead):
    """A `MaxPoolRoIHead` whose persons attend to the tokens of their clip and to one another.

    The queries are the pooled features of the persons, as in the Video Action Transformer (Girdhar et al.,
    2019). The keys and values are all tokens of the clip and the persons in it. ACRN (Sun et al., 2018), AIA
    (Tang et al., 2020) and ACAR-Net (Pan et al., 2021) model the same relations with more parts. Clips of a
    batch do not affect each other.

    The blocks add zero at the start of training, when the head computes what `MaxPoolRoIHead` computes.

    Args:
        attention_layers, attention_heads: number of blocks, and of attention heads in each.
        options: those of `MaxPoolRoIHead`.
    """

    takes_tokens = True

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        scale: float,
        *,
        attention_layers: int = 1,
        attention_heads: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(in_dim, num_classes, scale, **options)
        if in_dim % attention_heads:
            raise ConfigError(
                f"MODEL.ROI_HEAD.ATTENTION_HEADS: the backbone's width {in_dim} is not divisible by "
                f"{attention_heads}"
            )
        self.token_norm = nn.LayerNorm(in_dim, eps=LAYER_NORM_EPS)
        self.blocks = nn.ModuleList(PersonBlock(in_dim, attention_heads) for _ in range(attention_layers))

    @classmethod
    def from_config(cls, cfg: CfgNode, in_dim: int, scale: float, **options: Any) -> AttentionRoIHead:
        """Build the head that MODEL.ROI_HEAD describes. See `MaxPoolRoIHead.from_config`."""
        node = cfg.MODEL.ROI_HEAD
        own = {"attention_layers": node.ATTENTION_LAYERS, "attention_heads": node.ATTENTION_HEADS}
        return super().from_config(cfg, in_dim, scale, **own, **options)

    def forward(
        self, features: torch.Tensor, boxes: list[torch.Tensor] | torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return logits (R, classes). See `pool` for the other arguments.

        Args:
            tokens: (B, t, h, w, C).
        """
        rois = _as_rois(boxes, torch.float32)
        pooled = self.pool(features, rois)
        clips, channels = rois[:, 0].long(), tokens.shape[-1]
        tokens = tokens.flatten(1, 3)  # (B, N, C)
        clip_of_token = torch.arange(tokens.shape[0], device=clips.device)[:, None].expand(tokens.shape[:2])
        visible = clips[:, None] == torch.cat([clip_of_token.flatten(), clips])  # (R, B * N + R)
        tokens = self.token_norm(tokens.flatten(0, 1))
        persons, context = pooled[:, :channels], pooled[:, channels:]  # (R, C), (R, C or 0)
        for block in self.blocks:
            persons = block(persons, tokens, visible)
        return self.classify(torch.cat([persons, context], dim=1))


class PersonBlock(nn.Module):
    """A pre-norm transformer block on persons, which attend to visible tokens and persons."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = nn.MultiheadAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, 4 * dim)
        init_transformer(self.mlp)
        for layer in (self.attn.out_proj, self.mlp.fc2):
            nn.init.zeros_(layer.weight)

    def forward(self, persons: torch.Tensor, tokens: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Map persons (R, C) to (R, C).

        Args:
            tokens: (M, C), normalized.
            visible: bool (R, M + R), whether a person attends to each token and each person.
        """
        queries = self.norm1(persons)
        keys = torch.cat([tokens, queries])
        # The fused kernel cannot be traced for a number of persons that depends on the clip.
        weights = torch.compiler.is_exporting()
        attended, _ = self.attn(queries, keys, keys, attn_mask=~visible, need_weights=weights)
        persons = persons + attended
        return persons + self.mlp(self.norm2(persons))


def _as_rois(boxes: list[torch.Tensor] | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return boxes as (R, 5), with the index of their clip in the first column."""
    if isinstance(boxes, torch.Tensor):
        return boxes.to(dtype)
    return to_rois(torch.cat(boxes).to(dtype), clip_indices(boxes))
