"""Plans of MiniAVA's videos: which persons appear, where, and what they do when. Contains no pixels.

The behavior of a person is a sequence of segments. Segment boundaries are halfway between keyframes, so the
label of a keyframe is valid for half a second before and after it. Behaviors are drawn from shuffled pools,
which balances their frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

WIDTH, HEIGHT, FPS = 192, 144, 12
VIDEO_START = 900  # second of the dataset's clock at which every detection video starts
VIDEO_SECONDS, CLIP_SECONDS, UNLABELED_SECONDS = 10, 2, 3
KEYFRAMES = tuple(range(2, 9))  # seconds from the start of the file

_ID_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Action:
    """An entry of the label map."""

    name: str
    id: int
    kind: str


ACTIONS = (
    Action("stand", 1, "PERSON_MOVEMENT"),
    Action("walk", 2, "PERSON_MOVEMENT"),
    Action("run", 3, "PERSON_MOVEMENT"),
    Action("crouch", 4, "PERSON_MOVEMENT"),
    Action("jump", 5, "PERSON_MOVEMENT"),
    Action("fall", 6, "PERSON_MOVEMENT"),
    Action("wave", 9, "OBJECT_MANIPULATION"),
    Action("clap", 10, "OBJECT_MANIPULATION"),
    Action("carry", 11, "OBJECT_MANIPULATION"),
    Action("shake hands", 13, "PERSON_INTERACTION"),
    Action("push", 14, "PERSON_INTERACTION"),
)

# A movement, and the gesture of the hands during it.
Behavior = tuple[str, "str | None"]
_STATIONARY: tuple[Behavior, ...] = (
    ("stand", None),
    ("stand", None),
    ("stand", "wave"),
    ("stand", "wave"),
    ("stand", "clap"),
    ("stand", "clap"),
    ("stand", "carry"),
    ("stand", "carry"),
    ("crouch", None),
    ("crouch", None),
    ("jump", None),
    ("jump", None),
    ("fall", None),
    ("fall", None),
)
_ALL_BEHAVIORS: tuple[Behavior, ...] = (
    *_STATIONARY,
    ("walk", None),
    ("walk", "wave"),
    ("walk", "clap"),
    ("walk", "carry"),
    ("run", None),
    ("run", None),
    ("run", None),
)
# Group of persons to the start positions of those outside a pair, in image widths. A pair is in the center.
_GROUPS = {
    "one": (0.5,),
    "two": (0.27, 0.73),
    "three": (0.16, 0.5, 0.84),
    "pair": (),
    "pair and one": (0.12,),
}
_INTERACTIONS = ("shake hands", "push", None)  # None: the two persons behave independently
# Idle arm poses that look like one moment of a gesture, so that a single frame does not separate stand from
# wave or clap.
_IDLE_ARMS = ("hang", "hang", "raised", "together", "forward", "hips")


@dataclass(frozen=True)
class Segment:
    """Behavior of one person from `start` to `end`, in seconds from the start of the file."""

    start: float
    end: float
    movement: str
    gesture: str | None  # wave, clap, carry, shake hands, push, or None
    active: bool  # whether this is the person who pushes
    phase: float  # start of the periodic motion, in cycles
    rate: float  # relative speed of the motion; 1 is average
    arms: str  # pose of idle arms, one of _IDLE_ARMS
    stance: float  # half the distance between a standing person's feet, in heights
    bend: float  # bend of a standing person's knees, 0 to 1
    near_arm: bool  # whether the near arm waves
    forwards: bool  # direction of a fall, and whether a walk begins to the right
    fall_time: float  # seconds
    speed: float  # of walking and running, in heights per second
    pauses: bool  # whether a crouch pauses at the bottom

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions of a keyframe in this segment."""
        return (self.movement,) if self.gesture is None else (self.movement, self.gesture)


@dataclass(frozen=True)
class PersonPlan:
    """Position and behavior of a person. Lengths are in pixels of the unmoved camera."""

    x: float
    ground: float
    height: float
    faces_right: bool
    segments: tuple[Segment, ...]
    x_range: tuple[float, float]  # in which the person walks
    partner: int | None = None  # index of the other person of a pair
    has_crate: bool = False  # whether a box that nobody carries stands in front of the person


@dataclass(frozen=True)
class VideoPlan:
    """Everything needed to render a video."""

    name: str
    seconds: float
    people: tuple[PersonPlan, ...]
    random_key: tuple[int, ...]  # seed for appearance, background and camera
    camera_follows: bool = False  # whether the camera follows the first person
    keyframes: tuple[int, ...] = KEYFRAMES


class _BalancedPool:
    """Draws every item equally often, in random order."""

    def __init__(self, items: Sequence, rng: np.random.Generator) -> None:
        self._items, self._rng, self._remaining = tuple(items), rng, []

    def draw(self) -> Behavior | str | None:
        if not self._remaining:
            self._remaining = [self._items[i] for i in self._rng.permutation(len(self._items))]
        return self._remaining.pop()


def plan_videos(count: int, seed: int, split: int) -> list[VideoPlan]:
    """Plan `count` ten-second videos of one to three persons.

    Args:
        split: number of the set; sets with the same seed and another number differ.
    """
    rng = np.random.default_rng([seed, split])
    behaviors, stationary = _BalancedPool(_ALL_BEHAVIORS, rng), _BalancedPool(_STATIONARY, rng)
    interactions = _BalancedPool(_INTERACTIONS, rng)
    groups = _BalancedPool((*_GROUPS, "two"), rng)
    plans = []
    for index in range(count):
        group = groups.draw()
        people: list[PersonPlan] = []
        if group.startswith("pair"):
            people += _plan_pair(rng, _pair_segments(rng, interactions, stationary))
        for x in _GROUPS[group]:
            people.append(_plan_single(rng, _single_segments(rng, behaviors), WIDTH * x))
        camera_follows = group == "one" and rng.random() < 0.6
        key = (seed, split, index)
        plans.append(VideoPlan(_video_id(key), VIDEO_SECONDS, tuple(people), key, camera_follows))
    return plans


def plan_unlabeled_videos(count: int, seed: int, split: int) -> list[VideoPlan]:
    """Plan the first `UNLABELED_SECONDS` of `count` videos. Many short videos show more persons and rooms."""
    return [
        replace(plan, seconds=UNLABELED_SECONDS, keyframes=()) for plan in plan_videos(count, seed, split)
    ]


def plan_clips(per_action: int, seed: int, split: int) -> list[tuple[VideoPlan, int]]:
    """Plan `per_action` two-second clips of each action; return them with the action's label index."""
    plans = []
    for column, action in enumerate(ACTIONS):
        for number in range(per_action):
            # Clips with the same number share person, room and camera, so that appearance does not reveal the
            # action.
            key = (seed, split, number)
            rng = np.random.default_rng([*key, 7])
            if action.kind == "PERSON_INTERACTION":
                people = _plan_pair(rng, _interaction_segments(rng, 0, CLIP_SECONDS, action.name))
            else:
                behavior = (action.name, None)
                if action.kind == "OBJECT_MANIPULATION":
                    behavior = ("walk" if number % 5 < 2 else "stand", action.name)
                people = [_plan_single(rng, [random_segment(rng, 0, CLIP_SECONDS, behavior)], WIDTH / 2)]
            name = f"{action.name.replace(' ', '_')}_{number:03d}"
            camera_follows = len(people) == 1 and number % 5 in (1, 3)
            plans.append((VideoPlan(name, CLIP_SECONDS, tuple(people), key, camera_follows, ()), column))
    return plans


def _video_id(key: tuple[int, ...]) -> str:
    """Return eleven characters, like the YouTube ids of AVA."""
    rng = np.random.default_rng([*key, 11])
    return "".join(_ID_ALPHABET[i] for i in rng.integers(len(_ID_ALPHABET), size=11))


def _split_keyframes(rng: np.random.Generator, short: Sequence[bool]) -> list[tuple[float, float]]:
    """Split the seven keyframes into spans of 2, 2 and 3 s in random order; a `short` span has 2 s."""
    long = rng.choice([i for i in range(3) if not short[i]])
    lengths = [3 if i == long else 2 for i in range(3)]
    first = KEYFRAMES[0] - 0.5
    inner = [first + lengths[0], first + lengths[0] + lengths[1]]
    edges = [0.0, *inner, float(VIDEO_SECONDS)]
    return list(pairwise(edges))


def _single_segments(rng: np.random.Generator, pool: _BalancedPool) -> list[Segment]:
    behaviors = [pool.draw() for _ in range(3)]
    while all(movement == "fall" for movement, _ in behaviors):  # a fall cannot span three keyframes
        behaviors[0] = pool.draw()
    spans = _split_keyframes(rng, [movement == "fall" for movement, _ in behaviors])
    return [random_segment(rng, *span, behavior) for span, behavior in zip(spans, behaviors)]


def random_segment(
    rng: np.random.Generator, start: float, end: float, behavior: Behavior, **fixed: object
) -> Segment:
    """Return a segment with a random style. `fixed` overrides fields of it."""
    movement, gesture = behavior
    first_keyframe = start + 0.5 if start else (0.5 if end == CLIP_SECONDS else KEYFRAMES[0])
    drawn = {
        "active": True,
        "phase": rng.random(),
        "rate": rng.uniform(0.9, 1.1),
        "arms": str(rng.choice(_IDLE_ARMS)),
        "stance": rng.choice([0.04, 0.08, 0.15]),
        "bend": rng.choice([0.0, 0.0, 0.35]),
        "near_arm": rng.random() < 0.5,
        "forwards": rng.random() < 0.5,
        # Visible within half a second of the segment's first keyframe, and complete at the second one.
        "fall_time": first_keyframe + rng.uniform(0.3, 0.45),
        "speed": {"walk": rng.uniform(0.3, 0.6), "run": rng.uniform(0.4, 0.9)}.get(movement, 0.0)
        * (rng.random() < 0.7),  # else in place
        "pauses": rng.random() < 0.5,
    }
    return Segment(start, end, movement, gesture, **{**drawn, **fixed})


def _plan_single(rng: np.random.Generator, segments: list[Segment], x: float) -> PersonPlan:
    height = rng.uniform(68, 106)
    can_leave = rng.random() < 0.1  # walk partly out of the image
    return PersonPlan(
        x=x + rng.uniform(-14, 14),
        ground=max(rng.uniform(110, 124), height + rng.uniform(30, 34)),  # room for tall persons to jump
        height=height,
        faces_right=bool(rng.random() < 0.5),
        segments=tuple(segments),
        x_range=(-4.0, WIDTH + 4.0) if can_leave else (32.0, WIDTH - 32.0),
        has_crate=bool(rng.random() < 0.12),
    )


def _interaction_segments(
    rng: np.random.Generator, start: float, end: float, gesture: str
) -> list[list[Segment]]:
    """Return the synchronized segments of both persons of an interaction; one of them is the active one."""
    shared = {"phase": rng.random(), "rate": rng.uniform(0.9, 1.1)}
    pusher = rng.integers(2)
    behavior = ("stand", gesture)
    return [[random_segment(rng, start, end, behavior, active=bool(i == pusher), **shared)] for i in range(2)]


def _pair_segments(
    rng: np.random.Generator, interactions: _BalancedPool, stationary: _BalancedPool
) -> list[list[Segment]]:
    shared = [interactions.draw() for _ in range(3)]
    own = [[stationary.draw() if one is None else None for one in shared] for _ in range(2)]
    falls = [any(behaviors[i] == ("fall", None) for behaviors in own) for i in range(3)]
    if all(falls):
        own = [[("stand", None), *behaviors[1:]] for behaviors in own]
        falls[0] = False
    segments: list[list[Segment]] = [[], []]
    for i, (start, end) in enumerate(_split_keyframes(rng, falls)):
        if shared[i] is not None:
            both = _interaction_segments(rng, start, end, shared[i])
        else:
            # Persons fall away from each other. Some stand with their hands as close as in a handshake.
            fixed = {"forwards": False, **({"arms": "forward"} if rng.random() < 0.5 else {})}
            both = [[random_segment(rng, start, end, behaviors[i], **fixed)] for behaviors in own]
        for side in range(2):
            segments[side] += both[side]
    return segments


def _plan_pair(rng: np.random.Generator, segments: list[list[Segment]]) -> list[PersonPlan]:
    height = rng.uniform(70, 100)
    ground = max(rng.uniform(112, 126), height + rng.uniform(30, 36))
    heights = height + rng.uniform(-4, 4, size=2)
    middle = WIDTH / 2 + rng.uniform(0, 25)
    apart = height * rng.uniform(0.54, 0.62)
    return [
        PersonPlan(
            x=middle - apart / 2 if side == 0 else middle + apart / 2,
            ground=ground + rng.uniform(-1, 1),
            height=heights[side],
            faces_right=side == 0,
            segments=tuple(segments[side]),
            x_range=(0.0, float(WIDTH)),
            partner=1 - side,
        )
        for side in range(2)
    ]
