"""Shapes of MiniMotion's objects and hands.

An object consists of flat parts, from back to front. Its coordinates are in units of its height, with y up
and (0, 0) in the middle of its bottom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from vmae_det.synthetic_data.drawing import Color, Outline, Polygon, Shape, Stroke, shaded

Part = tuple[np.ndarray, Color]  # corners (N, 2) and color
Colors = tuple[Color, Color, Color]  # body, pattern, details

_DARK: Color = (35, 32, 36)
_WHITE: Color = (240, 238, 230)


@dataclass(frozen=True)
class HandLook:
    """Appearance of a hand and its forearm."""

    skin: Color
    sleeve: Color
    sleeve_start: float  # distance from the wrist to the sleeve, in pixels
    size: float  # 1 is average


def object_parts(kind: str, width: float, variant: int, colors: Colors) -> list[Part]:
    """Return the parts of an object.

    Args:
        width: in units of its height.
        variant: pattern, 0 to 2.
    """
    return _KINDS[kind](width / 2, variant, *colors)


def _ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> np.ndarray:
    angles = np.radians(np.linspace(start, end, 21))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])


def _points(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points)


def _bands(w: float, variant: int, color: Color, bottom: float, top: float) -> list[Part]:
    """Return a pattern on a rectangle of half the width `w`: one wide band, two narrow ones, or none."""
    height = top - bottom
    if variant == 0:
        return [(_rectangle(-w, bottom + 0.3 * height, w, bottom + 0.7 * height), color)]
    if variant == 1:
        return [
            (_rectangle(-w, bottom + start * height, w, bottom + (start + 0.2) * height), color)
            for start in (0.15, 0.6)
        ]
    return []


def _ball(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    parts = [(_ellipse(0, 0.5, w, 0.5), body)]
    if variant == 0:  # a band
        parts.append(
            (np.concatenate([_ellipse(0, 0.5, w, 0.5, -25, 25), _ellipse(0, 0.5, w, 0.5, 155, 205)]), pattern)
        )
    elif variant == 1:  # spots
        parts += [
            (_ellipse(0.5 * w * x, 0.5 + 0.25 * y, 0.13, 0.13), pattern)
            for x, y in ((-1, 0.6), (1, 0.5), (0, -1))
        ]
    else:  # halves
        parts.append((_ellipse(0, 0.5, w, 0.5, 60, 240), pattern))
    return parts


def _cup(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    inner = 0.72 * w
    return [
        (_ellipse(inner + 0.02, 0.52, 0.28 * w + 0.08, 0.3), body),
        (_ellipse(inner + 0.02, 0.52, 0.28 * w - 0.02, 0.17), _DARK),
        (_points((-w, 0.92), (-0.75 * w, 0), (0.5 * w, 0), (inner, 0.92)), body),
        *[(band - (0.14 * w, 0), color) for band, color in _bands(0.78 * w, variant, pattern, 0.1, 0.85)],
        (_ellipse((inner - w) / 2, 0.92, (inner + w) / 2, 0.08), shaded(body, 0.45)),
    ]


def _bottle(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    neck = 0.38 * w
    return [
        (_rectangle(-neck, 0.6, neck, 0.95), body),
        (_points((-w, 0), (w, 0), (w, 0.52), (neck, 0.72), (-neck, 0.72), (-w, 0.52)), body),
        (_rectangle(-w, 0.12, w, 0.42), pattern if variant < 2 else _WHITE),
        (_rectangle(-neck - 0.03, 0.88, neck + 0.03, 1.0), detail),
    ]


def _book(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    return [
        (_rectangle(-w + 0.08, 0.03, w, 0.97), _WHITE),
        (_rectangle(-w, 0, w - 0.07, 1), body),
        (_rectangle(-w, 0, -0.66 * w, 1), shaded(body, 0.6)),
        (
            _rectangle(-0.4 * w, 0.55, 0.6 * w, 0.85) if variant else _ellipse(0.1 * w, 0.6, 0.45 * w, 0.22),
            pattern,
        ),
    ]


def _bear(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    head = 0.7
    return [
        *[(_ellipse(side * 0.62 * w, 0.93, 0.13, 0.12), shaded(body, 0.75)) for side in (-1, 1)],
        *[(_ellipse(side * 0.78 * w, 0.34, 0.13, 0.17), shaded(body, 0.8)) for side in (-1, 1)],
        *[(_ellipse(side * 0.55 * w, 0.1, 0.16, 0.12), shaded(body, 0.8)) for side in (-1, 1)],
        (_ellipse(0, 0.27, 0.72 * w, 0.28), body),
        (_ellipse(0, 0.27, 0.38 * w, 0.17), pattern),
        (_ellipse(0, head, 0.72 * w, 0.28), body),
        (_ellipse(0, head - 0.09, 0.15, 0.1), _WHITE),
        *[(_ellipse(side * 0.14, head + 0.07, 0.035, 0.04), _DARK) for side in (-1, 1)],
    ]


def _car(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    return [
        (_points((-0.55 * w, 0.5), (-0.35 * w, 1), (0.3 * w, 1), (0.6 * w, 0.5)), shaded(body, 0.8)),
        (_points((-0.4 * w, 0.54), (-0.26 * w, 0.9), (0.22 * w, 0.9), (0.42 * w, 0.54)), (190, 220, 235)),
        (_points((-w, 0.2), (-w, 0.5), (-0.9 * w, 0.6), (0.75 * w, 0.6), (w, 0.45), (w, 0.2)), body),
        *([(_rectangle(-0.95 * w, 0.32, 0.95 * w, 0.44), pattern)] if variant else []),
        *[(_ellipse(side * 0.58 * w, 0.2, 0.2, 0.2), _DARK) for side in (-1, 1)],
        *[(_ellipse(side * 0.58 * w, 0.2, 0.08, 0.08), _WHITE) for side in (-1, 1)],
    ]


def _block(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    mark = (
        _ellipse(-0.1, 0.38, 0.22, 0.22),
        _points((-0.3, 0.2), (0.1, 0.2), (-0.1, 0.58)),
        _rectangle(-0.28, 0.2, 0.08, 0.56),
    )[variant]
    return [*_cuboid(w, body, 0.2), (mark, pattern)]


def _cuboid(w: float, body: Color, depth: float) -> list[Part]:
    """Return a box whose top and right side are visible."""
    top, right = 1 - depth, w - depth
    return [
        (_points((-w, top), (-w + depth, 1), (w, 1), (right, top)), shaded(body, 1.25)),
        (_points((right, 0), (w, depth), (w, 1), (right, top)), shaded(body, 0.65)),
        (_rectangle(-w, 0, right, top), body),
    ]


def _can(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    return [
        (_ellipse(0, 0.08, w, 0.08), body),
        (_rectangle(-w, 0.08, w, 0.92), body),
        *_bands(w, variant, pattern, 0.1, 0.9),
        (_ellipse(0, 0.92, w, 0.08), (205, 205, 210)),
    ]


def _duck(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    return [
        (_points((0.62 * w, 0.8), (w, 0.7), (0.62 * w, 0.62)), (240, 140, 30)),
        (_points((-w, 0.62), (-0.7 * w, 0.2), (-0.3 * w, 0.4)), body),
        (_ellipse(-0.1 * w, 0.28, 0.75 * w, 0.28), body),
        (_ellipse(0.35 * w, 0.74, 0.38 * w, 0.26), body),
        (_ellipse(-0.2 * w, 0.3, 0.35 * w, 0.13), pattern),
        (_ellipse(0.45 * w, 0.8, 0.05, 0.05), _DARK),
    ]


def _box(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    right = w - 0.2
    tape = (
        [(_rectangle(-w, 0.32, right, 0.48), pattern)],
        [(_rectangle(-0.25 * w, 0, 0.05 * w, 0.8), pattern)],
        [(_ellipse(-0.1, 0.4, 0.22, 0.22), pattern)],
    )[variant]
    return [*_cuboid(w, body, 0.2), *tape]


def _bowl(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    """A bowl that is upside down."""
    rim = _rectangle(-w, 0, w, 0.14)
    return [
        (_rectangle(-0.3 * w, 0.9, 0.3 * w, 1.0), shaded(body, 0.7)),
        (_ellipse(0, 0.1, 0.94 * w, 0.85, 0, 180), body),
        *([(_rectangle(-0.85 * w, 0.32, 0.85 * w, 0.5), pattern)] if variant else []),
        (rim, pattern if variant == 0 else shaded(body, 0.8)),
    ]


def _hat(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    return [
        (_ellipse(0, 0.1, w, 0.1), shaded(body, 0.8)),
        (
            _points(
                (-0.82 * w, 0.12),
                (-0.74 * w, 0.9),
                (-0.3 * w, 1),
                (0.3 * w, 0.97),
                (0.74 * w, 0.9),
                (0.82 * w, 0.12),
            ),
            body,
        ),
        (_points((-0.82 * w, 0.14), (-0.8 * w, 0.36), (0.8 * w, 0.36), (0.82 * w, 0.14)), pattern),
    ]


def _bucket(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    """A bucket that is upside down."""
    return [
        (_points((-0.95 * w, 0.08), (-0.72 * w, 1), (0.72 * w, 1), (0.95 * w, 0.08)), body),
        *_bands(0.78 * w, variant, pattern, 0.2, 0.95),
        (_rectangle(-w, 0, w, 0.12), shaded(body, 0.7)),
    ]


def _cloth(w: float, variant: int, body: Color, pattern: Color, detail: Color) -> list[Part]:
    """A cloth that hangs over something."""
    x = np.linspace(-1, 1, 9)
    hem = np.stack([x * w, 0.04 + 0.06 * np.cos(x * 4 * pi)], axis=1)
    top = _points((0.62 * w, 0.85), (0.4 * w, 1), (-0.4 * w, 1), (-0.62 * w, 0.85))
    folds = [
        (_points((side * 0.42 * w, 0.8), (side * 0.62 * w, 0.1), (side * 0.5 * w, 0.1)), shaded(body, 0.7))
        for side in (-1, 0.1, 1)
    ]
    stripe = _points((-0.78 * w, 0.5), (-0.72 * w, 0.64), (0.72 * w, 0.64), (0.78 * w, 0.5))
    return [(np.concatenate([hem, top]), body), *folds, *([(stripe, pattern)] if variant else [])]


_KINDS: dict[str, Callable[..., list[Part]]] = {
    "ball": _ball,
    "cup": _cup,
    "bottle": _bottle,
    "book": _book,
    "bear": _bear,
    "car": _car,
    "block": _block,
    "can": _can,
    "duck": _duck,
    "box": _box,
    "bowl": _bowl,
    "hat": _hat,
    "bucket": _bucket,
    "cloth": _cloth,
}


def placed_parts(parts: list[Part], height: float, x: float, y: float, turn: float) -> list[Outline]:
    """Return the shapes of an object in pixels, with y down.

    Args:
        height: in pixels.
        x: of the middle of its bottom.
        y: of its bottom.
        turn: clockwise rotation about its center, in radians.
    """
    c, s = cos(turn), sin(turn)
    rotation = np.array([[c, s], [s, -c]]) * height  # y up to y down
    center = np.array([x, y - height / 2])
    return [Outline((corners - (0.0, 0.5)) @ rotation + center, color) for corners, color in parts]


def hand_shapes(
    palm: np.ndarray, aim: np.ndarray, elbow: np.ndarray, grip: float, look: HandLook, scale: float
) -> list[Shape]:
    """Return the shapes of a hand and its forearm, from back to front.

    Args:
        palm: center of the palm, in pixels.
        aim: point to which the fingers point, in pixels.
        elbow: point from which the forearm comes, in pixels.
        grip: 0 for an open hand to 1 for a closed one.
        scale: pixels of the image per pixel of the unmoved camera.
    """
    unit = look.size * scale
    ahead = aim - palm
    ahead = ahead / max(float(np.hypot(*ahead)), 1e-6)
    # The hand is turned towards the object, and the wrist bends by at most a right angle.
    arm = elbow - palm
    arm = arm / max(float(np.hypot(*arm)), 1e-6)
    across = np.array([-ahead[1], ahead[0]])
    wrist = palm + (arm - 0.5 * ahead) * 4.0 * unit
    beside = np.array([-arm[1], arm[0]])
    sleeve = wrist + arm * look.sleeve_start * scale

    def tapered(start: np.ndarray, end: np.ndarray, widths: tuple[float, float]) -> Polygon:
        (a, b), side = widths, beside * unit
        return Polygon(np.array([start - a * side, start + a * side, end + b * side, end - b * side]), color)

    color = look.skin
    shapes: list[Shape] = [tapered(wrist, elbow, (3.6, 6.5))]
    color = look.sleeve
    shapes.append(tapered(sleeve, elbow, (5.2, 8.5)))
    darker = shaded(look.skin, 0.88)
    shapes.append(Stroke(tuple(wrist), tuple(palm), 8.4 * unit, look.skin))
    thumb_base = palm - across * 3.0 * unit
    thumb_angle = 0.9 - 0.5 * grip
    thumb = thumb_base + (ahead * cos(thumb_angle) - across * sin(thumb_angle)) * 6.5 * unit
    for number in range(4):
        offset = (number - 1.5) / 1.5  # -1 to 1
        base = palm + (across * offset * 3.6 + ahead * 2.0) * unit
        spread = 0.28 * offset * (1 - grip)
        direction = ahead * cos(spread) + across * sin(spread)
        length = (8.0 - 1.2 * abs(offset)) * (1 - 0.35 * grip)
        shapes.append(
            Stroke(
                tuple(base),
                tuple(base + direction * length * unit),
                2.7 * unit,
                darker if number % 2 else look.skin,
            )
        )
    shapes.append(Stroke(tuple(thumb_base), tuple(thumb), 3.2 * unit, look.skin))
    return shapes
