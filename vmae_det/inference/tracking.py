"""Who is who from keyframe to keyframe, and scores that do not flicker."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from vmae_det.formats.keyframes import rows_by_value

# Rounds of matching: how far boxes are widened, in their own widths and heights on each side, and the IoU of
# two widened boxes from which on they may be one person. Near pairs are made first, as in C-BIoU (Yang et
# al., WACV 2023); its second buffer is smaller, for videos of many frames a second.
_ROUNDS = ((0.3, 0.1), (1.2, 0.05))
_MEMORY = 3.0  # seconds for which a person who is not seen is remembered
_COASTING = 1.0  # seconds: time constant with which a movement, once it is not seen, is taken to fade
_STEADINESS = 0.5  # seconds: time constant with which a track's velocity follows what is seen


@dataclass
class _Track:
    number: int
    box: np.ndarray  # (4,)
    time: float
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # of the centre, pixels a second

    def box_at(self, time: float) -> np.ndarray:
        """Where the box (4,) is expected."""
        way = self.velocity * _COASTING * (1 - np.exp((self.time - time) / _COASTING))
        return self.box + np.tile(way, 2)

    def see(self, box: np.ndarray, time: float) -> None:
        """Take in where the person is now."""
        elapsed = max(time - self.time, 1e-6)
        velocity = (box - self.box).reshape(2, 2).mean(axis=0) / elapsed
        self.velocity += (1 - np.exp(-elapsed / _STEADINESS)) * (velocity - self.velocity)
        self.box, self.time = box, time


class Tracker:
    """Gives boxes of one video, keyframe by keyframe, the numbers of the people they show, from 1.

    A person moves far between keyframes, often by more than a body's width, so boxes are carried on by their
    track's velocity, widened, and matched by IoU such that the sum over all pairs is largest.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._count = 0

    def update(self, boxes: np.ndarray, scores: np.ndarray, time: float) -> np.ndarray:
        """The tracks of the boxes of one keyframe, int64 (N,); every box gets one, no two the same.

        Args:
            boxes: xyxy, (N, 4), in any unit that stays the same.
            scores: (N,); of two boxes that fit a track as well, it goes on with the one of higher score.
            time: seconds, later than at the call before.
        """
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(scores, dtype=np.float64)
        self._tracks = [track for track in self._tracks if time - track.time <= _MEMORY]
        expected = np.array([track.box_at(time) for track in self._tracks]).reshape(-1, 4)
        numbers = np.zeros(len(boxes), dtype=np.int64)
        free = np.arange(len(self._tracks))
        for buffer, least in _ROUNDS:
            left = np.flatnonzero(numbers == 0)
            pairs = _best_pairs(expected[free], boxes[left], scores[left], buffer, least)
            for i, j in pairs:
                track = self._tracks[free[i]]
                track.see(boxes[left[j]], time)
                numbers[left[j]] = track.number
            free = np.delete(free, [i for i, _ in pairs])
        for row in np.flatnonzero(numbers == 0):
            self._count += 1
            numbers[row] = self._count
            self._tracks.append(_Track(self._count, boxes[row], time))
        return numbers


def _best_pairs(
    expected: np.ndarray, boxes: np.ndarray, scores: np.ndarray, buffer: float, least: float
) -> list[tuple[int, int]]:
    """Pairs of one expected box (M, 4) and one box (N, 4) whose IoU, once widened, is `least` or more."""
    overlap = box_iou(torch.from_numpy(_widen(expected, buffer)), torch.from_numpy(_widen(boxes, buffer)))
    value = np.where(overlap.numpy() >= least, overlap.numpy() * np.maximum(scores, 1e-3), 0.0)
    rows, columns = linear_sum_assignment(value, maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns) if value[i, j] > 0]


def _widen(boxes: np.ndarray, buffer: float) -> np.ndarray:
    margin = buffer * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)


def link(timestamp: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The tracks, int64 (R,) from 1, of the boxes (R, 4) of one video; `timestamp` (R,) ascends."""
    tracker, track = Tracker(), np.zeros(len(timestamp), dtype=np.int64)
    for moment, rows in zip(*rows_by_value(timestamp)):
        track[rows] = tracker.update(boxes[rows], np.ones(len(rows)), float(moment))
    return track


class ScoreSmoother:
    """Averages the action scores of each person over the keyframes around each moment, as they come.

    A keyframe `d` seconds away has the weight 1 - d / window. Keyframes come out, in order, as soon as no
    later one within `look_ahead` can be missing.

    Args:
        window: seconds; 0 changes nothing.
        look_ahead: seconds for which a keyframe waits for later ones; 0: only the past counts.
    """

    def __init__(self, window: float = 2.0, look_ahead: float = 1.0) -> None:
        self.window = window
        self.look_ahead = min(look_ahead, window)
        self._seen: deque[tuple[float, np.ndarray, np.ndarray]] = deque()
        self._waiting = 0  # how many of the last ones seen have not come out

    def add(
        self, time: float, tracks: np.ndarray, scores: np.ndarray
    ) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Take in a keyframe: `tracks` (N,), `scores` (N, classes); gives those that are ready.

        Args:
            time: seconds, later than at the call before.
        """
        self._seen.append((time, np.asarray(tracks), np.asarray(scores)))
        self._waiting += 1
        ready = []
        # Written as differences, which is how `_smoothed` judges the same two times.
        while self._waiting and time - self._seen[-self._waiting][0] >= self.look_ahead:
            ready.append(self._smoothed(len(self._seen) - self._waiting))
            self._waiting -= 1
        oldest_needed = self._seen[-self._waiting][0] if self._waiting else time
        while oldest_needed - self._seen[0][0] > self.window:
            self._seen.popleft()
        return ready

    def flush(self) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """The keyframes that still wait, at the end of the video."""
        ready = [self._smoothed(i) for i in range(len(self._seen) - self._waiting, len(self._seen))]
        self._waiting = 0
        return ready

    def _smoothed(self, index: int) -> tuple[float, np.ndarray, np.ndarray]:
        time, tracks, scores = self._seen[index]
        total, weights = scores.astype(np.float64), np.ones(len(tracks))
        for other, other_tracks, other_scores in self._seen:
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
    """Scores (R, classes) of one video averaged along its tracks (R,), as ScoreSmoother does.

    Args:
        timestamp: seconds, (R,), in any order.
    """
    smoother, smoothed = ScoreSmoother(window, look_ahead), scores.copy()
    moments, rows = rows_by_value(timestamp)
    ready = []
    for moment, own in zip(moments, rows):
        ready += smoother.add(float(moment), tracks[own], scores[own])
    for own, (_, _, values) in zip(rows, ready + smoother.flush()):
        smoothed[own] = values
    return smoothed
