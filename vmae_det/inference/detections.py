"""What the people of a video do: of one keyframe, and of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.keyframes import rows_by_value
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.tracking import link


@dataclass(frozen=True)
class KeyframeActions:
    """What the N people of one keyframe do; N may be 0.

    Attributes:
        time: seconds from the video's first frame on.
        timestamp: seconds on the clock of the person boxes.
        boxes: xyxy in [0, 1] of the frame, (N, 4).
        person_scores: of the person detector, (N,).
        scores: (N, classes), columns in the order of the label map.
        tracks: who is who, numbers from 1 on, (N,).
        latency: of a live stream, seconds from the keyframe's coming in to its scores.
    """

    time: float
    timestamp: float
    boxes: np.ndarray
    person_scores: np.ndarray
    scores: np.ndarray
    tracks: np.ndarray
    latency: float | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def to_rows(self, video: str, label_map: LabelMap) -> ActionBoxes:
        """The same as rows of AVA's CSV, one for each person and action."""
        return ActionBoxes.from_scores(
            np.array([video], dtype=object),
            np.zeros(len(self), dtype=np.int32),
            np.full(len(self), self.timestamp),
            self.boxes,
            self.scores,
            label_map,
        )

    def to_json(self, label_map: LabelMap) -> dict[str, Any]:
        """The same as plain data; a person's actions by falling score."""
        people = [
            {
                "track": int(track),
                "box": [round(float(value), 4) for value in box],
                "person_score": round(float(person_score), 4),
                "actions": actions_by_score(scores, label_map),
            }
            for track, box, person_score, scores in zip(
                self.tracks, self.boxes, self.person_scores, self.scores
            )
        ]
        return {"timestamp": round(self.timestamp, 6), "people": people}


def actions_by_score(scores: np.ndarray, label_map: LabelMap, threshold: float = 0.0) -> list[dict[str, Any]]:
    """Id, name and score of the actions that reach a threshold, the best first; `scores` (classes,)."""
    return [
        {"id": label_map.ids[c], "name": label_map.names[c], "score": round(float(scores[c]), 6)}
        for c in np.argsort(-scores, kind="stable")
        if scores[c] >= threshold
    ]


@dataclass(frozen=True)
class ActionDetections:
    """What the people of a video do at its keyframes; R rows, a row for each person and keyframe.

    Args:
        video: the file.
        video_start: second of the clock of `timestamp` at which the file starts.
        timestamp: seconds, (R,), ascending.
        boxes: xyxy in [0, 1] of the frame, (R, 4).
        person_scores: of the person detector, (R,).
        scores: (R, classes), columns in the order of the label map.
        tracks: who is who, numbers from 1 on, (R,); None links the boxes of consecutive keyframes.
    """

    video: Path
    video_start: float
    timestamp: np.ndarray
    boxes: np.ndarray
    person_scores: np.ndarray
    scores: np.ndarray
    label_map: LabelMap
    tracks: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.tracks is None:
            object.__setattr__(self, "tracks", link(self.timestamp, self.boxes))

    def __len__(self) -> int:
        return len(self.timestamp)

    @classmethod
    def collect(
        cls, video: Path, video_start: float, keyframes: Sequence[KeyframeActions], label_map: LabelMap
    ) -> ActionDetections:
        """The keyframes of a video as one table."""

        def column(name: str, *shape: int) -> np.ndarray:
            return np.concatenate([np.zeros((0, *shape)), *(getattr(k, name) for k in keyframes)])

        return cls(
            video=video,
            video_start=video_start,
            timestamp=np.repeat([k.timestamp for k in keyframes], [len(k) for k in keyframes]),
            boxes=column("boxes", 4),
            person_scores=column("person_scores"),
            scores=column("scores", len(label_map)),
            label_map=label_map,
            tracks=column("tracks").astype(np.int64),
        )

    def keyframes(self) -> Iterator[KeyframeActions]:
        """The same, one keyframe with people at a time."""
        for moment, rows in zip(*rows_by_value(self.timestamp)):
            yield KeyframeActions(
                time=float(moment) - self.video_start,
                timestamp=float(moment),
                boxes=self.boxes[rows],
                person_scores=self.person_scores[rows],
                scores=self.scores[rows],
                tracks=self.tracks[rows],
            )

    def to_rows(self) -> ActionBoxes:
        """The same as rows of AVA's CSV, one for each person, keyframe and action."""
        video = np.zeros(len(self), dtype=np.int32)
        names = np.array([self.video.stem], dtype=object)
        return ActionBoxes.from_scores(names, video, self.timestamp, self.boxes, self.scores, self.label_map)

    def to_json(self, threshold: float = 0.0) -> dict[str, Any]:
        """The same as plain data; actions by falling score, those that reach the threshold."""
        people = [
            {
                "timestamp": timestamp,
                "box": [round(value, 4) for value in box],
                "person_score": round(person_score, 4),
                "actions": actions_by_score(scores, self.label_map, threshold),
            }
            for timestamp, box, person_score, scores in zip(
                self.timestamp.tolist(), self.boxes.tolist(), self.person_scores.tolist(), self.scores
            )
        ]
        return {"video": self.video.name, "video_start": self.video_start, "people": people}
