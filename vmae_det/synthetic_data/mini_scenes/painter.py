"""Painting of MiniScenes' places: a textured background, and elements that move in front of it.

Lengths are in pixels of the unmoved camera, with y down.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vmae_det.synthetic_data.camera import Canvas
from vmae_det.synthetic_data.drawing import Color, Outline, Polygon, Shape, Stroke, draw_shapes, shaded
from vmae_det.synthetic_data.rooms import add_texture

WIDTH, HEIGHT = 128, 96
CANVAS = Canvas(WIDTH, HEIGHT, margin=(28, 24))
LEFT, RIGHT, TOP, BOTTOM = -28.0, WIDTH + 28.0, -24.0, HEIGHT + 24.0  # of the background

WHITE: Color = (240, 240, 236)
DARK: Color = (38, 36, 42)
WOOD: Color = (140, 95, 58)
GREEN: Color = (62, 122, 52)


@dataclass(frozen=True)
class Element:
    """Something that moves.

    Args:
        y: of its bottom. Elements and people lower in the frame occlude the others.
        shapes: its shapes at a time in seconds.
        glow: whether it brightens what is behind it, as light does.
    """

    y: float
    shapes: Callable[[float], list[Shape]]
    glow: bool = False


def transformed(shape: Shape, view: np.ndarray) -> Shape:
    """Return a shape in pixels of the frame, for a view of `Canvas.view`."""
    if isinstance(shape, Stroke):
        start, end = np.array([shape.start, shape.end]) @ view[:, :2].T + view[:, 2]
        return Stroke(tuple(start), tuple(end), shape.width * view[0, 0], shape.color)
    return replace(shape, corners=shape.corners @ view[:, :2].T + view[:, 2])


def rectangle(x1: float, y1: float, x2: float, y2: float, color: Color) -> Polygon:
    """Return a rectangle between two corners."""
    return Polygon(np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]), color)


def polygon(color: Color, *points: tuple[float, float]) -> Outline:
    """Return a polygon of any form."""
    return Outline(np.array(points, float), color)


def ellipse(
    x: float, y: float, rx: float, ry: float, color: Color, start: float = 0.0, end: float = 360.0
) -> Outline:
    """Return an ellipse, or the part of it between two angles in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 25))
    return Outline(np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1), color)


def line(x1: float, y1: float, x2: float, y2: float, width: float, color: Color) -> Stroke:
    """Return a line."""
    return Stroke((x1, y1), (x2, y2), width, color)


class Painter:
    """The background of a place, and its moving elements."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        # Places of all classes have similar colors: a random tone is mixed into large areas.
        self._tone = rng.uniform(20, 235, size=3)
        self._tone_weight = rng.uniform(0.1, 0.7)
        width, height = CANVAS.background_size
        self.image = np.zeros((height, width, 3), np.uint8)
        self.elements: list[Element] = []
        self._view = CANVAS.view(
            WIDTH / 2 - CANVAS.margin[0], HEIGHT / 2 - CANVAS.margin[1], 1.0, CANVAS.scale
        )

    def near(self, color: Color, spread: float = 22.0) -> Color:
        """Return a random color near `color`, which the tone of the video shifts."""
        values = np.array(color) * (1 - self._tone_weight) + self._tone * self._tone_weight
        values += self.rng.uniform(-spread, spread) * 0.6 + self.rng.uniform(-spread, spread, 3) * 0.6
        return tuple(round(float(value)) for value in np.clip(values, 5, 250))

    def bright(self) -> Color:
        """Return a random saturated color."""
        rgb = colorsys.hsv_to_rgb(self.rng.random(), self.rng.uniform(0.6, 1), self.rng.uniform(0.6, 1))
        return tuple(round(255 * value) for value in rgb)

    def gradient(self, top: float, bottom: float, first: Color, last: Color) -> None:
        """Fill the rows from `top` to `bottom` with colors from `first` to `last`."""
        start, end = (round((y - TOP) * CANVAS.scale) for y in (top, bottom))
        weights = np.linspace(0, 1, max(end - start, 1))[:, None]
        rows = np.array(first) * (1 - weights) + np.array(last) * weights
        self.image[start:end] = np.round(rows)[: self.image[start:end].shape[0], None].astype(np.uint8)

    def add(self, *shapes: Shape) -> None:
        """Draw shapes onto the background."""
        draw_shapes(self.image, [transformed(shape, self._view) for shape in shapes])

    def move(self, y: float, shapes: Callable[[float], list[Shape]], glow: bool = False) -> None:
        """Add a moving element."""
        self.elements.append(Element(y, shapes, glow))

    def finish(self) -> np.ndarray:
        """Return the background with texture, uint8 RGB."""
        image = self.image.astype(np.float32)
        add_texture(image, self.rng)
        return np.clip(image, 0, 255).astype(np.uint8)

    # ------------------------------------------------------------ things of several places

    def positions(self, count: int, least: float = 0.0) -> list[float]:
        """Return `count` random x in the frame, in columns of the same width, each at least `least` apart."""
        step = (WIDTH + 24) / max(count, 1)
        free = max(step - least, 0.0)
        return [-12 + step * number + self.rng.uniform(0, free) for number in range(count)]

    def cloud(self, x: float, bottom: float) -> None:
        """Add a cloud that drifts, above `bottom`."""
        rng = self.rng
        y, size, speed = rng.uniform(2, bottom), rng.uniform(6, 11), rng.uniform(-5, 5)

        def shapes(time: float) -> list[Shape]:
            left = x + speed * time
            return [
                line(
                    left + dx * size, y + dy * size, left + (dx + 0.4) * size, y + dy * size, size * r, WHITE
                )
                for dx, dy, r in ((-0.6, 0.2, 0.6), (0.5, 0.2, 0.65), (0, 0, 0.8))
            ]

        self.move(0.0, shapes)

    def tree(self, x: float, y: float, height: float, needles: bool) -> None:
        """Draw a tree whose trunk ends at (x, y)."""
        trunk, leaves = self.near((96, 66, 42)), self.near(GREEN)
        self.add(rectangle(x - 0.05 * height, y - 0.4 * height, x + 0.05 * height, y, trunk))
        if needles:
            for part in range(3):
                low, half = y - (0.18 + 0.24 * part) * height, (0.3 - 0.07 * part) * height
                self.add(
                    polygon(
                        shaded(leaves, 0.9 + 0.1 * part),
                        (x - half, low),
                        (x, low - 0.42 * height),
                        (x + half, low),
                    )
                )
            return
        for dx, dy in ((-0.17, -0.55), (0.17, -0.57), (0, -0.75)):
            self.add(
                ellipse(
                    x + dx * height,
                    y + dy * height,
                    0.22 * height,
                    0.2 * height,
                    shaded(leaves, 0.95 - dy / 8),
                )
            )

    def ball(self, y: float, radius: float, colors: tuple[Color, Color], reach: float) -> None:
        """Add a ball that flies in arcs and bounces on the ground at `y`."""
        rng = self.rng
        x, speed = rng.uniform(20, 100), rng.choice([-1, 1]) * rng.uniform(12, 32)
        height, rate, phase = rng.uniform(0.4, 1.0) * reach, rng.uniform(0.8, 1.4), rng.random()

        def shapes(time: float) -> list[Shape]:
            part = (phase + rate * time) % 1.0
            center = x + speed * (time - 1), y - radius - height * 4 * part * (1 - part)
            turn = 6 * time
            return [
                ellipse(center[0], y, radius, radius / 3, (60, 60, 60)),
                ellipse(*center, radius, radius, colors[0]),
                *[
                    ellipse(
                        center[0] + 0.5 * radius * np.cos(turn + angle),
                        center[1] + 0.5 * radius * np.sin(turn + angle),
                        0.22 * radius,
                        0.22 * radius,
                        colors[1],
                    )
                    for angle in (0, 2.1, 4.2)
                ],
            ]

        self.move(y, shapes)

    def falling(self, count: int, color: Color, size: float, speed: float, sway: float) -> None:
        """Add particles that fall over everything, such as snow or leaves."""
        rng = self.rng
        starts = rng.uniform((LEFT, 0), (RIGHT, 1), size=(count, 2))
        phases, speeds = rng.random(count), speed * rng.uniform(0.7, 1.3, size=count)
        drift = rng.uniform(-8, 8)

        def shapes(time: float) -> list[Shape]:
            found = []
            for (x, part), phase, own in zip(starts, phases, speeds):
                y = TOP + (part * (BOTTOM - TOP) + own * time) % (BOTTOM - TOP)
                left = x + drift * time + sway * np.sin(2 * np.pi * (phase + time))
                found.append(Stroke((left, y), (left + size / 3, y), size, color))
            return found

        self.move(1000.0, shapes)

    def car(self, x: float, y: float, length: float, speed: float) -> None:
        """Add a car that drives."""
        color, way = self.bright(), 1 if speed > 0 else -1

        def shapes(time: float) -> list[Shape]:
            middle, h = x + speed * (time - 1), 0.36 * length

            def at(u: float, v: float) -> tuple[float, float]:
                return middle + way * u * length / 2, y - v * h

            return [
                polygon(shaded(color, 0.8), at(-0.7, 0.55), at(-0.5, 1), at(0.2, 1), at(0.5, 0.55)),
                polygon((185, 215, 230), at(-0.55, 0.6), at(-0.42, 0.92), at(0.15, 0.92), at(0.35, 0.6)),
                polygon(color, at(-1, 0.15), at(-1, 0.6), at(0.7, 0.6), at(1, 0.45), at(1, 0.15)),
                *[ellipse(*at(side * 0.6, 0.17), 0.1 * length, 0.1 * length, DARK) for side in (-1, 1)],
                *[ellipse(*at(side * 0.6, 0.17), 0.04 * length, 0.04 * length, WHITE) for side in (-1, 1)],
            ]

        self.move(y, shapes)

    def bird(self, bottom: float) -> None:
        """Add a bird that flaps its wings, above `bottom`."""
        rng = self.rng
        x, y = rng.uniform(0, WIDTH), rng.uniform(3, bottom)
        speed, phase = rng.uniform(-22, 22), rng.random()

        def shapes(time: float) -> list[Shape]:
            left, flap = x + speed * time, 2.2 * np.sin(2 * np.pi * (2.5 * time + phase))
            return [line(left, y, left + side * 4, y - 1 - flap, 1, DARK) for side in (-1, 1)]

        self.move(0.0, shapes)
