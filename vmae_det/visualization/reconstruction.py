"""The picture of pre-training: frames of a clip, what the encoder saw and what the decoder made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vmae_det.utils.output_files import atomic_write
from vmae_det.visualization.frame_rows import draw_rows, frames_of, stack

MASK_GREY = 128
_COMPRESSION = (cv2.IMWRITE_PNG_COMPRESSION, 6)  # for pictures with flat areas a third of the default's size


def reconstruction_grid(
    video: np.ndarray,
    reconstruction: np.ndarray,
    mask: np.ndarray,
    patch_size: int,
    tubelet_size: int,
    num_columns: int = 6,
) -> np.ndarray:
    """Three rows of frames, original, masked and reconstructed, at times spread evenly over the clip.

    Args:
        video: uint8 RGB (3, T, H, W).
        reconstruction: uint8 RGB (3, T, H, W).
        mask: bool (N,), True where masked; tokens ordered (t, h, w), N = T/tubelet * H/patch * W/patch.
        patch_size: pixels; divides H and W.
        tubelet_size: frames; divides T.
        num_columns: frames shown, at most T.

    Returns:
        uint8 RGB (H', W', 3), white around the frames; small frames are magnified by a whole number.
    """
    length = video.shape[1]
    columns = np.unique(np.linspace(0, length - 1, num_columns).round().astype(int))
    rows = {
        "original": video,
        f"masked {mask.mean():.0%}": mask_cubes(video, mask, patch_size, tubelet_size),
        "reconstructed": reconstruction,
    }
    frames = [(caption, frames_of(clip, columns)) for caption, clip in rows.items()]
    return draw_rows(frames, [f"frame {t}" for t in columns])


def mask_cubes(video: np.ndarray, mask: np.ndarray, patch_size: int, tubelet_size: int) -> np.ndarray:
    """A copy of a clip, uint8 (3, T, H, W), with the masked cubes of (N,) tokens in grey."""
    _, length, height, width = video.shape
    cubes = np.reshape(mask, (length // tubelet_size, height // patch_size, width // patch_size))
    pixels = (
        cubes.repeat(tubelet_size, axis=0).repeat(patch_size, axis=1).repeat(patch_size, axis=2)
    )  # (T, H, W)
    return np.where(pixels, np.uint8(MASK_GREY), video)


def write_png(path: str | Path, image: np.ndarray | Sequence[np.ndarray]) -> None:
    """Write a PNG file, whole or not at all; its folder is made if needed.

    Args:
        path: the file.
        image: uint8 RGB (H, W, 3), or several, which are put one under the other.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    image = image if isinstance(image, np.ndarray) else stack(image)
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _COMPRESSION)
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
