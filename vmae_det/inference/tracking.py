"""Links person boxes to tracks across keyframes, and smooths action scores along the tracks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from vmae_det.formats.keyframes import rows_by_value

# Matching rounds: (margin added on each side of a box, as a fraction of its width and height; lowest IoU of
# two widened boxes at which they match). Close pairs are matched first, as in C-BIoU (Yang et al., WACV
# 2023). Its second buffer is smaller because it is meant for videos with many frames per second.
_ROUNDS = ((0.3, 0.1), (1.2, 0.05))
_MAX_AGE = 3.0  # seconds for which a track without boxes is kept
_MOTION_DECAY = 1.0  # seconds: time constant with which the predicted motion of an unmatched track decays
_VELOCITY_SMOOTHING = 0.5  # seconds: time constant of the moving average of a track's velocity


@dataclass
class _Track:
    number: int
    box: np.ndarray  # (4,)
    time: float
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # of the center, pixels per second

    def predict(self, time: float) -> np.ndarray:
        """Return the expected box (4,) at a time."""
        shift = self.velocity * _MOTION_DECAY * (1 - np.exp((self.time - time) / _MOTION_DECAY))
        return self.box + np.tile(shift, 2)

    def update(self, box: np.ndarray, time: float) -> None:
        """Set the box at a time and update the velocity."""
        elapsed = max(time - self.time, 1e-6)
        velocity = (box - self.box).reshape(2, 2).mean(axis=0) / elapsed
        self.velocity += (1 - np.exp(-elapsed / _VELOCITY_SMOOTHING)) * (velocity - self.velocity)
        self.box, self.time = box, time


class Tracker:
    """Assigns track ids, starting at 1, to the boxes of one video, keyframe by keyframe.

    A person moves far between keyframes, often by more than the width of a body. Boxes are therefore moved by
    their track's velocity, widened, and matched by IoU so that the sum over all pairs is largest.

    Args:
        max_age: seconds for which a track without boxes is kept.
    """

    def __init__(self, max_age: float = _MAX_AGE) -> None:
        self._max_age = max_age
        self._tracks: list[_Track] = []
        self._count = 0

    def update(self, boxes: np.ndarray, scores: np.ndarray, time: float) -> np.ndarray:
        """Return the track ids of the boxes of one keyframe, int64 (N,). Ids are unique within a keyframe.

        Args:
            boxes: (N, 4), xyxy, in the same unit in every call.
            scores: (N,); if two boxes fit a track equally well, the one with the higher score continues it.
            time: seconds, later than in the previous call.
        """
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(scores, dtype=np.float64)
        self._tracks = [track for track in self._tracks if time - track.time <= self._max_age]
        expected = np.array([track.predict(time) for track in self._tracks]).reshape(-1, 4)
        numbers = np.zeros(len(boxes), dtype=np.int64)
        unmatched_tracks = np.arange(len(self._tracks))
        for margin, min_iou in _ROUNDS:
            unmatched = np.flatnonzero(numbers == 0)
            pairs = _match(expected[unmatched_tracks], boxes[unmatched], scores[unmatched], margin, min_iou)
            for i, j in pairs:
                track = self._tracks[unmatched_tracks[i]]
                track.update(boxes[unmatched[j]], time)
                numbers[unmatched[j]] = track.number
            unmatched_tracks = np.delete(unmatched_tracks, [i for i, _ in pairs])
        for row in np.flatnonzero(numbers == 0):
            self._count += 1
            numbers[row] = self._count
            self._tracks.append(_Track(self._count, boxes[row], time))
        return numbers


def _match(
    expected: np.ndarray, boxes: np.ndarray, scores: np.ndarray, margin: float, min_iou: float
) -> list[tuple[int, int]]:
    """Match expected boxes (M, 4) to boxes (N, 4) whose IoU, once both are widened, is at least `min_iou`."""
    iou = box_iou(torch.from_numpy(_widen(expected, margin)), torch.from_numpy(_widen(boxes, margin))).numpy()
    value = np.where(iou >= min_iou, iou * np.maximum(scores, 1e-3), 0.0)
    rows, columns = linear_sum_assignment(value, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns) if value[i, j] > 0]


def _widen(boxes: np.ndarray, margin: float) -> np.ndarray:
    pixels = margin * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - pixels, boxes[:, 2:] + pixels], axis=1)


def link(timestamp: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the track ids, int64 (R,), of the boxes (R, 4) of one video; `timestamp` (R,) is ascending."""
    tracker, track = Tracker(), np.zeros(len(timestamp), dtype=np.int64)
    for time, rows in zip(*rows_by_value(timestamp)):
        track[rows] = tracker.update(boxes[rows], np.ones(len(rows)), float(time))
    return track


class ScoreSmoother:
    """Averages the action scores of each track over the neighboring keyframes, online.

    A keyframe `d` seconds away has the weight 1 - d / window. Keyframes are returned in order, as soon as all
    later ones within `look_ahead` have been added.

    Args:
        window: seconds; 0 disables smoothing.
        look_ahead: seconds that a keyframe waits for later ones; 0: average over past keyframes only.
    """

    def __init__(self, window: float = 2.0, look_ahead: float = 1.0) -> None:
        self.window = window
        self.look_ahead = min(look_ahead, window)
        self._keyframes: deque[tuple[float, np.ndarray, np.ndarray]] = deque()
        self._waiting = 0  # the last `_waiting` keyframes have not been returned yet

    def add(
        self, time: float, tracks: np.ndarray, scores: np.ndarray
    ) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Add a keyframe and return those that are ready, as (time, tracks, smoothed scores).

        Args:
            time: seconds, later than in the previous call.
            tracks: (N,).
            scores: (N, classes).
        """
        self._keyframes.append((time, np.asarray(tracks), np.asarray(scores)))
        self._waiting += 1
        ready = []
        # `_smoothed` compares the same differences; rearranged, rounding could change the result.
        while self._waiting and time - self._keyframes[-self._waiting][0] >= self.look_ahead:
            ready.append(self._smoothed(len(self._keyframes) - self._waiting))
            self._waiting -= 1
        oldest_needed = self._keyframes[-self._waiting][0] if self._waiting else time
        while oldest_needed - self._keyframes[0][0] > self.window:
            self._keyframes.popleft()
        return ready

    def flush(self) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Return the waiting keyframes, at the end of the video."""
        first = len(self._keyframes) - self._waiting
        ready = [self._smoothed(i) for i in range(first, len(self._keyframes))]
        self._waiting = 0
        return ready

    def _smoothed(self, index: int) -> tuple[float, np.ndarray, np.ndarray]:
        time, tracks, scores = self._keyframes[index]
        total, weights = scores.astype(np.float64), np.ones(len(tracks))
        for other, other_tracks, other_scores in self._keyframes:
            weight = 1 - abs(other - time) / self.window if self.window else 0.0
            if other == time or weight <= 0 or other - time > self.look_ahead:
                continue
            rows, other_rows = np.nonzero(tracks[:, None] == other_tracks[None])
            total[rows] += weight * other_scores[other_rows]
            weights[rows] += weight
        return time, tracks, (total / weights[:, None]).astype(scores.dtype)


def smooth_scores(
    tracks: np.ndarray,
    timestamp: np.ndarray,
    scores: np.ndarray,
    window: float = 2.0,
    look_ahead: float = 1.0,
) -> np.ndarray:
    """Return the scores (R, classes) of one video averaged along its tracks (R,) by a ScoreSmoother.

    Args:
        timestamp: (R,), seconds, in any order.
    """
    smoother, smoothed = ScoreSmoother(window, look_ahead), scores.copy()
    times, rows_of_times = rows_by_value(timestamp)
    ready = []
    for time, rows in zip(times, rows_of_times):
        ready += smoother.add(float(time), tracks[rows], scores[rows])
    for rows, (_, _, values) in zip(rows_of_times, ready + smoother.flush()):
        smoothed[rows] = values
    return smoothed
