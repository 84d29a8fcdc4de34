"""Blends the heat maps of persons into a frame."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

# Of the color, at the top of a map. It leaves the picture visible.
_OPACITY = 0.7
# Values below this fraction of a person's maximum are not drawn, so that most of the frame keeps its color.
_FLOOR = 0.25
_DARKEST = 90  # index of the color map at the floor; darker colors would hide the picture


def blend_heat_maps(frame: np.ndarray, maps: Sequence[np.ndarray]) -> np.ndarray:
    """Blend heat maps into a frame. Where several overlap, the highest value is drawn.

    Args:
        frame: uint8 RGB (H, W, 3).
        maps: each (h, w) in [0, 1], over the whole frame.

    Returns:
        uint8 RGB (H, W, 3); `frame` itself without values above the floor.
    """
    height, width = frame.shape[:2]
    heat = np.zeros((height, width), dtype=np.float32)
    for values in maps:
        resized = cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        np.maximum(heat, resized, out=heat)
    heat = np.clip((heat - _FLOOR) / (1 - _FLOOR), 0, 1)
    if not heat.any():
        return frame
    index = np.rint(_DARKEST + (255 - _DARKEST) * heat).astype(np.uint8)
    color = cv2.applyColorMap(index, cv2.COLORMAP_INFERNO)[..., ::-1]
    opacity = _OPACITY * np.sqrt(heat[..., None])
    return np.rint(frame * (1 - opacity) + color * opacity).astype(np.uint8)
