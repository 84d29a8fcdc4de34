"""Which keyframe to annotate next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

Place = tuple[str, int]  # video and time in milliseconds


def next_unseen(
    videos: Sequence[str],
    keyframes: Callable[[str], Sequence[int]],
    looked: Callable[[str], Collection[int]],
    after: Place | None,
) -> Place | None:
    """Return the first keyframe after a place that nobody has looked at, around to the place itself.

    Args:
        videos: in order.
        keyframes: returns the keyframes of a video, ascending.
        looked: returns those that somebody has looked at.
    """
    first = videos.index(after[0]) if after is not None and after[0] in videos else 0
    rest = [*videos[first:], *videos[:first]]
    for number, video in enumerate([*rest, *rest[:1]]):
        seen = looked(video)
        for time in keyframes(video):
            is_after = number > 0 or after is None or video != after[0] or time > after[1]
            if is_after and time not in seen:
                return video, time
    return None


def next_uncertain(
    uncertainties: Mapping[Place, float], looked: Callable[[str], Collection[int]], after: Place | None
) -> Place | None:
    """Return the keyframe of which a detector is least certain, or of `after` in this order the next one.

    Args:
        uncertainties: of all keyframes with scores.
    """
    seen = {video: looked(video) for video, _ in uncertainties}
    places = sorted(uncertainties, key=lambda place: (-uncertainties[place], place))
    places = [place for place in places if place[1] not in seen[place[0]] or place == after]
    position = places.index(after) + 1 if after in places else 0
    following = [place for place in [*places[position:], *places[:position]] if place != after]
    return following[0] if following else None


def uncertainty(scores: np.ndarray) -> float:
    """Return the entropy of independent classes in nats: 0 if each score is 0 or 1, most if each is 0.5.

    Args:
        scores: (classes,) in [0, 1].
    """
    p = np.clip(np.asarray(scores, dtype=np.float64), 1e-6, 1 - 1e-6)
    return float(-(p * np.log(p) + (1 - p) * np.log1p(-p)).sum())
