"""`benchmark tracking`: quality of the tracks of `Tracker` and of greedy IoU matching on annotated keyframes.

Tracks are compared with the person ids of a dataset's annotations, for the annotated boxes and for those of
the dataset's person boxes that match an annotated person (IoU 0.5). The metrics are IDF1 (Ristani et al.,
2016: F1 of boxes whose track is the one assigned to their person) and the number of identity switches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from vmae_det.data.catalog import DatasetSpec
from vmae_det.formats.ava_csv import ActionBoxes, read_action_csv
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.inference.tracking import Tracker

_MIN_IOU = 0.5  # of a person box and the annotated box that it matches


class Keyframe(NamedTuple):
    """The boxes of a keyframe: time in seconds, boxes (N, 4), scores (N,), person ids (N,) (-1: none)."""

    time: float
    boxes: np.ndarray
    scores: np.ndarray
    persons: np.ndarray


class BoxTracker(Protocol):
    """Assigns track ids to boxes, as `Tracker` does."""

    def update(self, boxes: np.ndarray, scores: np.ndarray, time: float) -> np.ndarray:
        """Return the track ids of the boxes of the next keyframe."""


class GreedyTracker:
    """Links the boxes of consecutive keyframes by descending IoU, down to an IoU of 0.2; the baseline."""

    def __init__(self) -> None:
        self.boxes, self.tracks, self.count = np.zeros((0, 4)), np.zeros(0, np.int64), 0

    def update(self, boxes: np.ndarray, scores: np.ndarray, time: float) -> np.ndarray:
        """Return the track ids of the boxes of the next keyframe."""
        tracks = np.zeros(len(boxes), np.int64)
        iou = _iou(self.boxes, boxes)
        while iou.size and iou.max() > 0.2:
            previous, current = np.unravel_index(iou.argmax(), iou.shape)
            tracks[current] = self.tracks[previous]
            iou[previous], iou[:, current] = -1, -1
        new = np.flatnonzero(tracks == 0)
        tracks[new] = self.count + 1 + np.arange(len(new))
        self.count += len(new)
        self.boxes, self.tracks = boxes, tracks
        return tracks


@dataclass(frozen=True)
class TrackingQuality:
    """Quality of a tracking method.

    Attributes:
        boxes: "annotated boxes" or "person boxes".
        method: "greedy" or "Tracker".
        idf1: IDF1 in [0, 1].
        switches: how often the track of a person changes from one keyframe to the next.
        links: number of such pairs of keyframes.
    """

    boxes: str
    method: str
    idf1: float
    switches: int
    links: int


def benchmark_tracking(spec: DatasetSpec, min_score: float) -> list[TrackingQuality]:
    """Measure both methods on a detection dataset whose annotations have person ids.

    Args:
        min_score: lowest score of a person box.
    """
    truth = read_action_csv(spec.annotations, kind="ground_truth")
    annotated = list(_annotated_keyframes(truth))
    videos_by_kind = {"annotated boxes": annotated}
    if spec.person_boxes is not None:
        videos_by_kind["person boxes"] = list(
            _detected_keyframes(annotated, truth, spec.person_boxes, min_score)
        )
    methods = {"greedy": GreedyTracker, "Tracker": Tracker}
    return [
        TrackingQuality(kind, method, *measure(videos, build_tracker))
        for kind, videos in videos_by_kind.items()
        for method, build_tracker in methods.items()
    ]


def report(results: list[TrackingQuality]) -> str:
    """Return a table."""
    lines = [f"{'boxes':18}{'method':10}{'IDF1':>6}{'switches':>10}{'links':>7}"]
    lines += [f"{r.boxes:18}{r.method:10}{r.idf1:6.3f}{r.switches:10d}{r.links:7d}" for r in results]
    return "\n".join(lines)


def to_json(results: list[TrackingQuality]) -> list[dict[str, Any]]:
    """Return the results as JSON data."""
    return [asdict(result) for result in results]


def measure(videos: list[list[Keyframe]], build_tracker: Callable[[], BoxTracker]) -> tuple[float, int, int]:
    """Return IDF1, the number of identity switches, and the number of links at which one was possible."""
    num_boxes = num_persons = switches = links = matched = 0
    for keyframes in videos:
        tracker, pairs, last_track = build_tracker(), Counter(), {}
        for time, boxes, scores, persons in keyframes:
            tracks = tracker.update(boxes, scores, time)
            num_boxes += len(boxes)
            for track, person in zip(tracks.tolist(), persons.tolist()):
                if person < 0:
                    continue
                num_persons += 1
                pairs[person, track] += 1
                links += person in last_track
                switches += last_track.get(person, track) != track
                last_track[person] = track
        matched += _best_assignment(pairs)
    return 2 * matched / (num_boxes + num_persons), switches, links


def _annotated_keyframes(truth: ActionBoxes) -> Iterator[list[Keyframe]]:
    """Yield the keyframes of each video, with each person once."""
    for number in range(len(truth.videos)):
        video_rows = truth.select((truth.video == number) & (truth.person >= 0))
        keyframes = []
        for time in np.unique(video_rows.timestamp):
            rows = video_rows.select(video_rows.timestamp == time)
            persons, first = np.unique(rows.person, return_index=True)
            keyframes.append(Keyframe(float(time), rows.boxes[first], np.ones(len(first)), persons))
        yield keyframes


def _detected_keyframes(
    annotated: list[list[Keyframe]], truth: ActionBoxes, path: str | Path, min_score: float
) -> Iterator[list[Keyframe]]:
    """Yield the same keyframes with the detected boxes, and the ids of the annotated persons they match."""
    detected = read_person_boxes(path)
    detected = detected.select(detected.score >= min_score)
    for name, keyframes in zip(truth.videos, annotated):
        result = []
        for time, true_boxes, _, true_persons in keyframes:
            boxes, scores = detected.at(str(name), time)
            iou = _iou(true_boxes, boxes)
            persons = np.full(len(boxes), -1)
            for i, j in zip(*linear_sum_assignment(iou, maximize=True)):
                if iou[i, j] >= _MIN_IOU:
                    persons[j] = true_persons[i]
            result.append(Keyframe(time, boxes, scores, persons))
        yield result


def _best_assignment(pairs: Counter) -> int:
    """Return the number of boxes with the right track under the best one-to-one assignment to persons."""
    persons, tracks = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    table = np.array([[pairs[person, track] for track in tracks] for person in persons])
    return int(table[linear_sum_assignment(table, maximize=True)].sum()) if table.size else 0


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return box_iou(torch.from_numpy(a.reshape(-1, 4)), torch.from_numpy(b.reshape(-1, 4))).numpy()
