"""Plans of MiniScenes' videos: a place, and people with their behavior. Contains no pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vmae_det.synthetic_data.mini_ava.plan import Behavior, PersonPlan, random_segment

FPS, SECONDS = 12, 2

_IDLE: tuple[Behavior, ...] = (("stand", None), ("walk", None))


@dataclass(frozen=True)
class Topic:
    """A class: what people do where.

    Args:
        name: of the class.
        behaviors: typical ones. People also stand and walk.
        ground: range of y on which people stand.
        glides: whether typical people move without steps.
    """

    name: str
    behaviors: tuple[Behavior, ...]
    ground: tuple[float, float] = (66.0, 92.0)
    glides: bool = False


TOPICS = (
    Topic("playing on the beach", (("run", None), ("jump", None), ("stand", "wave"), ("walk", "carry"))),
    Topic("skiing", (("stand", None), ("fall", None), ("stand", "wave")), glides=True),
    Topic("hiking in the forest", (("walk", None), ("walk", None), ("walk", "wave"), ("stand", "carry"))),
    Topic(
        "crossing the street",
        (("walk", None), ("run", None), ("walk", "carry"), ("walk", "wave")),
        (64.0, 90.0),
    ),
    Topic("playing football", (("run", None), ("run", None), ("fall", None), ("jump", None))),
    Topic("gardening", (("crouch", None), ("crouch", None), ("stand", "carry"), ("walk", "carry"))),
    Topic(
        "performing on stage",
        (("stand", "wave"), ("stand", "clap"), ("jump", None), ("walk", "wave")),
        (68.0, 84.0),
    ),
    Topic(
        "cooking", (("stand", "carry"), ("walk", "carry"), ("stand", None), ("stand", "clap")), (76.0, 94.0)
    ),
    Topic(
        "exercising in a gym",
        (("crouch", None), ("jump", None), ("stand", "carry"), ("run", None)),
        (70.0, 92.0),
    ),
    Topic("playing basketball", (("jump", None), ("run", None), ("jump", None), ("walk", "wave"))),
    Topic(
        "shopping", (("walk", "carry"), ("stand", "carry"), ("walk", None), ("crouch", None)), (70.0, 92.0)
    ),
    Topic(
        "teaching in a classroom",
        (("stand", "wave"), ("stand", None), ("walk", "wave"), ("stand", "clap")),
        (70.0, 84.0),
    ),
)
CLASSES = tuple(topic.name for topic in TOPICS)

_CROWDS = (0, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6)  # numbers of people, equally probable


@dataclass(frozen=True)
class VideoPlan:
    """A video: a place with people.

    Args:
        topic: index in TOPICS.
        people: from back to front.
        has_gear: for each person, whether it wears or holds what is typical of the class.
        random_key: seed for the look of everything, and the camera.
    """

    name: str
    topic: int
    people: tuple[PersonPlan, ...]
    has_gear: tuple[bool, ...]
    random_key: tuple[int, ...]


def _plan_person(rng: np.random.Generator, topic: Topic, ground: float, x: float) -> PersonPlan:
    is_typical = rng.random() < 0.75
    choices = topic.behaviors if is_typical else _IDLE
    segment = random_segment(rng, 0, SECONDS, choices[rng.integers(len(choices))])
    if topic.glides and is_typical and segment.movement == "stand":
        segment = replace(segment, speed=rng.uniform(0.5, 1.2), bend=0.35, stance=0.08)
    near = (ground - 60) / 34  # 0 to 1
    return PersonPlan(
        x=x,
        ground=ground,
        height=(26 + 30 * near) * rng.uniform(0.85, 1.1),
        faces_right=bool(rng.random() < 0.5),
        segments=(segment,),
        x_range=(4.0, 124.0),
    )


def plan_video(topic: int, number: int, key: tuple[int, ...]) -> VideoPlan:
    """Plan the video of a random key."""
    rng = np.random.default_rng([*key, 7])
    about = TOPICS[topic]
    count = _CROWDS[rng.integers(len(_CROWDS))]
    columns = rng.permutation(count)  # one person a column, so that few hide each other
    people = [
        _plan_person(
            rng, about, rng.uniform(*about.ground), 12 + 104 * (column + rng.random()) / max(count, 1)
        )
        for column in columns
    ]
    people.sort(key=lambda person: person.ground)
    gear = tuple(bool(rng.random() < 0.8) for _ in people)
    name = f"{about.name.replace(' ', '_')}_{number:03d}"
    return VideoPlan(name, topic, tuple(people), gear, key)


def plan_videos(per_class: int, seed: int, split: int) -> list[tuple[VideoPlan, int]]:
    """Plan `per_class` videos of each class; return them with the index of the class.

    Args:
        split: number of the set; sets with the same seed and another number differ.
    """
    return [
        (plan_video(topic, number, (seed, split, topic, number)), topic)
        for topic in range(len(TOPICS))
        for number in range(per_class)
    ]
