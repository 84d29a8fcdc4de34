"""The results of inference: the actions of persons at one keyframe, and at all keyframes of a video."""

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
from vmae_det.utils.errors import DataError


@dataclass(frozen=True)
class KeyframeActions:
    """The actions of the N persons of one keyframe; N may be 0.

    Attributes:
        time: seconds from the video's first frame.
        timestamp: seconds on the clock of the person boxes.
        boxes: (N, 4), xyxy in [0, 1] of the frame.
        person_scores: (N,), scores of the person detector.
        scores: (N, classes), columns in the order of the label map.
        tracks: (N,), track ids, starting at 1.
        latency: seconds from the capture of the keyframe to its scores; None unless the source is live.
        heat_maps: (N, h, w) in [0, 1] over the frame: which regions raise the score of a person's best class
            (see `ActionPredictor.explain`); None if not requested.
    """

    time: float
    timestamp: float
    boxes: np.ndarray
    person_scores: np.ndarray
    scores: np.ndarray
    tracks: np.ndarray
    latency: float | None = None
    heat_maps: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def to_rows(self, video: str, label_map: LabelMap) -> ActionBoxes:
        """Convert to rows of AVA's CSV, one per person and action."""
        return ActionBoxes.from_scores(
            np.array([video], dtype=object),
            np.zeros(len(self), dtype=np.int32),
            np.full(len(self), self.timestamp),
            self.boxes,
            self.scores,
            label_map,
        )

    def to_json(self, label_map: LabelMap) -> dict[str, Any]:
        """Convert to JSON data; the actions of a person are sorted by descending score."""
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
    """Return id, name and score of the actions that reach a threshold, by descending score.

    Args:
        scores: (classes,).
    """
    return [
        {"id": label_map.ids[c], "name": label_map.names[c], "score": round(float(scores[c]), 6)}
        for c in np.argsort(-scores, kind="stable")
        if scores[c] >= threshold
    ]


@dataclass(frozen=True)
class ActionDetections:
    """The actions of persons at the keyframes of a video, as a table with one row per person and keyframe.

    Args:
        video: path of the file.
        video_start: second on the clock of `timestamp` at which the file starts.
        timestamp: (R,), seconds, ascending.
        boxes: (R, 4), xyxy in [0, 1] of the frame.
        person_scores: (R,), scores of the person detector.
        scores: (R, classes), columns in the order of the label map.
        tracks: (R,), track ids, starting at 1; None: link the boxes of consecutive keyframes.
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
        """Concatenate the keyframes of a video."""

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

    @classmethod
    def from_rows(
        cls, rows: ActionBoxes, video: str | Path, label_map: LabelMap, video_start: float = 0.0
    ) -> ActionDetections:
        """Convert from rows of AVA's CSV: those whose video id is the file name without suffix.

        Rows with the same keyframe and box are one person. An action without a row gets the score 0. The
        person scores are not in the file and become NaN.

        Args:
            rows: with action ids of the label map only.
            video: path of the video's file.
            video_start: second on the rows' clock at which the file starts.

        Raises:
            DataError: there is no row for this video.
        """
        path = Path(video)
        of_video = np.array([str(name) == path.stem for name in rows.videos], dtype=bool)
        if not of_video.any():
            known = ", ".join(str(name) for name in rows.videos[:5])
            raise DataError(f"no detections for the video '{path.stem}'; the file has: {known}", path)
        rows = rows.select(of_video[rows.video] & (rows.action >= 0))
        keys = np.column_stack([rows.timestamp, rows.boxes])
        persons, person = np.unique(keys, axis=0, return_inverse=True)
        scores = np.zeros((len(persons), len(label_map)), dtype=np.float32)
        np.maximum.at(scores, (person.reshape(-1), label_map.columns(rows.action)), rows.score)
        return cls(
            video=path,
            video_start=video_start,
            timestamp=persons[:, 0],
            boxes=persons[:, 1:],
            person_scores=np.full(len(persons), np.nan),
            scores=scores,
            label_map=label_map,
        )

    def keyframes(self) -> Iterator[KeyframeActions]:
        """Yield the keyframes that have persons."""
        for timestamp, rows in zip(*rows_by_value(self.timestamp)):
            yield KeyframeActions(
                time=float(timestamp) - self.video_start,
                timestamp=float(timestamp),
                boxes=self.boxes[rows],
                person_scores=self.person_scores[rows],
                scores=self.scores[rows],
                tracks=self.tracks[rows],
            )

    def to_rows(self) -> ActionBoxes:
        """Convert to rows of AVA's CSV, one per person, keyframe and action."""
        video = np.zeros(len(self), dtype=np.int32)
        names = np.array([self.video.stem], dtype=object)
        return ActionBoxes.from_scores(names, video, self.timestamp, self.boxes, self.scores, self.label_map)

    def to_json(self, threshold: float = 0.0) -> dict[str, Any]:
        """Convert to JSON data, with the actions that reach the threshold, by descending score."""
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
