"""Colours of whole clips: bytes by tables, blends by OpenCV. Frames are uint8 RGB (T, H, W, 3), contiguous.

Formulas and rounding are Pillow's, which RandAugment and colour jitter are defined by: tables give the same
bytes, blends differ from them by 1 at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

_GREY = np.array([19595, 38470, 7471]) / 65536  # ITU-R BT.601's luma, in Pillow's fractions
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
_ROUND_DOWN = -0.5 + 1 / 1024  # OpenCV rounds to the nearest
_BYTES = np.arange(256)


def apply_tables(frames: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Replace every byte by its entry in a table, uint8.

    Args:
        tables: (256,) of the clip; (T, 256), one for each frame; or (T, 256, 3), one for each channel, too.
    """
    out = np.empty_like(frames)
    if tables.ndim == 1:
        cv2.LUT(_rows(frames), tables, _rows(out))
    for frame, table, target in zip(frames, tables, out) if tables.ndim > 1 else ():
        if table.ndim == 1:
            cv2.LUT(_rows(frame), table, _rows(target))
        else:
            cv2.LUT(frame, table[None], target)
    return out


def _rows(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(-1, frames.shape[-2] * 3)


def adjust_brightness(frames: np.ndarray, factor: float) -> np.ndarray:
    """Away from black; a factor of 1 changes nothing."""
    return _blend(frames, [0.0] * len(frames), factor)


def adjust_contrast(frames: np.ndarray, factor: float) -> np.ndarray:
    """Away from the mean grey of each frame; a factor of 1 changes nothing."""
    means = [int(np.dot(_GREY, cv2.mean(frame)[:3]) + 0.5) for frame in frames]
    return _blend(frames, means, factor)


def _blend(frames: np.ndarray, starts: Sequence[float], factor: float) -> np.ndarray:
    """start + factor x (byte - start), with a start for each frame."""
    out = np.empty_like(frames)
    for frame, start, target in zip(frames, starts, out):
        cv2.addWeighted(frame, factor, frame, 0, (1 - factor) * start + _ROUND_DOWN, target)
    return out


def adjust_saturation(frames: np.ndarray, factor: float) -> np.ndarray:
    """Away from the grey of each pixel; a factor of 1 changes nothing."""
    to_grey = np.broadcast_to(_GREY, (3, 3))
    matrix = np.empty((3, 4))
    matrix[:, :3] = factor * np.eye(3) + (1 - factor) * to_grey
    matrix[:, 3] = _ROUND_DOWN
    return _each(frames, lambda frame, out: cv2.transform(frame, matrix.astype(np.float32), out))


def shift_hsv(frames: np.ndarray, hue: int, saturation: int, value: int) -> np.ndarray:
    """Hue moved around the circle by steps of 2 degrees, saturation and value by steps of 1/255 up to their
    limits."""
    tables = np.stack(
        [(_BYTES + hue) % 180, (_BYTES + saturation).clip(0, 255), (_BYTES + value).clip(0, 255)], axis=-1
    ).astype(np.uint8)
    hsv = _each(frames, lambda frame, out: cv2.cvtColor(frame, cv2.COLOR_RGB2HSV, out))
    hsv = apply_tables(hsv, np.broadcast_to(tables, (len(frames), *tables.shape)))
    return _each(hsv, lambda frame, out: cv2.cvtColor(frame, cv2.COLOR_HSV2RGB, out))


def adjust_sharpness(frames: np.ndarray, factor: float) -> np.ndarray:
    """Away from the smoothed frame; a factor of 1 changes nothing, and the outermost pixels stay."""
    kernel = (1 - factor) * _SMOOTH
    kernel[1, 1] += factor
    out = _each(frames, lambda frame, out: cv2.filter2D(frame, -1, kernel, out, delta=_ROUND_DOWN))
    for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        out[edge] = frames[edge]
    return out


def blur(frames: np.ndarray, radius: float) -> np.ndarray:
    """By a Gaussian of that standard deviation, in pixels."""
    return _each(frames, lambda frame, out: cv2.GaussianBlur(frame, (0, 0), radius, out))


def stretch_contrast(frames: np.ndarray) -> np.ndarray:
    """Each channel of each frame from 0 to 255."""
    counts = _counts(frames) > 0
    low, high = counts.argmax(1, keepdims=True), 255 - counts[:, ::-1].argmax(1, keepdims=True)
    scale = 255.0 / np.maximum(high - low, 1)
    tables = (_BYTES[:, None] * scale - low * scale).clip(0, 255).astype(np.uint8)
    return apply_tables(frames, np.where(high > low, tables, _BYTES[:, None]).astype(np.uint8))


def equalize(frames: np.ndarray) -> np.ndarray:
    """Each channel of each frame with its bytes as evenly spread as a table can."""
    counts = _counts(frames)
    last = np.take_along_axis(counts, 255 - (counts[:, ::-1] > 0).argmax(1, keepdims=True), 1)
    step = (counts.sum(1, keepdims=True) - last) // 255
    before = counts.cumsum(1) - counts
    tables = (before + step // 2) // np.maximum(step, 1)
    return apply_tables(frames, np.where(step > 0, tables, _BYTES[:, None]).clip(0, 255).astype(np.uint8))


def _counts(frames: np.ndarray) -> np.ndarray:
    """How often each byte occurs, int64 (T, 256, 3)."""
    counts = [[cv2.calcHist([f], [c], None, [256], [0, 256]).ravel() for c in range(3)] for f in frames]
    return np.array(counts).astype(np.int64).transpose(0, 2, 1)


def _each(frames: np.ndarray, change: Callable[[np.ndarray, np.ndarray], Any]) -> np.ndarray:
    out = np.empty_like(frames)
    for frame, target in zip(frames, out):
        change(frame, target)
    return out
