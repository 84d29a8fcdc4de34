"""Interpolates person boxes between keyframes."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from vmae_det.inference.detections import KeyframeActions
from vmae_det.inference.stream import MAX_KEYFRAME_GAP

MAX_REACH = 1.0  # longest time in seconds for which a box is shown before and after its keyframe


class PersonAtTime(NamedTuple):
    """A person at a moment of the video.

    Attributes:
        keyframe: the nearest keyframe.
        row: row of the person in that keyframe.
        box: xyxy in [0, 1] (4,), interpolated.
    """

    keyframe: KeyframeActions
    row: int
    box: np.ndarray


class BoxInterpolator:
    """Interpolates the boxes of tracks between keyframes. A person has the actions of the nearest keyframe.

    Before the first and after the last keyframe of a track, its box is shown for half the time between
    keyframes and at most one second.

    Args:
        spacing: seconds between keyframes.
        hold: seconds for which persons are shown after the latest keyframe. Live streams use this, because
            their next keyframe may be late.
    """

    def __init__(self, spacing: float, hold: float = 0.0) -> None:
        self._reach = min(spacing / 2, MAX_REACH)
        self._hold = hold
        self._latest = -np.inf
        self._tracks: dict[int, deque[PersonAtTime]] = {}

    def add(self, keyframe: KeyframeActions) -> None:
        """Add the next keyframe."""
        self._latest = keyframe.time
        for row, (track, box) in enumerate(zip(keyframe.tracks.tolist(), keyframe.boxes)):
            self._tracks.setdefault(track, deque()).append(PersonAtTime(keyframe, row, box))

    def at(self, time: float) -> list[tuple[int, PersonAtTime]]:
        """Return the persons at a time, by track. Times must be ascending; older keyframes are dropped."""
        people = []
        for track in list(self._tracks):
            entries = self._tracks[track]
            while len(entries) > 1 and entries[1].keyframe.time <= time:
                entries.popleft()
            if entries[0].keyframe.time + MAX_KEYFRAME_GAP + self._hold < time and len(entries) == 1:
                del self._tracks[track]
            elif (person := self._interpolate(entries, time)) is not None:
                people.append((track, person))
        return people

    def _interpolate(self, entries: deque[PersonAtTime], time: float) -> PersonAtTime | None:
        first, before, after = entries[0], entries[0].keyframe.time, None
        if before <= time and len(entries) > 1:
            after = entries[1].keyframe.time
            if after - before <= MAX_KEYFRAME_GAP:
                weight = (time - before) / (after - before)
                box = first.box + weight * (entries[1].box - first.box)
                return entries[int(weight > 0.5)]._replace(box=box)
        reach = max(self._reach, self._hold) if before == self._latest else self._reach
        if before - self._reach <= time <= before + reach:
            return first
        if after is not None and after - self._reach <= time:
            return entries[1]
        return None
