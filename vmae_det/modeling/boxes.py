"""Person boxes in a batch of clips: jitter for training, scaling for testing, clipping to the frame.

Nothing here waits for a GPU. The numbers of boxes are known on the CPU. Constants are arguments of kernels,
because a tensor of Python numbers would be a copy to the GPU that waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vmae_det.modeling.seeded_random import uniform

# Limits of the random shift of x1, y1, x2, y2, as fractions of the box's width or height.
JITTER_LOW = (-0.2, -0.1, -0.1, -0.05)
JITTER_HIGH = (0.1, 0.05, 0.2, 0.1)
_JITTER_RANGE = [float(np.float32(high) - np.float32(low)) for low, high in zip(JITTER_LOW, JITTER_HIGH)]


def clip_indices(boxes: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the index of the clip of each box: int64 (R,), on the device of the boxes.

    Args:
        boxes: list of (N_i, 4), one tensor per clip.
    """
    return torch.cat([box.new_full((len(box),), clip, dtype=torch.int64) for clip, box in enumerate(boxes)])


def to_rois(boxes: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Return boxes (R, 4) with the index of their clip, `clips` (R,), in the first column: (R, 5)."""
    return torch.cat([clips[:, None].to(boxes.dtype), boxes], dim=1)


def jitter_boxes(
    boxes: torch.Tensor, clips: torch.Tensor, seeds: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Shift the edges of training boxes at random and clip the boxes to the frame: (R, 4).

    The shifts of a box depend on the seed of its clip and on its row among the boxes of that clip.

    Args:
        boxes: (R, 4) xyxy pixels.
        clips: (R,), the index of the clip of each box, ascending.
        seeds: (B,), the seed of each clip.
        height, width: of the clips in pixels.
    """
    row = torch.arange(len(clips), device=clips.device) - torch.searchsorted(clips, clips)
    numbers = uniform(seeds[clips], 4, first=4 * row).to(boxes.dtype)
    shift = [low + scale * u for low, scale, u in zip(JITTER_LOW, _JITTER_RANGE, numbers.unbind(1))]
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)  # (R, 4): w, h, w, h
    return clip_boxes(boxes + torch.stack(shift, dim=1) * size, height, width)


def scale_boxes(boxes: torch.Tensor, factors: tuple[float, float], sizes: torch.Tensor) -> torch.Tensor:
    """Scale boxes (N, 4) xyxy pixels about their centers and clip them to their frames.

    Args:
        factors: for width and height.
        sizes: (N, 2) or (2,), width and height of the frame without padding.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    half = torch.stack([side * factor for side, factor in zip(half.unbind(1), factors)], dim=1)
    corners = [corner.clamp(min=0).minimum(sizes.to(boxes)) for corner in (center - half, center + half)]
    return torch.cat(corners, dim=1)


def clip_boxes(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Clip boxes (N, 4) xyxy pixels to a frame."""
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x, y], dim=2).flatten(1)
