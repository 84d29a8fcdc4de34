"""Who is where at a moment between keyframes, for as long as it matters."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from vmae_det.inference.detections import KeyframeActions
from vmae_det.inference.stream import MAX_KEYFRAME_GAP

_LONGEST_REACH = 1.0  # seconds


class Sighting(NamedTuple):
    """A person at a keyframe: the row there, and the box (4,), xyxy in [0, 1]."""

    keyframe: KeyframeActions
    row: int
    box: np.ndarray


class PeopleOverTime:
    """Boxes between keyframes, interpolated; a person keeps the actions of the nearest keyframe.

    Before the first and after the last keyframe of a person, the box is shown for half the way to the next
    keyframe, and no longer than a second.

    Args:
        spacing: seconds between keyframes.
        hold: seconds for which a person is shown after the newest keyframe, as of a live stream, where the
            next one is late.
    """

    def __init__(self, spacing: float, hold: float = 0.0) -> None:
        self._reach = min(spacing / 2, _LONGEST_REACH)
        self._hold = hold
        self._newest = -np.inf
        self._tracks: dict[int, deque[Sighting]] = {}

    def add(self, keyframe: KeyframeActions) -> None:
        """The next keyframe."""
        self._newest = keyframe.time
        for row, (track, box) in enumerate(zip(keyframe.tracks.tolist(), keyframe.boxes)):
            self._tracks.setdefault(track, deque()).append(Sighting(keyframe, row, box))

    def at(self, time: float) -> list[tuple[int, Sighting]]:
        """Who is there at a moment: track, and the nearest keyframe's row with the box of this moment.

        Moments ascend: what earlier ones alone would need is forgotten.
        """
        people = []
        for track in list(self._tracks):
            sightings = self._tracks[track]
            while len(sightings) > 1 and sightings[1].keyframe.time <= time:
                sightings.popleft()
            if sightings[0].keyframe.time + MAX_KEYFRAME_GAP + self._hold < time and len(sightings) == 1:
                del self._tracks[track]
            elif (person := self._between(sightings, time)) is not None:
                people.append((track, person))
        return people

    def _between(self, sightings: deque[Sighting], time: float) -> Sighting | None:
        first, before, after = sightings[0], sightings[0].keyframe.time, None
        if before <= time and len(sightings) > 1:
            after = sightings[1].keyframe.time
            if after - before <= MAX_KEYFRAME_GAP:
                share = (time - before) / (after - before)
                box = first.box + share * (sightings[1].box - first.box)
                return sightings[int(share > 0.5)]._replace(box=box)
        reach = max(self._reach, self._hold) if before == self._newest else self._reach
        if before - self._reach <= time <= before + reach:
            return first
        if after is not None and after - self._reach <= time:
            return sightings[1]
        return None
