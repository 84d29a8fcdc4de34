"""Person boxes in a clip: jitter for training, scaling for testing, clipping to the frame."""

from __future__ import annotations

import torch

from vmae_det.modeling.seeded_random import uniform

# Limits of the random shift of x1, y1, x2, y2, as fractions of the box's width or height.
JITTER_LOW = (-0.2, -0.1, -0.1, -0.05)
JITTER_HIGH = (0.1, 0.05, 0.2, 0.1)


def jitter_boxes(
    boxes: list[torch.Tensor], seeds: torch.Tensor, height: int, width: int
) -> list[torch.Tensor]:
    """Shift the edges of training boxes at random and clip the boxes to the frame.

    Args:
        boxes: list of (N_i, 4) xyxy pixels, one tensor per clip.
        seeds: (B,), the seed of each clip.
        height, width: of the clips in pixels.
    """
    jittered = []
    for box, seed in zip(boxes, seeds):
        low, high = box.new_tensor(JITTER_LOW), box.new_tensor(JITTER_HIGH)
        shift = low + (high - low) * uniform(seed[None], box.numel()).view(-1, 4).to(box.dtype)
        size = (box[:, 2:] - box[:, :2]).repeat(1, 2)  # (N_i, 4): w, h, w, h
        jittered.append(clip_boxes(box + shift * size, height, width))
    return jittered


def scale_boxes(boxes: torch.Tensor, factors: tuple[float, float], sizes: torch.Tensor) -> torch.Tensor:
    """Scale boxes (N, 4) xyxy pixels about their centers and clip them to their frames.

    Args:
        factors: for width and height.
        sizes: (N, 2) or (2,), width and height of the frame without padding.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * boxes.new_tensor(factors)
    corners = [corner.clamp(min=0).minimum(sizes.to(boxes)) for corner in (center - half, center + half)]
    return torch.cat(corners, dim=1)


def clip_boxes(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Clip boxes (N, 4) xyxy pixels to a frame."""
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x, y], dim=2).flatten(1)
