"""From a feature map and person boxes to action logits."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import roi_align

from vmae_det.config import CfgNode
from vmae_det.modeling.build import ROI_HEAD_REGISTRY
from vmae_det.modeling.seeded_random import uniform


@ROI_HEAD_REGISTRY.register()
class MaxPoolRoIHead(nn.Module):
    """RoIAlign, the maximum over its cells, dropout and one linear layer.

    The head of the published VideoMAE detector (not aligned, no dropout) and of SlowFast (aligned,
    dropout 0.5).
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
    ) -> None:
        super().__init__()
        self.scale = scale
        self.resolution = resolution
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_dim, num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    @torch.no_grad()
    def init_as_published(self) -> None:
        """Scale the weights to a deviation of 2e-5 (VideoMAE-Action-Detection)."""
        self.classifier.weight.mul_(0.001)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_dim: int, scale: float) -> MaxPoolRoIHead:
        """The head that MODEL.ROI_HEAD describes, on features of width `in_dim`, `scale` cells per pixel."""
        node = cfg.MODEL.ROI_HEAD
        return cls(
            in_dim,
            node.NUM_CLASSES,
            scale,
            resolution=node.RESOLUTION,
            sampling_ratio=node.SAMPLING_RATIO,
            aligned=node.ALIGNED,
            dropout=node.DROPOUT,
        )

    def pool(self, features: torch.Tensor, boxes: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Features (R, C) of R boxes on a map (B, C, H / scale, W / scale).

        Args:
            boxes: lists of (N_i, 4) xyxy pixels, or (R, 5) with the number of the clip before them.
        """
        if isinstance(boxes, torch.Tensor):
            boxes = boxes.to(features.dtype)
        else:
            boxes = [box.to(features.dtype) for box in boxes]
        regions = roi_align(
            features, boxes, self.resolution, self.scale, self.sampling_ratio, self.aligned
        )  # R, C, resolution, resolution
        return regions.amax(dim=(2, 3))

    def forward(self, features: torch.Tensor, boxes: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Logits (R, classes); see `pool`."""
        return self.classifier(self.dropout(self.pool(features, boxes)))


# Borders move by a uniform share of the box's width or height between these limits: (x1, y1, x2, y2).
JITTER_LOW = (-0.2, -0.1, -0.1, -0.05)
JITTER_HIGH = (0.1, 0.05, 0.2, 0.1)


def jitter_boxes(
    boxes: list[torch.Tensor], seeds: torch.Tensor, height: int, width: int
) -> list[torch.Tensor]:
    """Move the borders of training boxes, (N_i, 4) xyxy pixels, at random, by the seed of each clip (B,)."""
    jittered = []
    for box, seed in zip(boxes, seeds):
        low, high = box.new_tensor(JITTER_LOW), box.new_tensor(JITTER_HIGH)
        share = low + (high - low) * uniform(seed[None], box.numel()).view(-1, 4).to(box.dtype)
        size = (box[:, 2:] - box[:, :2]).repeat(1, 2)  # w, h, w, h
        jittered.append(clip_boxes(box + share * size, height, width))
    return jittered


def scale_boxes(boxes: torch.Tensor, factors: tuple[float, float], sizes: torch.Tensor) -> torch.Tensor:
    """Boxes (N, 4) xyxy pixels scaled about their centres by (width, height) factors and clipped.

    Args:
        sizes: (N, 2) or (2,) width and height of the frame; padding is outside of it.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * boxes.new_tensor(factors)
    corners = [corner.clamp(min=0).minimum(sizes.to(boxes)) for corner in (centre - half, centre + half)]
    return torch.cat(corners, dim=1)


def clip_boxes(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Boxes (N, 4) xyxy pixels cut at the borders of a frame."""
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x, y], dim=2).flatten(1)
