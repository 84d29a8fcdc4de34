"""Who is in a keyframe: boxes that a file gives, the whole frame, or what a person detector finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.utils.errors import ConfigError, DataError

People = tuple[np.ndarray, np.ndarray]


class PersonDetector(Protocol):
    """A network that finds people."""

    def detect(self, frames: Sequence[np.ndarray]) -> list[People]:
        """For each frame, uint8 RGB (H, W, 3), boxes float32 (N, 4) xyxy pixels and scores (N,)."""


class PersonSource:
    """Says who is in a keyframe."""

    def keyframe_times(self) -> np.ndarray | None:
        """Seconds on the boxes' clock, ascending, at which it has people; None: whenever it is asked."""
        return None

    def __call__(self, time: float, frame: np.ndarray) -> People:
        """The people of a keyframe.

        Args:
            time: seconds on the boxes' clock.
            frame: uint8 RGB (H, W, 3).

        Returns:
            boxes float32 (N, 4), xyxy pixels of the frame, and scores (N,).
        """
        raise NotImplementedError

    def at(self, times: Sequence[float], frames: Sequence[np.ndarray]) -> list[People]:
        """The same for several keyframes at once."""
        return [self(time, frame) for time, frame in zip(times, frames)]


class GivenBoxes(PersonSource):
    """The boxes of a file for one video; the file says at which times.

    Args:
        video: the video's id in the file.
        min_score: boxes below it are left out.

    Raises:
        DataError: the file has no boxes for the video.
        ConfigError: none of them has the score.
    """

    def __init__(self, persons: PersonBoxes, video: str, min_score: float = 0.0) -> None:
        own = np.array([str(name) == video for name in persons.videos], dtype=bool)[persons.video]
        if not own.any():
            known = ", ".join(str(name) for name in persons.videos[:5])
            raise DataError(f"no person boxes for the video '{video}'; they are for: {known}")
        self._rows = persons.select(own & (persons.score >= min_score) & ~np.isnan(persons.boxes).any(axis=1))
        if not len(self._rows):
            raise ConfigError(f"TEST.PERSON_BOX_SCORE: {min_score}, but no person box of {video} reaches it")
        self._video = video

    def keyframe_times(self) -> np.ndarray:
        """The keyframes that have a box."""
        return np.unique(self._rows.timestamp)

    def __call__(self, time: float, frame: np.ndarray) -> People:
        """The boxes that the file gives for this moment."""
        boxes, scores = self._rows.at(self._video, time)
        height, width = frame.shape[:2]
        return (boxes * [width, height, width, height]).astype(np.float32), scores


class WholeFrame(PersonSource):
    """One person, as large as the frame, of score 1."""

    def __call__(self, time: float, frame: np.ndarray) -> People:
        """The frame's own border."""
        height, width = frame.shape[:2]
        return np.array([[0, 0, width, height]], dtype=np.float32), np.ones(1)


class Detected(PersonSource):
    """What a person detector finds."""

    def __init__(self, detector: PersonDetector) -> None:
        self._detector = detector

    def __call__(self, time: float, frame: np.ndarray) -> People:
        """The people of one frame."""
        return self.at([time], [frame])[0]

    def at(self, times: Sequence[float], frames: Sequence[np.ndarray]) -> list[People]:
        """The people of several frames, found at once."""
        return self._detector.detect(frames)
