"""Video classification: mean over tokens, LayerNorm, linear head; Mixup and CutMix of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.config.checks import num_classes
from vmae_det.modeling.backbones.base import mean_token
from vmae_det.modeling.backbones.blocks import LAYER_NORM_EPS
from vmae_det.modeling.build import META_ARCHITECTURE_REGISTRY, build_backbone
from vmae_det.modeling.normalization import PixelNormalization

HEAD_INIT_SCALE = 0.001


@META_ARCHITECTURE_REGISTRY.register()
class VideoClassifier(nn.Module):
    """A backbone without final norm, and a linear head on the normalized mean of its tokens.

    Args:
        linear_probe: freeze the backbone and keep it in evaluation mode, so that only `fc_norm` and `head`
            are trained.
    """

    task = "classification"

    def __init__(
        self,
        backbone: nn.Module,
        normalization: PixelNormalization,
        *,
        num_classes: int,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        linear_probe: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalization = normalization
        self.label_smoothing = label_smoothing
        self.linear_probe = linear_probe
        self.fc_norm = nn.LayerNorm(backbone.embed_dim, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.head.weight.data.mul_(HEAD_INIT_SCALE)
        self.register_buffer("class_weights", None, persistent=False)
        if linear_probe:
            backbone.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> VideoClassifier:
        """Build the classifier that MODEL describes."""
        node = cfg.MODEL.CLASSIFIER
        return cls(
            build_backbone(cfg, final_norm=False),
            PixelNormalization(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
            num_classes=num_classes(cfg, "CLASSIFIER"),
            dropout=node.DROPOUT,
            label_smoothing=node.LABEL_SMOOTHING,
            linear_probe=node.LINEAR_PROBE,
        )

    def set_class_weights(self, weights: torch.Tensor) -> None:
        """Set the factor of each class (classes,) in the loss: of its term in the cross-entropy of a clip."""
        self.class_weights = weights.float()

    def train(self, mode: bool = True) -> VideoClassifier:
        """Set the training mode. A frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.linear_probe:
            self.backbone.eval()
        return self

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Return the loss while training, else the scores.

        Args:
            batch: `video` uint8 (B, 3, T, H, W). For training also `label` (B,), and optionally `mixing`, the
                parameters of Mixup and CutMix (see `mix_videos`).

        Returns:
            {"loss": scalar} while training, else {"scores": (B, classes)}, which sum to 1.
        """
        video = self.normalization(batch["video"])  # float (B, 3, T, H, W)
        if self.training and "mixing" in batch:
            video = mix_videos(video, batch["mixing"])
        logits = self.logits(video).float()  # (B, classes)
        if not self.training:
            return {"scores": logits.softmax(dim=1)}
        label, classes, smoothing = batch["label"], logits.shape[1], self.label_smoothing
        if "mixing" in batch:
            targets = mix_labels(
                label, batch["mixing"], num_classes=classes, smoothing=smoothing, size=video.shape[-2:]
            )
        elif self.class_weights is not None:
            # Soft labels, because with class indices torch divides by the sum of the weights of the batch.
            targets = smooth_labels(label, classes, smoothing)
        else:
            return {"loss": F.cross_entropy(logits, label, label_smoothing=smoothing)}
        return {"loss": F.cross_entropy(logits, targets, weight=self.class_weights)}

    def logits(self, video: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, classes) of a normalized float video (B, 3, T, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.linear_probe):
            token = mean_token(self.backbone, video)  # (B, C)
        return self.head(self.dropout(self.fc_norm(token)))


# ---------------------------------------------------------------- Mixup and CutMix


def mix_videos(video: torch.Tensor, mixing: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mix each clip with its partner. `data/mixup.py` draws the parameters.

    Args:
        video: normalized floats (B, 3, T, H, W).
        mixing: `partner` (B,), the index of the clip to mix with; `box` (B, 4), top, bottom, left, right in
            pixels, the region to mix; `weight` (B,), the weight of the clip itself in that region.
    """
    top, bottom, left, right = mixing["box"].T[..., None, None]  # (B, 1, 1) each
    rows = torch.arange(video.shape[-2], device=video.device)[:, None]
    columns = torch.arange(video.shape[-1], device=video.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)  # (B, H, W)
    weight = torch.where(inside, mixing["weight"][:, None, None], 1.0).to(video.dtype)
    weight = weight[:, None, None]  # (B, 1, 1, H, W)
    return video * weight + video[mixing["partner"]] * (1 - weight)


def smooth_labels(label: torch.Tensor, num_classes: int, smoothing: float) -> torch.Tensor:
    """Return the smoothed one-hot labels (B, classes) of class indices (B,)."""
    return F.one_hot(label, num_classes).float() * (1 - smoothing) + smoothing / num_classes


def mix_labels(
    label: torch.Tensor,
    mixing: dict[str, torch.Tensor],
    *,
    num_classes: int,
    smoothing: float,
    size: tuple[int, int],
) -> torch.Tensor:
    """Return the soft labels (B, classes) of the clips that `mix_videos` returns.

    One-hot labels are smoothed to 1 - smoothing + smoothing / classes and smoothing / classes. The labels of
    a clip and its partner are then weighted by the fraction of the frame that each fills.

    Args:
        label: class indices (B,).
        mixing: see `mix_videos`.
        size: height and width of the clips.
    """
    targets = smooth_labels(label, num_classes, smoothing)
    top, bottom, left, right = mixing["box"].T  # (B,) each
    area = (bottom - top) * (right - left) / (size[0] * size[1])
    weight = (1 - area * (1 - mixing["weight"]))[:, None]
    return targets * weight + targets[mixing["partner"]] * (1 - weight)
