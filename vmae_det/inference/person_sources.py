"""Sources of person boxes for keyframes: a file, the whole frame, a person detector, or the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Protocol

import numpy as np

from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.inference.keyframe_clips import ClipWithPersons, KeyframeClip
from vmae_det.utils.errors import ConfigError, DataError

BoxesAndScores = tuple[np.ndarray, np.ndarray]  # float32 (N, 4) xyxy pixels of the frame, (N,)


class FrameDetector(Protocol):
    """Detects persons in frames; `person_detectors.PersonDetector` implements it."""

    def detect(self, frames: Sequence[np.ndarray]) -> list[BoxesAndScores]:
        """Return the boxes and scores of each frame, uint8 RGB (H, W, 3)."""


class PersonSource:
    """Returns the person boxes of a keyframe.

    Attributes:
        stage: name of its work in the `Stopwatch` of a stream.
        origin: where the boxes are from, for reports; "" if they are not of people.
        threshold: config key of the lowest score of a person; "" if there is none.
    """

    stage: ClassVar[str] = "persons"
    origin: ClassVar[str] = ""
    threshold: ClassVar[str] = ""

    def keyframe_times(self) -> np.ndarray | None:
        """Return the ascending times that have boxes, in seconds on the boxes' clock; None: any time has."""
        return None

    def __call__(self, time: float, frame: np.ndarray) -> BoxesAndScores:
        """Return the person boxes of a keyframe.

        Args:
            time: seconds on the boxes' clock.
            frame: uint8 RGB (H, W, 3).

        Returns:
            boxes float32 (N, 4), xyxy pixels of the frame, and scores (N,).
        """
        raise NotImplementedError

    def batch(self, times: Sequence[float], frames: Sequence[np.ndarray]) -> list[BoxesAndScores]:
        """Return the person boxes of several keyframes."""
        return [self(time, frame) for time, frame in zip(times, frames)]

    def add_to(self, times: Sequence[float], clips: Sequence[KeyframeClip]) -> list[ClipWithPersons]:
        """Return keyframe clips with their persons, and without the images of the keyframes."""
        persons = self.batch(times, [clip.image for clip in clips])
        return [
            ClipWithPersons(replace(clip, image=None), boxes, scores)
            for clip, (boxes, scores) in zip(clips, persons)
        ]


class BoxesFromFile(PersonSource):
    """The boxes that a file has for one video; the file determines the keyframes.

    Args:
        persons: content of the file.
        video: id of the video in the file.
        min_score: boxes with a lower score are dropped.

    Raises:
        DataError: the file has no boxes for the video.
        ConfigError: no box of the video reaches `min_score`.
    """

    origin = "person boxes from a file"

    def __init__(self, persons: PersonBoxes, video: str, min_score: float = 0.0) -> None:
        of_video = np.array([str(name) == video for name in persons.videos], dtype=bool)[persons.video]
        if not of_video.any():
            known = ", ".join(str(name) for name in persons.videos[:5])
            raise DataError(f"no person boxes for the video '{video}'; the file has boxes for: {known}")
        has_box = ~np.isnan(persons.boxes).any(axis=1)
        self._rows = persons.select(of_video & (persons.score >= min_score) & has_box)
        if not len(self._rows):
            raise ConfigError(f"TEST.PERSON_BOX_SCORE: {min_score}, but no person box of {video} reaches it")
        self._video = video

    def keyframe_times(self) -> np.ndarray:
        """Return the times that have at least one box."""
        return np.unique(self._rows.timestamp)

    def __call__(self, time: float, frame: np.ndarray) -> BoxesAndScores:
        """Return the boxes that the file has for this time."""
        boxes, scores = self._rows.at(self._video, time)
        height, width = frame.shape[:2]
        return (boxes * [width, height, width, height]).astype(np.float32), scores


class WholeFramePerson(PersonSource):
    """One person box of score 1 that covers the whole frame."""

    def __call__(self, time: float, frame: np.ndarray) -> BoxesAndScores:
        """Return the box of the frame."""
        height, width = frame.shape[:2]
        return np.array([[0, 0, width, height]], dtype=np.float32), np.ones(1)


class DetectedPersons(PersonSource):
    """The boxes that a person detector predicts."""

    origin = "people found by a person detector"
    threshold = "PERSON_DETECTOR.SCORE"

    def __init__(self, detector: FrameDetector) -> None:
        self._detector = detector

    def __call__(self, time: float, frame: np.ndarray) -> BoxesAndScores:
        """Detect the persons of one frame."""
        return self.batch([time], [frame])[0]

    def batch(self, times: Sequence[float], frames: Sequence[np.ndarray]) -> list[BoxesAndScores]:
        """Detect the persons of several frames in one batch."""
        return self._detector.detect(frames)


class PersonsOfModel(PersonSource):
    """The persons that an action detector with a person head finds in the clip of a keyframe.

    Args:
        find: returns clips with their persons and the scores of these, from one pass of the model.
    """

    stage = "model"
    origin = "people found by the action detector"
    threshold = "MODEL.PERSON_HEAD.SCORE_THRESHOLD"

    def __init__(self, find: Callable[[Sequence[KeyframeClip]], list[ClipWithPersons]]) -> None:
        self._find = find

    def add_to(self, times: Sequence[float], clips: Sequence[KeyframeClip]) -> list[ClipWithPersons]:
        """Return keyframe clips with their persons, which have scores."""
        return self._find([replace(clip, image=None) for clip in clips])


# The documented names in version 0.1.
WholeFrame = WholeFramePerson
Detected = DetectedPersons
