"""Colors, and flat shapes drawn with subpixel positions and outlines."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Color = tuple[int, int, int]

SKINS: tuple[Color, ...] = ((255, 219, 186), (241, 194, 150), (224, 172, 120), (160, 105, 65), (96, 60, 40))

_SUBPIXEL_BITS = 4
_MIN_CONTRAST = 110.0  # Euclidean RGB distance between a foreground and a background color


@dataclass(frozen=True)
class Stroke:
    """A thick line with round ends, in pixels. Persons consist of strokes."""

    start: tuple[float, float]
    end: tuple[float, float]
    width: float
    color: Color


@dataclass(frozen=True)
class Polygon:
    """A flat convex object, as corners (N, 2) in pixels."""

    corners: np.ndarray
    color: Color


@dataclass(frozen=True)
class Outline:
    """A flat object of any form, as corners (N, 2) in pixels."""

    corners: np.ndarray
    color: Color


Shape = Stroke | Polygon | Outline


def contrasting_color(
    rng: np.random.Generator,
    background: list[Color],
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> Color:
    """Return the first of 16 random colors with enough contrast, or the one with the most."""

    def contrast(color: Color) -> float:
        return min(float(np.linalg.norm(np.subtract(color, other))) for other in background)

    candidates = []
    for _ in range(16):
        rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
        candidates.append(tuple(round(255 * channel) for channel in rgb))
    return next((c for c in candidates if contrast(c) >= _MIN_CONTRAST), max(candidates, key=contrast))


def shaded(color: Color, tone: float) -> Color:
    """Return the color, multiplied by `tone`."""
    return tuple(min(round(channel * tone), 255) for channel in color)


def draw_shapes(image: np.ndarray, shapes: Sequence[Shape]) -> None:
    """Draw `shapes` with thin dark outlines onto `image`, uint8 RGB (H, W, 3), in place."""
    for shape in shapes:
        outline = shaded(shape.color, 0.45)
        if isinstance(shape, Stroke):
            _draw_line(image, shape, shape.width + 2.5, outline, cv2.LINE_AA)
            _draw_line(image, shape, shape.width, shape.color, cv2.LINE_AA)
        else:
            corners = np.round(shape.corners * (1 << _SUBPIXEL_BITS)).astype(np.int32)
            if isinstance(shape, Polygon):
                cv2.fillConvexPoly(image, corners, shape.color, cv2.LINE_AA, _SUBPIXEL_BITS)
            else:
                cv2.fillPoly(image, [corners], shape.color, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.polylines(image, [corners], True, outline, 2, cv2.LINE_AA, _SUBPIXEL_BITS)


def draw_silhouette(mask: np.ndarray, shapes: Sequence[Shape], value: int) -> None:
    """Set the pixels of `mask` (H, W) covered by a person's body to `value`, in place."""
    for shape in shapes:
        if isinstance(shape, Stroke):
            _draw_line(mask, shape, shape.width + 1.0, value, cv2.LINE_8)


def _draw_line(image: np.ndarray, stroke: Stroke, width: float, color: Color | int, line_type: int) -> None:
    scale = 1 << _SUBPIXEL_BITS
    start = (round(stroke.start[0] * scale), round(stroke.start[1] * scale))
    end = (round(stroke.end[0] * scale), round(stroke.end[1] * scale))
    cv2.line(image, start, end, color, max(round(width), 1), line_type, _SUBPIXEL_BITS)
