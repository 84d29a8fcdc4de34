"""Motion of MiniAVA's persons: the pose for a behavior and a time, and the joints of a pose.

A person is a 2D figure seen from the side, one unit tall, facing +x and standing on y = 0. The behavior
places hands and feet. Elbows and knees follow from two-bone inverse kinematics.
"""

from __future__ import annotations

from math import acos, atan2, cos, hypot, pi, sin
from typing import NamedTuple

import numpy as np

from vmae_det.synthetic_data.mini_ava.plan import Segment

HIP_HEIGHT, TORSO, UPPER_ARM, FOREARM, THIGH, SHIN = 0.51, 0.30, 0.175, 0.175, 0.245, 0.245
HEAD_RADIUS, ANKLE_HEIGHT = 0.08, 0.03
_BLEND = (0.15, 0.2)  # seconds before and after a segment boundary in which poses are blended
_RISE_SECONDS = 0.5  # to get up after a fall


class Pose(NamedTuple):
    """Pose of a person. Hands are relative to the shoulder center, ankles to the standing position."""

    hip_x: float = 0.0
    hip_y: float = HIP_HEIGHT
    lean: float = 0.0  # rotation of the torso in radians, positive forwards
    tip: float = 0.0  # rotation of the whole body about its feet in radians, positive forwards
    near_hand_x: float = 0.03
    near_hand_y: float = -0.33
    far_hand_x: float = 0.0
    far_hand_y: float = -0.33
    near_foot_x: float = -0.03
    near_foot_y: float = ANKLE_HEIGHT
    far_foot_x: float = 0.05
    far_foot_y: float = ANKLE_HEIGHT
    carrying: float = 0.0  # 1 with a box in the hands


class Joints(NamedTuple):
    """Points (x, y) of a figure in side view; near is the side towards the camera."""

    hip: np.ndarray
    shoulder: np.ndarray
    head: np.ndarray
    near_arm: np.ndarray  # (3, 2): shoulder, elbow, hand
    far_arm: np.ndarray
    near_leg: np.ndarray  # (4, 2): hip, knee, ankle, toe
    far_leg: np.ndarray


def pose_at(segments: tuple[Segment, ...], time: float, partner_distance: float) -> Pose:
    """Return the pose at `time`, blended between neighboring segments.

    Args:
        partner_distance: distance to the partner in units of the person's height.
    """
    index = next((i for i, segment in enumerate(segments) if time < segment.end), len(segments) - 1)
    pose = _segment_pose(segments[index], time, partner_distance)
    if index + 1 < len(segments) and time > segments[index].end - _BLEND[0]:
        return _blend(
            pose, segments[index + 1], time, segments[index].end, _BLEND[1], partner_distance, later=True
        )
    if index:
        before = segments[index - 1]
        after = _RISE_SECONDS if before.movement == "fall" else _BLEND[1]
        if time < before.end + after:
            return _blend(pose, before, time, before.end, after, partner_distance, later=False)
    return pose


def _blend(
    pose: Pose, other: Segment, time: float, edge: float, after: float, partner_distance: float, later: bool
) -> Pose:
    """Blend `pose` with the pose of the neighboring segment `other`, which is later or earlier."""
    if later and pose.tip:
        return pose  # a fallen person stays down until the segment ends
    start = edge if not later and after == _RISE_SECONDS else edge - _BLEND[0]
    weight = _smooth((time - start) / (edge + after - start))
    other_pose = _segment_pose(other, time, partner_distance)
    first, second = (pose, other_pose) if later else (other_pose, pose)
    return Pose(*(a + (b - a) * weight for a, b in zip(first, second)))


def _segment_pose(segment: Segment, time: float, partner_distance: float) -> Pose:
    cycles = segment.rate * time
    pose = {
        "stand": _stand,
        "walk": _walk,
        "run": _run,
        "crouch": _crouch,
        "jump": _jump,
        "fall": _fall,
    }[segment.movement](segment, time, cycles)
    match segment.gesture:
        case "wave":
            return _wave(pose, segment, cycles)
        case "clap":
            return _clap(pose, segment, cycles)
        case "carry":
            return _carry(pose, segment, cycles)
        case "shake hands":
            return _shake_hands(pose, segment, cycles, partner_distance)
        case "push":
            return _push(pose, segment, cycles, partner_distance)
    return pose


def _smooth(x: float) -> float:
    """Return a smooth step from 0 at x <= 0 to 1 at x >= 1."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def _oscillate(phase: float) -> float:
    """Return a cosine wave from 0 at integer phases to 1 at half-integer phases."""
    return 0.5 - 0.5 * cos(2 * pi * phase)


def _stand(segment: Segment, time: float, cycles: float) -> Pose:
    sway = 0.008 * sin(2 * pi * (0.4 * cycles + segment.phase))
    bend = segment.bend
    pose = Pose(
        hip_x=sway - 0.04 * bend,
        hip_y=HIP_HEIGHT - 0.005 - 0.16 * bend - 0.25 * segment.stance**2,
        lean=0.02 + 0.3 * bend + sway,
        near_foot_x=-segment.stance,
        far_foot_x=segment.stance + 0.02,
    )
    near, far = {
        "hang": ((0.03, -0.33), (0.0, -0.33)),
        "raised": ((0.1, 0.28), (0.0, -0.33)) if segment.near_arm else ((0.03, -0.33), (0.12, 0.28)),
        "together": ((0.2, -0.06), (0.23, -0.05)),
        "forward": ((0.29, -0.14), (0.0, -0.33)),
        "hips": ((0.02, -0.24), (0.05, -0.24)),
    }[segment.arms]
    return pose._replace(near_hand_x=near[0], near_hand_y=near[1], far_hand_x=far[0], far_hand_y=far[1])


def _step(phase: float, stride: float, lift: float) -> tuple[float, float]:
    """Return a foot position: on the ground in the first half of a cycle, swinging forward in the second."""
    phase %= 1.0
    if phase < 0.5:
        return stride * (1 - 4 * phase), ANKLE_HEIGHT
    swing = 2 * phase - 1
    return stride * (2 * _smooth(swing) - 1), ANKLE_HEIGHT + lift * sin(pi * swing)


def _walk(segment: Segment, time: float, cycles: float) -> Pose:
    phase = cycles + segment.phase
    near, far = _step(phase, 0.17, 0.06), _step(phase + 0.5, 0.17, 0.06)
    swing = 0.16 * cos(2 * pi * phase)
    return Pose(
        hip_y=0.497 + 0.012 * cos(4 * pi * phase + pi),
        lean=0.05,
        near_hand_x=0.02 - swing,
        near_hand_y=-0.31,
        far_hand_x=0.02 + swing,
        far_hand_y=-0.31,
        near_foot_x=near[0],
        near_foot_y=near[1],
        far_foot_x=far[0],
        far_foot_y=far[1],
    )


def _run(segment: Segment, time: float, cycles: float) -> Pose:
    phase = 1.7 * cycles + segment.phase
    near, far = _step(phase, 0.25, 0.2), _step(phase + 0.5, 0.25, 0.2)
    swing = cos(2 * pi * phase)
    return Pose(
        hip_x=0.02,
        hip_y=0.47 + 0.035 * cos(4 * pi * phase + pi),
        lean=0.24,
        near_hand_x=0.07 - 0.2 * swing,
        near_hand_y=-0.17 - 0.05 * swing,
        far_hand_x=0.07 + 0.2 * swing,
        far_hand_y=-0.17 + 0.05 * swing,
        near_foot_x=near[0] - 0.04,
        near_foot_y=near[1],
        far_foot_x=far[0] - 0.04,
        far_foot_y=far[1],
    )


def _lowered(pose: Pose, depth: float) -> Pose:
    """Return the pose with knees and hips bent by `depth`, 0 to 1, and arms moved forward."""
    return pose._replace(
        hip_x=pose.hip_x - 0.1 * depth,
        hip_y=pose.hip_y - 0.27 * depth,
        lean=pose.lean + 0.5 * depth,
        near_hand_x=pose.near_hand_x + 0.2 * depth,
        near_hand_y=pose.near_hand_y + 0.1 * depth,
        far_hand_x=pose.far_hand_x + 0.24 * depth,
        far_hand_y=pose.far_hand_y + 0.13 * depth,
    )


def _crouch(segment: Segment, time: float, cycles: float) -> Pose:
    phase = 0.75 * cycles + segment.phase
    depth = _smooth(0.5 - 1.0 * cos(2 * pi * phase)) if segment.pauses else _oscillate(phase)
    return _lowered(Pose(near_foot_x=-0.06, far_foot_x=0.1), depth)


def _jump(segment: Segment, time: float, cycles: float) -> Pose:
    phase = (0.95 * cycles + segment.phase) % 1.0
    flight = (phase - 0.4) / 0.4
    if 0 <= flight <= 1:
        height, arm_raise = 0.26 * 4 * flight * (1 - flight), sin(pi * flight) ** 0.5
        depth = 0.25 * arm_raise
    else:
        height, arm_raise = 0.0, 0.0
        depth = 0.65 * sin(pi * ((phase + 0.2) % 1.0) / 0.6)  # land, sink, and take off again
    pose = _lowered(Pose(near_foot_x=-0.05, far_foot_x=0.08), depth)
    return pose._replace(
        hip_y=pose.hip_y + height,
        near_foot_y=pose.near_foot_y + height,
        far_foot_y=pose.far_foot_y + height,
        near_hand_x=pose.near_hand_x * (1 - arm_raise) + 0.16 * arm_raise - 0.35 * depth * (1 - arm_raise),
        near_hand_y=pose.near_hand_y * (1 - arm_raise) + 0.3 * arm_raise,
        far_hand_x=pose.far_hand_x * (1 - arm_raise) + 0.2 * arm_raise - 0.35 * depth * (1 - arm_raise),
        far_hand_y=pose.far_hand_y * (1 - arm_raise) + 0.28 * arm_raise,
    )


def _fall(segment: Segment, time: float, cycles: float) -> Pose:
    since = time - segment.fall_time + 0.3
    tipped = min(max(since / 0.6, 0.0), 1.0) ** 1.6  # accelerates
    stagger = _smooth((since + 0.6) / 0.4) * (1 - tipped) * sin(2 * pi * 1.5 * time)
    direction = 1 if segment.forwards else -1
    return Pose(
        hip_x=0.05 * stagger,
        hip_y=HIP_HEIGHT - 0.01 - 0.04 * tipped,
        lean=0.2 * stagger + 0.25 * direction * sin(pi * tipped),
        tip=direction * pi / 2 * tipped,
        near_hand_x=0.03 + 0.2 * stagger + 0.22 * sin(pi * tipped) + 0.1 * tipped,
        near_hand_y=-0.33 + 0.12 * abs(stagger) + 0.45 * tipped,
        far_hand_x=-0.2 * stagger + 0.25 * sin(pi * tipped) + 0.02 * tipped,
        far_hand_y=-0.33 + 0.12 * abs(stagger) + 0.2 * tipped,
        near_foot_x=-0.06,
        far_foot_x=0.1 + 0.05 * tipped,
        far_foot_y=ANKLE_HEIGHT + 0.08 * tipped,
    )


def _wave(pose: Pose, segment: Segment, cycles: float) -> Pose:
    swing = sin(2 * pi * (1.3 * cycles + segment.phase))
    x, y = 0.08 + 0.2 * swing, 0.29 - 0.06 * abs(swing)
    if segment.near_arm:
        return pose._replace(near_hand_x=x, near_hand_y=y, **_idle(pose, "far"))
    return pose._replace(far_hand_x=x, far_hand_y=y, **_idle(pose, "near"))


def _idle(pose: Pose, side: str) -> dict[str, float]:
    """Return the hand of an idle arm, lowered if it was raised, while the other arm waves."""
    x, y = getattr(pose, f"{side}_hand_x"), getattr(pose, f"{side}_hand_y")
    return {f"{side}_hand_x": x if y < 0 else 0.02, f"{side}_hand_y": min(y, -y)}


def _clap(pose: Pose, segment: Segment, cycles: float) -> Pose:
    apart = 0.2 * _oscillate(1.5 * cycles + segment.phase)
    # In a three-quarter view, the hands part along a slanted line.
    return pose._replace(
        near_hand_x=0.2 - 0.9 * apart,
        near_hand_y=-0.06 - 0.8 * apart,
        far_hand_x=0.22 + 0.5 * apart,
        far_hand_y=-0.05 + 0.9 * apart,
    )


def _carry(pose: Pose, segment: Segment, cycles: float) -> Pose:
    heave = 0.09 * sin(2 * pi * (1.1 * cycles + segment.phase))
    y = -0.2 + heave
    return pose._replace(
        lean=pose.lean - 0.1, near_hand_x=0.2, near_hand_y=y, far_hand_x=0.27, far_hand_y=y, carrying=1.0
    )


def _shake_hands(pose: Pose, segment: Segment, cycles: float, partner_distance: float) -> Pose:
    pump = 0.085 * sin(2 * pi * (1.9 * cycles + segment.phase))
    shoulder_x = pose.hip_x + TORSO * sin(pose.lean)
    idle = {"near_hand_x": 0.0, "near_hand_y": -0.33}
    return pose._replace(far_hand_x=partner_distance / 2 - shoulder_x, far_hand_y=-0.14 + pump, **idle)


def _push(pose: Pose, segment: Segment, cycles: float, partner_distance: float) -> Pose:
    phase = (0.95 * cycles + segment.phase) % 1.0
    if segment.active:
        thrust = _smooth((phase - 0.25) / 0.16) * (1 - _smooth((phase - 0.5) / 0.4))
        x, y = 0.08 + 0.27 * thrust, -0.08 + 0.04 * thrust
        return pose._replace(
            hip_x=pose.hip_x + (partner_distance - 0.5) * thrust + 0.03 * thrust,
            lean=pose.lean + 0.35 * thrust,
            near_hand_x=x,
            near_hand_y=y,
            far_hand_x=x + 0.03,
            far_hand_y=y + 0.04,
            far_foot_x=pose.far_foot_x + 0.14 * thrust,
        )
    recoil = _smooth((phase - 0.34) / 0.14) * (1 - _smooth((phase - 0.58) / 0.4))
    return pose._replace(
        hip_x=pose.hip_x - 0.1 * recoil,
        hip_y=pose.hip_y - 0.03 * recoil,
        lean=pose.lean - 0.5 * recoil,
        near_hand_x=0.03 + 0.28 * recoil,
        near_hand_y=-0.33 + 0.3 * recoil,
        far_hand_x=0.0 + 0.3 * recoil,
        far_hand_y=-0.33 + 0.4 * recoil,
        near_foot_x=pose.near_foot_x - 0.2 * recoil,
        near_foot_y=pose.near_foot_y + 0.05 * sin(pi * recoil),
    )


def joints_of(pose: Pose, depth: float) -> Joints:
    """Return the joints of `pose`, in units of the person's height.

    Args:
        depth: distance in the image between near and far shoulder.
    """
    hip = (pose.hip_x, pose.hip_y)
    shoulder = (hip[0] + TORSO * sin(pose.lean), hip[1] + TORSO * cos(pose.lean))
    nod = pose.lean * 0.6
    head = (shoulder[0] + 0.105 * sin(nod) + 0.01, shoulder[1] + 0.105 * cos(nod))

    def arm(side: int, hand_x: float, hand_y: float) -> list[tuple[float, float]]:
        start = (shoulder[0] - side * depth / 2, shoulder[1] - 0.02)
        return _two_bones(start, (shoulder[0] + hand_x, shoulder[1] + hand_y), UPPER_ARM, FOREARM, bend=-1)

    def leg(side: int, foot_x: float, foot_y: float) -> list[tuple[float, float]]:
        start = (hip[0] - side * depth / 3, hip[1])
        hip_knee_ankle = _two_bones(start, (foot_x - side * depth / 3, foot_y), THIGH, SHIN, bend=1)
        knee, ankle = hip_knee_ankle[1:]
        # The sole is level on the ground and hangs behind a lifted or folded shin.
        drop = min(max(ankle[1] - ANKLE_HEIGHT, 0.0), 0.05)
        slope = atan2(knee[0] - ankle[0], max(knee[1] - ankle[1], 0.05)) * min(drop / 0.05, 1.0)
        toe = (ankle[0] + 0.075 * cos(slope), ankle[1] - 0.075 * sin(slope) - 0.015)
        return [*hip_knee_ankle, toe]

    points = np.array(
        [
            hip,
            shoulder,
            head,
            *arm(1, pose.near_hand_x, pose.near_hand_y),
            *arm(-1, pose.far_hand_x, pose.far_hand_y),
            *leg(1, pose.near_foot_x, pose.near_foot_y),
            *leg(-1, pose.far_foot_x, pose.far_foot_y),
        ]
    )
    if pose.tip:
        c, s = cos(pose.tip), sin(pose.tip)
        points = points @ np.array([[c, -s], [s, c]])
        # The feet of a falling body slide away, so that its center stays about where it was.
        points += (-0.45 * s, 0.06 * abs(s))
        points[:, 1] = np.maximum(points[:, 1], ANKLE_HEIGHT)
    return Joints(points[0], points[1], points[2], points[3:6], points[6:9], points[9:13], points[13:17])


def _two_bones(
    start: tuple[float, float], target: tuple[float, float], upper: float, lower: float, bend: int
) -> list[tuple[float, float]]:
    """Return start, middle joint and end of a limb that reaches for `target` and bends to the side `bend`."""
    dx, dy = target[0] - start[0], target[1] - start[1]
    distance = min(max(hypot(dx, dy), 0.06), upper + lower - 1e-4)
    angle = atan2(dy, dx)
    inner = acos((upper**2 + distance**2 - lower**2) / (2 * upper * distance))
    middle = (start[0] + upper * cos(angle + bend * inner), start[1] + upper * sin(angle + bend * inner))
    return [start, middle, (start[0] + distance * cos(angle), start[1] + distance * sin(angle))]
