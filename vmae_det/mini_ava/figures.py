"""What the people of MiniAVA look like: build and clothes, and the painting of one puppet onto a picture."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from vmae_det.mini_ava.motion import HEAD_RADIUS, Joints

Colour = tuple[int, int, int]

_SKINS: tuple[Colour, ...] = ((255, 219, 186), (241, 194, 150), (224, 172, 120), (160, 105, 65), (96, 60, 40))
_HAIR: tuple[Colour, ...] = (
    (25, 20, 18),
    (70, 42, 22),
    (120, 75, 35),
    (215, 180, 100),
    (150, 60, 30),
    (190, 190, 190),
)
_SUBPIXEL_BITS = 4
_LEAST_CONTRAST = 110.0  # Euclidean distance in RGB between clothes and what is behind them


@dataclass(frozen=True)
class Look:
    """A person's body and clothes; widths are in heights."""

    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    box: Colour
    long_sleeves: bool
    shorts: bool
    long_hair: bool
    girth: float  # 1 is usual
    depth: float  # distance in the picture between near and far shoulder


@dataclass(frozen=True)
class Stroke:
    """A thick line with round ends, which is all that a person is made of; pixels."""

    start: tuple[float, float]
    end: tuple[float, float]
    width: float
    colour: Colour


@dataclass(frozen=True)
class Panel:
    """A flat thing that is no part of a person, as corners (N, 2) in pixels."""

    corners: np.ndarray
    colour: Colour


def draw_look(rng: np.random.Generator, behind: list[Colour]) -> Look:
    """A look at random whose clothes stand out from the colours `behind`."""
    shirt = _standing_out(rng, behind, (0.55, 1.0), (0.45, 1.0))
    return Look(
        skin=_SKINS[rng.integers(len(_SKINS))],
        hair=_HAIR[rng.integers(len(_HAIR))],
        shirt=shirt,
        trousers=_standing_out(rng, [*behind, shirt], (0.1, 0.7), (0.08, 1.0)),
        shoes=(30, 28, 30) if rng.random() < 0.7 else (235, 235, 235),
        box=_standing_out(rng, [*behind, shirt], (0.3, 0.9), (0.5, 0.95)),
        long_sleeves=bool(rng.random() < 0.25),
        shorts=bool(rng.random() < 0.2),
        long_hair=bool(rng.random() < 0.35),
        girth=rng.uniform(0.88, 1.25),
        depth=rng.uniform(0.04, 0.1),
    )


def _standing_out(
    rng: np.random.Generator,
    behind: list[Colour],
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> Colour:
    """Of some colours at random, the first with contrast enough, or the one with most."""

    def contrast(colour: Colour) -> float:
        return min(float(np.linalg.norm(np.subtract(colour, other))) for other in behind)

    candidates = []
    for _ in range(16):
        rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
        candidates.append(tuple(round(255 * channel) for channel in rgb))
    return next((c for c in candidates if contrast(c) >= _LEAST_CONTRAST), max(candidates, key=contrast))


def shapes_of(joints: Joints, look: Look, height: float, carrying: bool) -> list[Stroke | Panel]:
    """The shapes of a person and of what they carry, from back to front; `joints` and `height` in pixels."""
    unit = height * look.girth

    def limb(points: np.ndarray, widths: list[float], colours: list[Colour]) -> list[Stroke]:
        return [
            Stroke(tuple(a), tuple(b), width * unit, colour)
            for a, b, width, colour in zip(points[:-1], points[1:], widths, colours)
        ]

    # The side away from the camera has a darker tone, so that crossing limbs stay apart.
    def arm(points: np.ndarray, tone: float) -> list[Stroke]:
        upper, lower = (
            _shaded(look.shirt, tone),
            _shaded(look.shirt if look.long_sleeves else look.skin, tone),
        )
        hand = points[2] + 0.02 * height * _direction(points[2] - points[1])
        skin = _shaded(look.skin, tone)
        return [
            *limb(points, [0.085, 0.075], [upper, lower]),
            Stroke(tuple(points[2]), tuple(hand), 0.1 * height, skin),
        ]

    def leg(points: np.ndarray, tone: float) -> list[Stroke]:
        thigh, shin = _shaded(look.trousers, tone), _shaded(look.skin if look.shorts else look.trousers, tone)
        # From the foot up, so that trousers fall over shoes and the thigh over the knee.
        colours = [_shaded(look.shoes, tone), shin, thigh]
        return limb(points[::-1], [0.05, 0.07, 0.095], colours)

    up = joints.head - joints.shoulder
    up = up / max(float(np.linalg.norm(up)), 1e-6)
    back = -np.sign((joints.near_leg[3] - joints.near_leg[2])[0] or 1.0) * np.array([abs(up[1]), up[0]])
    head_width = 2 * HEAD_RADIUS * height
    neck = Stroke(tuple(joints.shoulder), tuple(joints.head), 0.06 * height, _shaded(look.skin, 0.9))
    crown = joints.head + up * 0.022 * height + back * 0.022 * height
    nape = crown + (back * 0.03 - up * (0.13 if look.long_hair else 0.03)) * height
    face = joints.head - up * 0.015 * height - back * 0.015 * height
    eye = face - back * 0.035 * height + up * 0.012 * height

    shapes: list[Stroke | Panel] = [
        *arm(joints.far_arm, 0.72),
        *leg(joints.far_leg, 0.72),
        *leg(joints.near_leg, 1.0),
    ]
    spine = (joints.hip + 0.1 * (joints.shoulder - joints.hip), joints.shoulder - up * 0.03 * height)
    shapes += [
        neck,
        Stroke(tuple(spine[0]), tuple(spine[1]), 0.15 * unit, look.shirt),
        Stroke(tuple(crown), tuple(nape), head_width * 0.86, look.hair),
        Stroke(tuple(face), tuple(face), head_width * 0.82, look.skin),
        Stroke(tuple(eye), tuple(eye), 0.022 * height, (25, 25, 30)),
    ]
    if carrying:
        middle = (joints.near_arm[2] + joints.far_arm[2]) / 2 - back * 0.05 * height
        corners = np.array([(-0.15, -0.13), (0.15, -0.13), (0.15, 0.09), (-0.15, 0.09)])
        shapes.append(Panel(middle + corners * height, look.box))
    return [*shapes, *arm(joints.near_arm, 1.08)]


def _direction(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.hypot(vector[0], vector[1])), 1e-6)


def _shaded(colour: Colour, tone: float) -> Colour:
    return tuple(min(round(channel * tone), 255) for channel in colour)


def paint(picture: np.ndarray, shapes: list[Stroke | Panel]) -> None:
    """Paint `shapes` with thin dark outlines onto `picture` (H, W, 3), in place."""
    for shape in shapes:
        outline = _shaded(shape.colour, 0.45)
        if isinstance(shape, Stroke):
            _line(picture, shape, shape.width + 2.5, outline, cv2.LINE_AA)
            _line(picture, shape, shape.width, shape.colour, cv2.LINE_AA)
        else:
            corners = np.round(shape.corners * (1 << _SUBPIXEL_BITS)).astype(np.int32)
            cv2.fillConvexPoly(picture, corners, shape.colour, cv2.LINE_AA, _SUBPIXEL_BITS)
            cv2.polylines(picture, [corners], True, outline, 2, cv2.LINE_AA, _SUBPIXEL_BITS)


def paint_silhouette(mask: np.ndarray, shapes: list[Stroke | Panel], value: int) -> None:
    """Set the pixels of `mask` (H, W) that a person's body covers to `value`, in place."""
    for shape in shapes:
        if isinstance(shape, Stroke):
            _line(mask, shape, shape.width + 1.0, value, cv2.LINE_8)


def _line(picture: np.ndarray, stroke: Stroke, width: float, colour: Colour | int, line_type: int) -> None:
    scale = 1 << _SUBPIXEL_BITS
    start = (round(stroke.start[0] * scale), round(stroke.start[1] * scale))
    end = (round(stroke.end[0] * scale), round(stroke.end[1] * scale))
    cv2.line(picture, start, end, colour, max(round(width), 1), line_type, _SUBPIXEL_BITS)
