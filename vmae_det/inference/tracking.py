"""Who is who in consecutive keyframes, and where a person is between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

MIN_OVERLAP = 0.2  # IoU above which two boxes of consecutive keyframes may be one person


@dataclass(frozen=True)
class Tracks:
    """People through a video; for each row of its detections the track, from 1.

    Args:
        track: (R,).
        timestamp: (R,).
        boxes: (R, 4).
    """

    track: np.ndarray
    timestamp: np.ndarray
    boxes: np.ndarray

    def __post_init__(self) -> None:
        times = np.unique(self.timestamp)
        # A person is shown around a keyframe for half the way to the next one, and no longer than a second.
        reach = min(np.median(np.diff(times)) / 2, 1.0) if len(times) > 1 else 0.5
        object.__setattr__(self, "reach", float(reach))
        object.__setattr__(self, "rows", {t: np.flatnonzero(self.track == t) for t in np.unique(self.track)})

    def at(self, time: float) -> list[tuple[int, np.ndarray]]:
        """Who is there at a moment: the row of the nearest keyframe, and the box (4,), interpolated."""
        people = []
        for rows in self.rows.values():
            times = self.timestamp[rows]
            nearest = int(np.abs(times - time).argmin())
            if times[0] - self.reach <= time <= times[-1] + self.reach:
                box = [np.interp(time, times, self.boxes[rows, corner]) for corner in range(4)]
                people.append((int(rows[nearest]), np.array(box)))
        return people


def link(timestamp: np.ndarray, boxes: np.ndarray) -> Tracks:
    """Link the boxes (R, 4) of consecutive keyframes that overlap most, greedily; `timestamp` (R,)
    ascends."""
    track = np.zeros(len(timestamp), dtype=np.int64)
    number = 0
    previous = np.zeros(0, dtype=np.int64)
    for moment in np.unique(timestamp):
        current = np.flatnonzero(timestamp == moment)
        overlap = box_iou(torch.as_tensor(boxes[previous]), torch.as_tensor(boxes[current])).numpy()
        while overlap.size and overlap.max() > MIN_OVERLAP:
            before, now = np.unravel_index(overlap.argmax(), overlap.shape)
            track[current[now]] = track[previous[before]]
            overlap[before], overlap[:, now] = -1, -1
        for row in current[track[current] == 0]:
            number += 1
            track[row] = number
        previous = current
    return Tracks(track, timestamp, boxes)
