"""Appearance of MiniAVA's persons: body and clothes, and the shapes of a 2D figure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmae_det.synthetic_data.drawing import SKINS, Color, Polygon, Shape, Stroke, contrasting_color, shaded
from vmae_det.synthetic_data.mini_ava.motion import HEAD_RADIUS, Joints

_HAIR: tuple[Color, ...] = (
    (25, 20, 18),
    (70, 42, 22),
    (120, 75, 35),
    (215, 180, 100),
    (150, 60, 30),
    (190, 190, 190),
)


@dataclass(frozen=True)
class Appearance:
    """Body and clothes of a person. Lengths are in units of the person's height."""

    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    shoes: Color
    box: Color
    long_sleeves: bool
    shorts: bool
    long_hair: bool
    girth: float  # relative width; 1 is average
    depth: float  # distance in the image between near and far shoulder


def random_appearance(rng: np.random.Generator, background: list[Color]) -> Appearance:
    """Return a random appearance whose clothes contrast with the `background` colors."""
    shirt = contrasting_color(rng, background, (0.55, 1.0), (0.45, 1.0))
    return Appearance(
        skin=SKINS[rng.integers(len(SKINS))],
        hair=_HAIR[rng.integers(len(_HAIR))],
        shirt=shirt,
        trousers=contrasting_color(rng, [*background, shirt], (0.1, 0.7), (0.08, 1.0)),
        shoes=(30, 28, 30) if rng.random() < 0.7 else (235, 235, 235),
        box=contrasting_color(rng, [*background, shirt], (0.3, 0.9), (0.5, 0.95)),
        long_sleeves=bool(rng.random() < 0.25),
        shorts=bool(rng.random() < 0.2),
        long_hair=bool(rng.random() < 0.35),
        girth=rng.uniform(0.88, 1.25),
        depth=rng.uniform(0.04, 0.1),
    )


def person_shapes(joints: Joints, appearance: Appearance, height: float, carrying: bool) -> list[Shape]:
    """Return the shapes of a person and of a carried box, from back to front.

    Args:
        joints: in pixels.
        height: of the person in pixels.
        carrying: whether the person carries a box.
    """
    unit = height * appearance.girth

    def limb(points: np.ndarray, widths: list[float], colors: list[Color]) -> list[Stroke]:
        return [
            Stroke(tuple(a), tuple(b), width * unit, color)
            for a, b, width, color in zip(points[:-1], points[1:], widths, colors)
        ]

    # The far side is darker, so that crossing limbs can be told apart.
    def arm(points: np.ndarray, tone: float) -> list[Stroke]:
        upper, lower = (
            shaded(appearance.shirt, tone),
            shaded(appearance.shirt if appearance.long_sleeves else appearance.skin, tone),
        )
        hand = points[2] + 0.02 * height * _direction(points[2] - points[1])
        skin = shaded(appearance.skin, tone)
        return [
            *limb(points, [0.085, 0.075], [upper, lower]),
            Stroke(tuple(points[2]), tuple(hand), 0.1 * height, skin),
        ]

    def leg(points: np.ndarray, tone: float) -> list[Stroke]:
        thigh, shin = (
            shaded(appearance.trousers, tone),
            shaded(appearance.skin if appearance.shorts else appearance.trousers, tone),
        )
        # From the foot up, so that trousers cover shoes and the thigh covers the knee.
        colors = [shaded(appearance.shoes, tone), shin, thigh]
        return limb(points[::-1], [0.05, 0.07, 0.095], colors)

    up = joints.head - joints.shoulder
    up = up / max(float(np.linalg.norm(up)), 1e-6)
    back = -np.sign((joints.near_leg[3] - joints.near_leg[2])[0] or 1.0) * np.array([abs(up[1]), up[0]])
    head_width = 2 * HEAD_RADIUS * height
    neck = Stroke(tuple(joints.shoulder), tuple(joints.head), 0.06 * height, shaded(appearance.skin, 0.9))
    crown = joints.head + up * 0.022 * height + back * 0.022 * height
    nape = crown + (back * 0.03 - up * (0.13 if appearance.long_hair else 0.03)) * height
    face = joints.head - up * 0.015 * height - back * 0.015 * height
    eye = face - back * 0.035 * height + up * 0.012 * height

    shapes: list[Shape] = [
        *arm(joints.far_arm, 0.72),
        *leg(joints.far_leg, 0.72),
        *leg(joints.near_leg, 1.0),
    ]
    spine = (joints.hip + 0.1 * (joints.shoulder - joints.hip), joints.shoulder - up * 0.03 * height)
    shapes += [
        neck,
        Stroke(tuple(spine[0]), tuple(spine[1]), 0.15 * unit, appearance.shirt),
        Stroke(tuple(crown), tuple(nape), head_width * 0.86, appearance.hair),
        Stroke(tuple(face), tuple(face), head_width * 0.82, appearance.skin),
        Stroke(tuple(eye), tuple(eye), 0.022 * height, (25, 25, 30)),
    ]
    if carrying:
        middle = (joints.near_arm[2] + joints.far_arm[2]) / 2 - back * 0.05 * height
        corners = np.array([(-0.15, -0.13), (0.15, -0.13), (0.15, 0.09), (-0.15, 0.09)])
        shapes.append(Polygon(middle + corners * height, appearance.box))
    return [*shapes, *arm(joints.near_arm, 1.08)]


def _direction(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.hypot(vector[0], vector[1])), 1e-6)
