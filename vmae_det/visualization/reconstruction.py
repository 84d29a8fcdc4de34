"""The picture of pre-training: frames of a clip, what the encoder saw and what the decoder made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vmae_det.utils.errors import UserError
from vmae_det.utils.files import write_whole
from vmae_det.visualization.fonts import load_font

MASK_GREY = 128
_CELL = 144  # pixels that the longer side of a frame has at least; smaller frames are magnified
_GAP = 4
_FONT_SIZE = 15
_PAPER, _INK = 255, (60, 60, 60)


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
    _, length, height, width = video.shape
    columns = np.unique(np.linspace(0, length - 1, num_columns).round().astype(int))
    rows = {
        "original": video,
        f"masked {mask.mean():.0%}": mask_cubes(video, mask, patch_size, tubelet_size),
        "reconstructed": reconstruction,
    }
    factor = max(1, -(-_CELL // max(height, width)))
    cell_height, cell_width = factor * height, factor * width

    font = load_font(_FONT_SIZE)
    left = 3 * _GAP + round(max(font.getlength(caption) for caption in rows))
    top = 2 * _GAP + _FONT_SIZE
    size = (left + len(columns) * (cell_width + _GAP), top + len(rows) * (cell_height + _GAP))
    picture = Image.new("RGB", size, (_PAPER,) * 3)
    pen = ImageDraw.Draw(picture)
    for i, (caption, clip) in enumerate(rows.items()):
        y = top + i * (cell_height + _GAP)
        pen.text((left - 2 * _GAP, y + cell_height // 2), caption, fill=_INK, font=font, anchor="rm")
        for j, t in enumerate(columns):
            x = left + j * (cell_width + _GAP)
            frame = np.ascontiguousarray(clip[:, t].transpose(1, 2, 0))  # (H, W, 3)
            frame = cv2.resize(frame, (cell_width, cell_height), interpolation=cv2.INTER_NEAREST)
            picture.paste(Image.fromarray(frame), (x, y))
            if i == 0:
                label = f"frame {t}"
                pen.text((x + cell_width // 2, top - _GAP), label, fill=_INK, font=font, anchor="ms")
    return np.array(picture)


def mask_cubes(video: np.ndarray, mask: np.ndarray, patch_size: int, tubelet_size: int) -> np.ndarray:
    """A copy of a clip, uint8 (3, T, H, W), with the masked cubes of (N,) tokens in grey."""
    _, length, height, width = video.shape
    cubes = np.reshape(mask, (length // tubelet_size, height // patch_size, width // patch_size))
    pixels = (
        cubes.repeat(tubelet_size, axis=0).repeat(patch_size, axis=1).repeat(patch_size, axis=2)
    )  # (T, H, W)
    return np.where(pixels, np.uint8(MASK_GREY), video)


def _stack(grids: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures, uint8 RGB (H, W, 3) each, one under the other, left aligned."""
    width = max(grid.shape[1] for grid in grids)
    white = (_PAPER,) * 3
    padded = [
        cv2.copyMakeBorder(
            grid, 0, 4 * _GAP, 0, width - grid.shape[1], borderType=cv2.BORDER_CONSTANT, value=white
        )
        for grid in grids
    ]
    return np.vstack(padded)


def write_png(path: str | Path, image: np.ndarray | Sequence[np.ndarray]) -> None:
    """Write a PNG file, whole or not at all; its folder is made if needed.

    Args:
        path: the file.
        image: uint8 RGB (H, W, 3), or several, which are put one under the other.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    image = image if isinstance(image, np.ndarray) else _stack(image)
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    try:
        with write_whole(path) as temporary:
            temporary.write_bytes(encoded.tobytes())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "check that the folder may be written to and that the disk has room"
        ) from error
