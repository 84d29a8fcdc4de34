"""Mixup and CutMix of a batch on the device. `data/augmentation.py` draws their parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def mix_videos(video: torch.Tensor, mixing: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mix each clip with its partner.

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
    targets = F.one_hot(label, num_classes).float()
    targets = targets * (1 - smoothing) + smoothing / num_classes
    top, bottom, left, right = mixing["box"].T  # (B,) each
    area = (bottom - top) * (right - left) / (size[0] * size[1])
    weight = (1 - area * (1 - mixing["weight"]))[:, None]
    return targets * weight + targets[mixing["partner"]] * (1 - weight)
