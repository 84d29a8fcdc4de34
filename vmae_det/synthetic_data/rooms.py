"""Backgrounds that several synthetic datasets use: a room with wall, floor and furniture."""

from __future__ import annotations

from math import pi

import cv2
import numpy as np

from vmae_det.synthetic_data.camera import Canvas
from vmae_det.synthetic_data.drawing import Color

_HORIZON = 0.62  # border between wall and floor, in frame heights


def draw_room(rng: np.random.Generator, canvas: Canvas) -> tuple[np.ndarray, Color, Color]:
    """Draw a room with textured wall, floor and furniture; return it and the mean wall and floor colors.

    Returns:
        the room, uint8 RGB of the size `canvas.background_size`, the wall color and the floor color.
    """
    width, height = canvas.background_size
    horizon = round(
        (canvas.margin[1] + canvas.height * rng.uniform(_HORIZON - 0.06, _HORIZON + 0.1)) * canvas.scale
    )
    wall, floor = dull_color(rng), dull_color(rng)
    room = np.empty((height, width, 3), np.float32)
    room[:horizon], room[horizon:] = wall, floor
    rows, columns = np.mgrid[:height, :width].astype(np.float32)

    angle, spacing = rng.uniform(0, pi), rng.uniform(12, 60)
    stripes = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * (2 * pi / spacing))
    room[:horizon] += (stripes * rng.uniform(0, 9))[:horizon, :, None]
    boards = np.sin((columns - width / 2) / np.maximum(rows - horizon + 60, 1) * rng.uniform(20, 60))
    room[horizon:] += (boards * rng.uniform(2, 9))[horizon:, :, None]

    for _ in range(rng.integers(2, 5)):  # pictures and windows
        _draw_block(
            room,
            rng,
            wall,
            bottom=horizon - rng.uniform(20, 110),
            size=(rng.uniform(24, 90), rng.uniform(20, 80)),
        )
    for _ in range(rng.integers(1, 4)):  # cabinets and tables in front of the wall
        _draw_block(
            room,
            rng,
            wall,
            bottom=horizon + rng.uniform(4, 26),
            size=(rng.uniform(40, 120), rng.uniform(40, 130)),
        )
    add_texture(room, rng)
    return np.clip(room, 0, 255).astype(np.uint8), as_color(wall), as_color(floor)


def add_texture(image: np.ndarray, rng: np.random.Generator) -> None:
    """Add coarse and fine random spots to an image, float32 (H, W, 3), in place."""
    height, width = image.shape[:2]
    for cells, strength in ((6, 9.0), (24, 3.0), (96, 1.5)):
        noise = rng.standard_normal((cells, cells, 1)) + 0.4 * rng.standard_normal((cells, cells, 3))
        image += cv2.resize(
            noise.astype(np.float32) * strength, (width, height), interpolation=cv2.INTER_CUBIC
        )


def _draw_block(
    room: np.ndarray, rng: np.random.Generator, base: np.ndarray, bottom: float, size: tuple[float, float]
) -> None:
    """Draw a rectangle or an ellipse with a darker rim, in a color close to `base`."""
    left = rng.uniform(0, room.shape[1] - size[0])
    color = tuple(float(channel) for channel in base + rng.uniform(-38, 38, size=3))
    rim = tuple(channel * 0.6 for channel in color)
    corner, opposite = (round(left), round(bottom - size[1])), (round(left + size[0]), round(bottom))
    if rng.random() < 0.8:
        cv2.rectangle(room, corner, opposite, color, cv2.FILLED)
        cv2.rectangle(room, corner, opposite, rim, 3)
    else:
        middle = ((corner[0] + opposite[0]) // 2, (corner[1] + opposite[1]) // 2)
        axes = (round(size[0] / 2), round(size[1] / 2))
        cv2.ellipse(room, middle, axes, 0, 0, 360, color, cv2.FILLED)
        cv2.ellipse(room, middle, axes, 0, 0, 360, rim, 3)


def dull_color(rng: np.random.Generator) -> np.ndarray:
    """Return a random color of low saturation and medium brightness, float32 (3,)."""
    gray = rng.uniform(80, 175)
    return (gray + rng.uniform(-22, 22, size=3)).astype(np.float32)


def as_color(values: np.ndarray) -> Color:
    """Return a color as integers."""
    return tuple(round(float(value)) for value in values)
