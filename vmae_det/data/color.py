"""Color operations on clips, by lookup tables and OpenCV. Frames are uint8 RGB (T, H, W, 3), contiguous.

Formulas and rounding are those of Pillow, by which RandAugment and color jitter are defined. Lookup tables
return identical bytes; blends differ by at most 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

_LUMA = np.array([19595, 38470, 7471]) / 65536  # ITU-R BT.601 in Pillow's fixed-point fractions
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
_ROUND_DOWN = -0.5 + 1 / 1024  # OpenCV rounds to nearest
_BYTES = np.arange(256)


def apply_tables(frames: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Replace every byte by its entry in a lookup table.

    Args:
        frames: uint8 (T, H, W, 3).
        tables: uint8 (256,) for the clip, (T, 256) for each frame, or (T, 256, 3) for each channel of each
            frame.
    """
    out = np.empty_like(frames)
    if tables.ndim == 1:
        cv2.LUT(_flat_rows(frames), tables, _flat_rows(out))
    for frame, table, target in zip(frames, tables, out) if tables.ndim > 1 else ():
        if table.ndim == 1:
            cv2.LUT(_flat_rows(frame), table, _flat_rows(target))
        else:
            cv2.LUT(frame, table[None], target)
    return out


def _flat_rows(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(-1, frames.shape[-2] * 3)


def adjust_brightness(frames: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance from black. A factor of 1 is the identity."""
    return _blend(frames, [0.0] * len(frames), factor)


def adjust_contrast(frames: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance from the mean gray of each frame. A factor of 1 is the identity."""
    means = [int(np.dot(_LUMA, cv2.mean(frame)[:3]) + 0.5) for frame in frames]
    return _blend(frames, means, factor)


def _blend(frames: np.ndarray, origins: Sequence[float], factor: float) -> np.ndarray:
    """Return origin + factor x (byte - origin), with one origin per frame."""
    out = np.empty_like(frames)
    for frame, origin, target in zip(frames, origins, out):
        cv2.addWeighted(frame, factor, frame, 0, (1 - factor) * origin + _ROUND_DOWN, target)
    return out


def adjust_saturation(frames: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance from the gray value of each pixel. A factor of 1 is the identity."""
    to_gray = np.broadcast_to(_LUMA, (3, 3))
    matrix = np.empty((3, 4))
    matrix[:, :3] = factor * np.eye(3) + (1 - factor) * to_gray
    matrix[:, 3] = _ROUND_DOWN
    return _map_frames(frames, lambda frame, out: cv2.transform(frame, matrix.astype(np.float32), out))


def shift_hsv(frames: np.ndarray, hue: int, saturation: int, value: int) -> np.ndarray:
    """Shift hue in steps of 2 degrees (circular), saturation and value in steps of 1/255 (clipped)."""
    tables = np.stack(
        [(_BYTES + hue) % 180, (_BYTES + saturation).clip(0, 255), (_BYTES + value).clip(0, 255)], axis=-1
    ).astype(np.uint8)
    hsv = _map_frames(frames, lambda frame, out: cv2.cvtColor(frame, cv2.COLOR_RGB2HSV, out))
    hsv = apply_tables(hsv, np.broadcast_to(tables, (len(frames), *tables.shape)))
    return _map_frames(hsv, lambda frame, out: cv2.cvtColor(frame, cv2.COLOR_HSV2RGB, out))


def adjust_sharpness(frames: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance from the smoothed frame. A factor of 1 is the identity. Border pixels are kept."""
    kernel = (1 - factor) * _SMOOTH
    kernel[1, 1] += factor
    out = _map_frames(frames, lambda frame, out: cv2.filter2D(frame, -1, kernel, out, delta=_ROUND_DOWN))
    for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        out[edge] = frames[edge]
    return out


def blur(frames: np.ndarray, radius: float) -> np.ndarray:
    """Blur with a Gaussian whose standard deviation is `radius` pixels."""
    return _map_frames(frames, lambda frame, out: cv2.GaussianBlur(frame, (0, 0), radius, out))


def solarize(frames: np.ndarray, threshold: int) -> np.ndarray:
    """Invert all bytes that are not below the threshold."""
    table = np.where(threshold > _BYTES, _BYTES, 255 - _BYTES)
    return apply_tables(frames, table.astype(np.uint8))


def stretch_contrast(frames: np.ndarray) -> np.ndarray:
    """Stretch each channel of each frame to 0..255."""
    occurs = _histograms(frames) > 0
    low, high = occurs.argmax(1, keepdims=True), 255 - occurs[:, ::-1].argmax(1, keepdims=True)
    scale = 255.0 / np.maximum(high - low, 1)
    tables = (_BYTES[:, None] * scale - low * scale).clip(0, 255).astype(np.uint8)
    return apply_tables(frames, np.where(high > low, tables, _BYTES[:, None]).astype(np.uint8))


def equalize(frames: np.ndarray) -> np.ndarray:
    """Equalize the histogram of each channel of each frame."""
    counts = _histograms(frames)
    last = np.take_along_axis(counts, 255 - (counts[:, ::-1] > 0).argmax(1, keepdims=True), 1)
    step = (counts.sum(1, keepdims=True) - last) // 255
    before = counts.cumsum(1) - counts
    tables = (before + step // 2) // np.maximum(step, 1)
    return apply_tables(frames, np.where(step > 0, tables, _BYTES[:, None]).clip(0, 255).astype(np.uint8))


def _histograms(frames: np.ndarray) -> np.ndarray:
    """Count the bytes of each channel, int64 (T, 256, 3)."""
    counts = [[cv2.calcHist([f], [c], None, [256], [0, 256]).ravel() for c in range(3)] for f in frames]
    return np.array(counts).astype(np.int64).transpose(0, 2, 1)


def _map_frames(frames: np.ndarray, operation: Callable[[np.ndarray, np.ndarray], Any]) -> np.ndarray:
    """Apply operation(frame, out) to each frame."""
    out = np.empty_like(frames)
    for frame, target in zip(frames, out):
        operation(frame, target)
    return out
