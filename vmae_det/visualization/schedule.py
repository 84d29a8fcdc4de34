"""Draws a learning rate schedule as a picture and as lines of text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from vmae_det.rendering.fonts import load_font

_PAPER, _INK, _GRID, _CURVE = (255, 255, 255), (60, 60, 60), (225, 225, 225), (31, 119, 180)
_FONT_SIZE = 15
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 24, 40, 52  # margins in pixels
_TICKS = 5


def sample_schedule(schedule: Callable[[float], float], points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `points` evenly spaced values of progress in [0, 1), and the learning rate at each."""
    progress = np.linspace(0, 1, points, endpoint=False)
    return progress, np.array([schedule(float(value)) for value in progress])


def draw_schedule(
    schedule: Callable[[float], float], epochs: int, title: str, size: tuple[int, int] = (800, 400)
) -> np.ndarray:
    """Draw a line chart of the learning rate by epoch.

    Args:
        schedule: function from progress in [0, 1) to learning rate.
        epochs: number of epochs of the run.
        title: title of the chart.
        size: width and height in pixels.

    Returns:
        uint8 RGB (height, width, 3).
    """
    width, height = size
    inner_width, inner_height = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    progress, rates = sample_schedule(schedule, 2 * inner_width)
    top = float(rates.max()) or 1.0
    font = load_font(_FONT_SIZE)
    picture = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((width // 2, _TOP // 2), title, fill=_INK, font=font, anchor="mm")
    for tick in np.linspace(0, 1, _TICKS):
        y = _TOP + round((1 - tick) * inner_height)
        pen.line([(_LEFT, y), (width - _RIGHT, y)], fill=_GRID)
        pen.text((_LEFT - 8, y), f"{tick * top:.2e}", fill=_INK, font=font, anchor="rm")
        x = _LEFT + round(tick * inner_width)
        pen.line([(x, _TOP), (x, height - _BOTTOM)], fill=_GRID)
        pen.text((x, height - _BOTTOM + 8), f"{tick * epochs:g}", fill=_INK, font=font, anchor="mt")
    pen.text((_LEFT + inner_width // 2, height - 6), "epoch", fill=_INK, font=font, anchor="ms")
    points = np.stack([_LEFT + progress * inner_width, _TOP + (1 - rates / top) * inner_height], axis=1)
    pen.line([tuple(point) for point in points.tolist()], fill=_CURVE, width=3, joint="curve")
    return np.array(picture)


def schedule_as_text(
    schedule: Callable[[float], float], epochs: int, width: int = 60, height: int = 8
) -> list[str]:
    """Draw the same chart with characters.

    Returns:
        `height` lines of the curve, of which the first is the peak, the axis, and a line with the epochs.
    """
    _, rates = sample_schedule(schedule, width)
    top = float(rates.max()) or 1.0
    rows = np.round((1 - rates / top) * (height - 1)).astype(int)
    lines = []
    for row in range(height):
        label = f"{top * (1 - row / (height - 1)):9.2e}" if row in (0, height - 1) else " " * 9
        lines.append(f"{label} |{''.join('*' if point == row else ' ' for point in rows)}".rstrip())
    end = f"epoch {epochs}"
    return [*lines, " " * 10 + "+" + "-" * width, " " * 11 + "0" + end.rjust(width - 1)]
