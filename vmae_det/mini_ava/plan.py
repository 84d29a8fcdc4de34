"""What happens in every video of MiniAVA: who appears, where, and what each person does when. No pixels here.

A person's behaviour is a row of segments. Their boundaries lie half-way between keyframes, so the label of
a keyframe holds for half a second on both sides. Actions are dealt from shuffled decks, which keeps their
frequencies balanced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

WIDTH, HEIGHT, FPS = 192, 144, 12
VIDEO_START = 900  # the second of the dataset's clock at which every detection video begins
VIDEO_SECONDS, CLIP_SECONDS = 10, 2
KEYFRAMES = tuple(range(2, 9))  # seconds from the start of the file

_ID_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Action:
    """One line of the label map."""

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

# A card is a movement with what the hands do meanwhile.
Card = tuple[str, "str | None"]
_IN_PLACE: tuple[Card, ...] = (
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
_ANYWHERE: tuple[Card, ...] = (
    *_IN_PLACE,
    ("walk", None),
    ("walk", "wave"),
    ("walk", "clap"),
    ("walk", "carry"),
    ("run", None),
    ("run", None),
    ("run", None),
)
# Where those of a cast who belong to no pair begin, in widths of the picture; a pair is in the middle.
_PLACES = {
    "one": (0.5,),
    "two": (0.27, 0.73),
    "three": (0.16, 0.5, 0.84),
    "pair": (),
    "pair and one": (0.12,),
}
_TOGETHER = ("shake hands", "push", None)  # None: each of the pair minds their own business
# Still arms that look like a moment of a gesture, so that one frame does not tell stand from wave or clap.
_STILL_ARMS = ("hang", "hang", "raised", "together", "forward", "hips")


@dataclass(frozen=True)
class Segment:
    """What one person does from `start` to `end` (seconds from the start of the file)."""

    start: float
    end: float
    movement: str
    gesture: str | None  # wave, clap, carry, shake hands, push, or nothing
    active: bool  # of a push: the one who pushes
    phase: float  # where the repetitive motion starts, in cycles
    rate: float  # how quick the motion is, 1 being usual
    arms: str  # what idle arms do, one of _STILL_ARMS
    stance: float  # how far a standing person's feet are apart, in heights
    bend: float  # how much a standing person's knees are bent, 0 to 1
    near_arm: bool  # the arm that waves
    forwards: bool  # which way a fall goes, and whether a walk begins to the right
    event: float  # when a fall happens, seconds
    speed: float  # of walking and running, heights per second
    holds: bool  # a crouch that pauses at the bottom

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions that a keyframe in this segment is labelled with."""
        return (self.movement,) if self.gesture is None else (self.movement, self.gesture)


@dataclass(frozen=True)
class PersonPlan:
    """Where a person is and what they do; lengths in pixels of the unmoved camera."""

    x: float
    ground: float
    height: float
    faces_right: bool
    segments: tuple[Segment, ...]
    reach: tuple[float, float]  # how far left and right the person wanders
    partner: int | None = None  # index of the other of a pair, who faces this person within reach
    crate: bool = False  # a box stands on the floor before them, carried by nobody


@dataclass(frozen=True)
class VideoPlan:
    """All that rendering a video needs."""

    name: str
    seconds: float
    people: tuple[PersonPlan, ...]
    random_key: tuple[int, ...]  # of the generator that draws looks, background and camera
    followed: bool = False  # the camera keeps the first person where they are in the picture
    keyframes: tuple[int, ...] = KEYFRAMES


class _Deck:
    """Deals every card equally often, in random order."""

    def __init__(self, cards: Sequence, rng: np.random.Generator) -> None:
        self._cards, self._rng, self._left = tuple(cards), rng, []

    def draw(self) -> Card | str | None:
        if not self._left:
            self._left = [self._cards[i] for i in self._rng.permutation(len(self._cards))]
        return self._left.pop()


def plan_videos(count: int, seed: int, split: int) -> list[VideoPlan]:
    """Plans of `count` ten-second videos of one to three people; `split` tells sets of one seed apart."""
    rng = np.random.default_rng([seed, split])
    anywhere, in_place, together = _Deck(_ANYWHERE, rng), _Deck(_IN_PLACE, rng), _Deck(_TOGETHER, rng)
    casts = _Deck((*_PLACES, "two"), rng)
    plans = []
    for index in range(count):
        cast = casts.draw()
        people: list[PersonPlan] = []
        if cast.startswith("pair"):
            people += _pair(rng, _pair_segments(rng, together, in_place))
        for x in _PLACES[cast]:
            people.append(_single(rng, _timetable(rng, anywhere), WIDTH * x))
        followed = cast == "one" and rng.random() < 0.6
        key = (seed, split, index)
        plans.append(VideoPlan(_video_id(key), VIDEO_SECONDS, tuple(people), key, followed))
    return plans


def plan_clips(per_action: int, seed: int, split: int) -> list[tuple[VideoPlan, int]]:
    """Plans of `per_action` two-second clips of each action, and each one's column in the label map."""
    plans = []
    for column, action in enumerate(ACTIONS):
        for number in range(per_action):
            # One person, room and camera for each number: their looks say nothing of the action.
            key = (seed, split, number)
            rng = np.random.default_rng([*key, 7])
            if action.kind == "PERSON_INTERACTION":
                people = _pair(rng, _pair_behaviour(rng, 0, CLIP_SECONDS, action.name))
            else:
                card = (action.name, None)
                if action.kind == "OBJECT_MANIPULATION":
                    card = ("walk" if number % 5 < 2 else "stand", action.name)
                people = [_single(rng, [_segment(rng, 0, CLIP_SECONDS, card)], WIDTH / 2)]
            name = f"{action.name.replace(' ', '_')}_{number:03d}"
            followed = len(people) == 1 and number % 5 in (1, 3)
            plans.append((VideoPlan(name, CLIP_SECONDS, tuple(people), key, followed, ()), column))
    return plans


def _video_id(key: tuple[int, ...]) -> str:
    """Eleven characters, as YouTube's ids that AVA uses."""
    rng = np.random.default_rng([*key, 11])
    return "".join(_ID_ALPHABET[i] for i in rng.integers(len(_ID_ALPHABET), size=11))


def _spans(rng: np.random.Generator, short: Sequence[bool]) -> list[tuple[float, float]]:
    """The seven keyframes in spans of 2, 2 and 3 s in any order; where `short` is set, the span has 2 s."""
    long = rng.choice([i for i in range(3) if not short[i]])
    lengths = [3 if i == long else 2 for i in range(3)]
    first = KEYFRAMES[0] - 0.5
    inner = [first + lengths[0], first + lengths[0] + lengths[1]]
    edges = [0.0, *inner, float(VIDEO_SECONDS)]
    return list(pairwise(edges))


def _timetable(rng: np.random.Generator, deck: _Deck) -> list[Segment]:
    cards = [deck.draw() for _ in range(3)]
    while all(movement == "fall" for movement, _ in cards):  # a fall leaves no room for a third keyframe
        cards[0] = deck.draw()
    spans = _spans(rng, [movement == "fall" for movement, _ in cards])
    return [_segment(rng, *span, card) for span, card in zip(spans, cards)]


def _segment(rng: np.random.Generator, start: float, end: float, card: Card, **fixed: object) -> Segment:
    movement, gesture = card
    first_keyframe = start + 0.5 if start else (0.5 if end == CLIP_SECONDS else KEYFRAMES[0])
    drawn = {
        "active": True,
        "phase": rng.random(),
        "rate": rng.uniform(0.9, 1.1),
        "arms": str(rng.choice(_STILL_ARMS)),
        "stance": rng.choice([0.04, 0.08, 0.15]),
        "bend": rng.choice([0.0, 0.0, 0.35]),
        "near_arm": rng.random() < 0.5,
        "forwards": rng.random() < 0.5,
        # Seen within half a second of the segment's first keyframe, and lying by the second one.
        "event": first_keyframe + rng.uniform(0.3, 0.45),
        "speed": {"walk": rng.uniform(0.3, 0.6), "run": rng.uniform(0.4, 0.9)}.get(movement, 0.0)
        * (rng.random() < 0.7),  # else on the spot
        "holds": rng.random() < 0.5,
    }
    return Segment(start, end, movement, gesture, **{**drawn, **fixed})


def _single(rng: np.random.Generator, segments: list[Segment], x: float) -> PersonPlan:
    height = rng.uniform(68, 106)
    strays = rng.random() < 0.1  # to the border of the picture and half beyond it
    return PersonPlan(
        x=x + rng.uniform(-14, 14),
        ground=max(rng.uniform(110, 124), height + rng.uniform(30, 34)),  # room to jump above the tall
        height=height,
        faces_right=bool(rng.random() < 0.5),
        segments=tuple(segments),
        reach=(-4.0, WIDTH + 4.0) if strays else (32.0, WIDTH - 32.0),
        crate=bool(rng.random() < 0.12),
    )


def _pair_behaviour(rng: np.random.Generator, start: float, end: float, gesture: str) -> list[list[Segment]]:
    """Both sides of one interaction: in time with each other, one of them pushing."""
    shared = {"phase": rng.random(), "rate": rng.uniform(0.9, 1.1)}
    pusher = rng.integers(2)
    card = ("stand", gesture)
    return [[_segment(rng, start, end, card, active=bool(i == pusher), **shared)] for i in range(2)]


def _pair_segments(rng: np.random.Generator, together: _Deck, in_place: _Deck) -> list[list[Segment]]:
    doings = [together.draw() for _ in range(3)]
    own = [[in_place.draw() if doing is None else None for doing in doings] for _ in range(2)]
    falls = [any(cards[i] == ("fall", None) for cards in own) for i in range(3)]
    if all(falls):
        own = [[("stand", None), *cards[1:]] for cards in own]
        falls[0] = False
    segments: list[list[Segment]] = [[], []]
    for i, (start, end) in enumerate(_spans(rng, falls)):
        if doings[i] is not None:
            both = _pair_behaviour(rng, start, end, doings[i])
        else:
            # Each falls away from the other; some stand still with their hands as close as in a handshake.
            fixed = {"forwards": False, **({"arms": "forward"} if rng.random() < 0.5 else {})}
            both = [[_segment(rng, start, end, cards[i], **fixed)] for cards in own]
        for side in range(2):
            segments[side] += both[side]
    return segments


def _pair(rng: np.random.Generator, segments: list[list[Segment]]) -> list[PersonPlan]:
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
            reach=(0.0, float(WIDTH)),
            partner=1 - side,
        )
        for side in range(2)
    ]
