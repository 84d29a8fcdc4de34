"""Draws original, masked and reconstructed frames of a clip, as in the figures of the VideoMAE paper."""

from __future__ import annotations

import numpy as np

from vmae_det.visualization.pictures import clip_frames, draw_rows

MASK_GRAY = 128


def reconstruction_grid(
    video: np.ndarray,
    reconstruction: np.ndarray,
    mask: np.ndarray,
    patch_size: int,
    tubelet_size: int,
    num_columns: int = 6,
) -> np.ndarray:
    """Draw three rows of frames, original, masked and reconstructed, at evenly spaced times.

    Args:
        video: uint8 RGB (3, T, H, W).
        reconstruction: uint8 RGB (3, T, H, W).
        mask: bool (N,), True where masked; tokens ordered (t, h, w), N = T/tubelet * H/patch * W/patch.
        patch_size: in pixels; divides H and W.
        tubelet_size: in frames; divides T.
        num_columns: number of frames to show, at most T.

    Returns:
        uint8 RGB (H', W', 3), white around the frames. Small frames are magnified by an integer factor.
    """
    length = video.shape[1]
    columns = np.unique(np.linspace(0, length - 1, num_columns).round().astype(int))
    rows = {
        "original": video,
        f"masked {mask.mean():.0%}": mask_tokens(video, mask, patch_size, tubelet_size),
        "reconstructed": reconstruction,
    }
    frames = [(caption, clip_frames(clip, columns)) for caption, clip in rows.items()]
    return draw_rows(frames, [f"frame {t}" for t in columns])


def mask_tokens(video: np.ndarray, mask: np.ndarray, patch_size: int, tubelet_size: int) -> np.ndarray:
    """Return a copy of a clip, uint8 (3, T, H, W), with the pixels of masked tokens (N,) in gray."""
    _, length, height, width = video.shape
    grid = np.reshape(mask, (length // tubelet_size, height // patch_size, width // patch_size))
    pixels = (
        grid.repeat(tubelet_size, axis=0).repeat(patch_size, axis=1).repeat(patch_size, axis=2)
    )  # (T, H, W)
    return np.where(pixels, np.uint8(MASK_GRAY), video)
