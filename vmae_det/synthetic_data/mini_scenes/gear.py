"""What people of MiniScenes wear or hold, such as skis and backpacks.

Each function returns the shapes behind a person and those in front, from the joints in pixels, the height in
pixels and a color.
"""

from __future__ import annotations

import numpy as np

from vmae_det.synthetic_data.drawing import Color, Polygon, Shape, Stroke
from vmae_det.synthetic_data.mini_ava.motion import Joints

_Gear = tuple[list[Shape], list[Shape]]
_STEEL: Color = (190, 192, 198)


def _stroke(start: np.ndarray, end: np.ndarray, width: float, color: Color) -> Stroke:
    return Stroke(tuple(start), tuple(end), width, color)


def _forwards(joints: Joints) -> np.ndarray:
    """Return the unit vector of the direction that the person faces."""
    return np.array([np.sign((joints.near_leg[3] - joints.near_leg[2])[0] or 1.0), 0.0])


def skis(joints: Joints, height: float, color: Color) -> _Gear:
    """Skis and poles."""
    ahead = _forwards(joints)
    boards = [
        _stroke(leg[2] - 0.28 * height * ahead, leg[2] + 0.4 * height * ahead, 0.035 * height, color)
        for leg in (joints.far_leg, joints.near_leg)
    ]
    poles = [
        _stroke(arm[2], arm[2] + np.array([-0.12 * ahead[0], 0.38]) * height, 0.02 * height, _STEEL)
        for arm in (joints.far_arm, joints.near_arm)
    ]
    return [boards[0], poles[0]], [boards[1], poles[1]]


def backpack(joints: Joints, height: float, color: Color) -> _Gear:
    """A backpack."""
    back = joints.shoulder - 0.11 * height * _forwards(joints)
    down = (joints.hip - joints.shoulder) * 0.6
    return [_stroke(back + 0.1 * down, back + down, 0.17 * height, color)], []


def apron(joints: Joints, height: float, color: Color) -> _Gear:
    """A white apron and a chef's hat."""
    down = joints.hip - joints.shoulder
    side = np.array([0.07 * height, 0.0])
    corners = [joints.shoulder + 0.3 * down - 0.6 * side, joints.shoulder + 0.3 * down + 0.6 * side]
    corners += [joints.hip + 0.5 * down + side, joints.hip + 0.5 * down - side]
    top = joints.head - 0.1 * height * np.array([0.0, 1.0])
    hat = [
        _stroke(top, top - np.array([0.0, 0.05]) * height, 0.11 * height, (245, 245, 245)),
        _stroke(
            top + np.array([-0.03, -0.09]) * height,
            top + np.array([0.03, -0.09]) * height,
            0.1 * height,
            (245, 245, 245),
        ),
    ]
    return [], [Polygon(np.array(corners), (235, 235, 230)), *hat]


def microphone(joints: Joints, height: float, color: Color) -> _Gear:
    """A microphone on a stand."""
    foot = joints.near_leg[3] + np.array([0.16 * height, 0.0]) * _forwards(joints)[0]
    top = np.array([foot[0], joints.head[1] + 0.03 * height])
    return [], [_stroke(foot, top, 0.02 * height, _STEEL), _stroke(top, top, 0.07 * height, (45, 45, 50))]


def barbell(joints: Joints, height: float, color: Color) -> _Gear:
    """A barbell in the near hand."""
    hand, half = joints.near_arm[2], np.array([0.26 * height, 0.0])
    plates = [
        _stroke(
            hand + side * half - (0, 0.09 * height),
            hand + side * half + (0, 0.09 * height),
            0.06 * height,
            color,
        )
        for side in (-1, 1)
    ]
    return [], [_stroke(hand - 1.15 * half, hand + 1.15 * half, 0.025 * height, _STEEL), *plates]


def watering_can(joints: Joints, height: float, color: Color) -> _Gear:
    """A watering can in the near hand."""
    ahead = _forwards(joints)[0]
    top = joints.near_arm[2] + np.array([0.05 * ahead, 0.04]) * height
    size = 0.08 * height
    body = Polygon(top + np.array([(-1, 0), (1, 0), (1.2, 1.8), (-1.2, 1.8)]) * size, color)
    spout = _stroke(
        top + np.array([1.1 * ahead, 1.4]) * size,
        top + np.array([2.6 * ahead, 0.1]) * size,
        0.03 * height,
        color,
    )
    return [], [spout, body]


def basket(joints: Joints, height: float, color: Color) -> _Gear:
    """A shopping basket in the near hand."""
    top = joints.near_arm[2] + np.array([0.0, 0.07]) * height
    size = 0.1 * height
    handle = [
        _stroke(joints.near_arm[2], top + np.array([side, 0.0]) * size, 0.02 * height, color)
        for side in (-1, 1)
    ]
    return [], [
        *handle,
        Polygon(top + np.array([(-1.2, 0), (1.2, 0), (0.9, 1.2), (-0.9, 1.2)]) * size, color),
    ]


def cap(joints: Joints, height: float, color: Color) -> _Gear:
    """A cap."""
    ahead = _forwards(joints)
    top = joints.head - np.array([0.0, 0.055]) * height
    return [], [
        _stroke(top - 0.02 * height * ahead, top + 0.02 * height * ahead, 0.1 * height, color),
        _stroke(
            top + 0.03 * height * ahead + (0, 0.03 * height),
            top + 0.13 * height * ahead + (0, 0.03 * height),
            0.03 * height,
            color,
        ),
    ]
