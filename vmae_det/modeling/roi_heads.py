"""RoI heads: action logits from a feature map and person boxes."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.config.checks import num_classes
from vmae_det.modeling.build import ROI_HEAD_REGISTRY


@ROI_HEAD_REGISTRY.register()
class MaxPoolRoIHead(nn.Module):
    """RoIAlign, maximum over its cells, dropout and one linear layer.

    The head of the published VideoMAE detector (not aligned, no dropout) and of SlowFast (aligned,
    dropout 0.5).

    Args:
        in_dim: channels of the feature map.
        scale: cells of the feature map per pixel.
        resolution: cells per side of a region.
        sampling_ratio: samples per cell and side; 0 adapts to the size of the box.
        aligned: shift boxes by half a cell, as RoIAlign's second version does.
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
        from torchvision.ops import RoIAlign  # slow to import, and only detectors need it

        self.roi_align = RoIAlign(resolution, scale, sampling_ratio, aligned)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_dim, num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    @torch.no_grad()
    def init_as_published(self) -> None:
        """Scale the weights to a standard deviation of 2e-5, as VideoMAE-Action-Detection does."""
        self.classifier.weight.mul_(0.001)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_dim: int, scale: float) -> MaxPoolRoIHead:
        """Build the head that MODEL.ROI_HEAD describes. See the class for `in_dim` and `scale`."""
        node = cfg.MODEL.ROI_HEAD
        return cls(
            in_dim,
            num_classes(cfg, "ROI_HEAD"),
            scale,
            resolution=node.RESOLUTION,
            sampling_ratio=node.SAMPLING_RATIO,
            aligned=node.ALIGNED,
            dropout=node.DROPOUT,
        )

    def pool(self, features: torch.Tensor, boxes: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Return the features (R, C) of R boxes on a map (B, C, h, w).

        Args:
            boxes: list of (N_i, 4) xyxy pixels, or (R, 5) with the index of the clip in the first column.
        """
        # Pixels and indices of clips above 256 are not exact in half precision.
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        is_list = not isinstance(boxes, torch.Tensor)
        boxes = [box.to(dtype) for box in boxes] if is_list else boxes.to(dtype)
        regions = self.roi_align(features.to(dtype), boxes)  # (R, C, resolution, resolution)
        return regions.amax(dim=(2, 3))

    def forward(self, features: torch.Tensor, boxes: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """Return logits (R, classes). See `pool` for the arguments."""
        return self.classifier(self.dropout(self.pool(features, boxes)))
