"""Mixup and cutmix on the device: two clips become one, and so do their labels."""

from __future__ import annotations

import torch


def mix_videos(video: torch.Tensor, mixing: dict[str, torch.Tensor]) -> torch.Tensor:
    """Each clip mixed with its partner.

    Args:
        video: normalised floats (B, 3, T, H, W).
        mixing: `partner` (B,), the clip that each is mixed with; `box` (B, 4), top, bottom, left, right in
            pixels; `weight` (B,), the share of a clip itself inside of the box. Outside it is alone.
    """
    top, bottom, left, right = mixing["box"].T[..., None, None]  # (B, 1, 1) each
    rows = torch.arange(video.shape[-2], device=video.device)[:, None]
    columns = torch.arange(video.shape[-1], device=video.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    share = torch.where(inside, mixing["weight"][:, None, None], 1.0).to(video.dtype)  # (B, H, W)
    share = share[:, None, None]
    return video * share + video[mixing["partner"]] * (1 - share)


def mix_labels(
    label: torch.Tensor,
    mixing: dict[str, torch.Tensor],
    *,
    num_classes: int,
    smoothing: float,
    size: tuple[int, int],
) -> torch.Tensor:
    """Soft labels (B, classes) of the clips that `mix_videos` makes, of labels (B,).

    Both one-hot rows are smoothed, to 1 - smoothing + smoothing / classes and smoothing / classes, then added
    by the shares that their clips have of the frame, of `size` (H, W).
    """
    targets = torch.nn.functional.one_hot(label, num_classes).float()
    targets = targets * (1 - smoothing) + smoothing / num_classes
    top, bottom, left, right = mixing["box"].T  # (B,) each
    area = (bottom - top) * (right - left) / (size[0] * size[1])
    share = (1 - area * (1 - mixing["weight"]))[:, None]
    return targets * share + targets[mixing["partner"]] * (1 - share)
