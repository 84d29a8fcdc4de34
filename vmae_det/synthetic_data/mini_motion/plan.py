"""Plans of MiniMotion's videos: positions, sizes and times of a hand and two objects. Contains no pixels.

All classes use the same scenes: a scene is drawn from its number, and everything in it is independent of the
class. Lengths are in pixels of the unmoved camera, with y down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

WIDTH, HEIGHT, FPS, SECONDS = 128, 96, 12, 2

# Neighbors form pairs. They differ by the order of the frames, or by a detail of the motion.
CLASSES = (
    "moving something from left to right",
    "moving something from right to left",
    "moving something up",
    "moving something down",
    "pushing something so that it falls off the table",
    "pushing something so that it slightly moves",
    "dropping something",
    "something falling like a feather",
    "picking something up",
    "pretending to pick something up",
    "putting something next to something",
    "pretending to put something next to something",
    "covering something with something",
    "uncovering something",
)
COVERING = ("covering something with something", "uncovering something")

Point = tuple[float, float]

_SMALL = ("ball", "cup", "bottle", "book", "bear", "car", "block", "can", "duck")
_COVERS = ("box", "bowl", "hat", "bucket", "cloth")


@dataclass(frozen=True)
class ObjectPlan:
    """An object on the table. The point (x, y) is the middle of its bottom."""

    kind: str
    height: float
    width: float
    x: float
    y: float
    variant: int  # pattern


@dataclass(frozen=True)
class ScenePlan:
    """A table with objects, and how fast and how far something will move.

    Args:
        key: random key of the scene, for colors, the room and the camera.
        edge: x of the visible edge of the table.
        side: side of that edge, 1 for right and -1 for left. Pushes go there.
        back: y of the back edge of the table.
        front: y of the front edge of the table.
        small: object that fits under `cover`.
        cover: larger object.
        moves_cover: whether `cover` is the moved object, in classes in which either can be.
        others: objects that nobody touches.
        elbow: point outside the frame from which the forearm comes.
        start: second at which the motion starts.
        duration: seconds of the motion.
        distance: horizontal distance of a motion to the left or right.
        lift: height of a motion up or down.
        height: above the table at which something is carried from side to side; 0 slides on the table.
        nudge: distance of a slight push.
        reach: fraction of the motion in which the hand arrives.
        sway: number of half swings of a falling feather.
        next_side: side of the other object at which something is put, -1 or 1, if it is within the frame.
        leaves: whether the hand leaves after it has opened.
    """

    key: tuple[int, ...]
    edge: float
    side: int
    back: float
    front: float
    small: ObjectPlan
    cover: ObjectPlan
    moves_cover: bool
    others: tuple[ObjectPlan, ...]
    elbow: Point
    start: float
    duration: float
    distance: float
    lift: float
    height: float
    nudge: float
    reach: float
    sway: int
    next_side: int
    leaves: bool


@dataclass(frozen=True)
class VideoPlan:
    """A video: a scene and what happens in it."""

    name: str
    scene: ScenePlan
    action: str  # one of CLASSES


# Width relative to the height.
_PROPORTIONS = {
    "ball": 1.0,
    "cup": 0.85,
    "bottle": 0.48,
    "book": 0.75,
    "bear": 0.85,
    "car": 1.7,
    "block": 1.0,
    "can": 0.65,
    "duck": 1.1,
    "box": 1.15,
    "bowl": 1.5,
    "hat": 1.35,
    "bucket": 1.0,
    "cloth": 1.2,
}


# Width of the opaque part of a cover, relative to its width.
_INNER_WIDTH = {"box": 1.0, "bowl": 0.8, "hat": 0.8, "bucket": 0.8, "cloth": 0.75}


def _random_object(
    rng: np.random.Generator, kinds: tuple[str, ...], area: tuple[float, float], x: float, y: float
) -> ObjectPlan:
    """Return an object whose width times height is the square of a number in the range `area`."""
    kind = str(rng.choice(kinds))
    size = rng.uniform(*area)
    height = size / _PROPORTIONS[kind] ** 0.5
    return ObjectPlan(kind, height, size**2 / height, x, y, int(rng.integers(3)))


def plan_scene(key: tuple[int, ...]) -> ScenePlan:
    """Return the scene of a random key."""
    rng = np.random.default_rng([*key, 7])
    side = 1 if rng.random() < 0.5 else -1
    edge = WIDTH / 2 + side * rng.uniform(35, 42)
    back = rng.uniform(50, 58)
    front = back + rng.uniform(26, 31)
    near = front - rng.uniform(5, 9)  # the front row of objects
    moves_cover = bool(rng.random() < 0.45)
    first = edge - side * rng.uniform(15, 27)
    second = first - side * rng.uniform(29, 37)
    small = _random_object(rng, _SMALL, (16, 19), second if moves_cover else first, near)
    cover = _random_object(rng, _COVERS, (23, 27), first if moves_cover else second, near - rng.uniform(1, 3))
    # So that it hides the small one:
    cover = replace(
        cover,
        height=max(cover.height, small.height + 3),
        width=max(cover.width, (small.width + 3) / _INNER_WIDTH[cover.kind]),
    )
    others = tuple(
        _random_object(
            rng,
            (*_SMALL, *_COVERS),
            (11, 16),
            WIDTH / 2 - side * rng.uniform(-30, 60),
            back + rng.uniform(2, 7),
        )
        for _ in range(rng.integers(3))
    )
    elbows = {
        "side": (WIDTH / 2 - side * (WIDTH / 2 + 45), rng.uniform(35, 105)),
        "bottom": (WIDTH / 2 - side * rng.uniform(5, 60), HEIGHT + 50.0),
        "top": (WIDTH / 2 - side * rng.uniform(0, 50), -50.0),
    }
    duration = rng.uniform(1.1, 1.6)
    return ScenePlan(
        key=key,
        edge=edge,
        side=side,
        back=back,
        front=front,
        small=small,
        cover=cover,
        moves_cover=moves_cover,
        others=others,
        elbow=elbows[str(rng.choice(["side", "side", "bottom", "bottom", "top"]))],
        start=rng.uniform(0.0, SECONDS - 1 / FPS - duration),
        duration=duration,
        distance=rng.uniform(36, 54),
        lift=rng.uniform(26, 36),
        height=0.0 if rng.random() < 0.5 else rng.uniform(8, 24),
        nudge=rng.uniform(7, 11),
        reach=rng.uniform(0.25, 0.38),
        sway=int(rng.integers(3, 5)),
        next_side=1 if rng.random() < 0.5 else -1,
        leaves=bool(rng.random() < 0.6),
    )


def plan_videos(per_class: int, seed: int, split: int) -> list[tuple[VideoPlan, int]]:
    """Plan `per_class` videos of each class, by scene; return them with the index of the class.

    Args:
        split: number of the set; sets with the same seed and another number differ.
    """
    scenes = [plan_scene((seed, split, number)) for number in range(per_class)]
    return [
        (VideoPlan(f"{action.replace(' ', '_')}_{number:03d}", scene, action), label)
        for number, scene in enumerate(scenes)
        for label, action in enumerate(CLASSES)
    ]


def plan_unlabelled_videos(count: int, seed: int, split: int) -> list[VideoPlan]:
    """Plan `count` videos, each in its own scene. All classes are equally frequent."""
    rng = np.random.default_rng([seed, split])
    order = np.concatenate([rng.permutation(len(CLASSES)) for _ in range(count // len(CLASSES) + 1)])
    return [
        VideoPlan(f"{number:04d}", plan_scene((seed, split, number)), CLASSES[order[number]])
        for number in range(count)
    ]
